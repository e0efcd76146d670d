"""The choices of the SVD adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig
from peft.utils.peft_types import PeftType

METHOD = "SVDSCALE"


@dataclass
class SVDScaleConfig(PeftConfig):
    """One trainable number for each singular direction of a weight: `ΔW = U diag(s + s_quarantine) Vᵀ`.

    `U` and `V` are the frozen singular vectors of the base weight. A fresh adapter is exactly the base model. For
    `get_peft_model(model, SVDScaleConfig())` and the `peft_config=` of TRL's trainers; importing `svdproj.adapters` is what
    makes PEFT know it, also for loading a saved adapter. Akin to SVFT (arXiv:2405.19597) with a diagonal of full rank.

    Args:
        target_modules: names of linear layers (suffixes), a regular expression, or `"all-linear"`: all but the output head.
        exclude_modules: names or a regular expression of layers to leave alone.
        rank: so many of the largest singular directions; None for all of them.
        quarantine: a second, equally long vector, which no gradient reaches. `ProjectedOptimizer(mode="route")` moves it,
            `ablated(model)` switches it off.
        modules_to_save: further modules to train and save whole.

    Raises:
        ValueError: a rank below 1.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(base, SVDScaleConfig(rank=8, quarantine=True))  # base: any causal language model
        >>> sorted({name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad})
        ['svdscale_quarantine', 'svdscale_s']
    """

    target_modules: Any = field(default="all-linear", metadata={"help": "Linear layers to adapt."})
    exclude_modules: Any = field(default=None, metadata={"help": "Layers to leave alone."})
    rank: int | None = field(default=None, metadata={"help": "Number of leading singular directions; None for all."})
    quarantine: bool = field(default=False, metadata={"help": "Whether each layer has a quarantine beside its scales."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules to train and save whole."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(METHOD)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list | tuple):
                setattr(self, name, set(value))
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}; None trains all singular directions")
