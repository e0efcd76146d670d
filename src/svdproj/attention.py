"""Attention kernels whose gradients can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Keep cuDNN's fused attention out of the block; another kernel takes its place, and afterwards all is as it was.

    From torch 2.11 on it is the default for half precision on Hopper GPUs. Its backward pass gives NaN under a mask for some lengths:
    those of 64 tokens more than a multiple of 128, where the attention logits are strongly negative
    (https://github.com/pytorch/pytorch/issues/196678). The forward pass is right, so that nothing shows before the weights are NaN too.
    """
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)
