"""Keep training from moving a model's weights into a direction that you named by examples.

A few dozen contrastive pairs become a `HackDirection`, a small subspace of each weight's gradient space; a
`ProjectedOptimizer` wraps any torch optimizer and keeps its updates out of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from svdproj._version import __version__

if TYPE_CHECKING:
    from svdproj.charts import BilinearChart, Chart, DenseChart, DiagonalChart
    from svdproj.coverage import Coverage
    from svdproj.direction import HackDirection
    from svdproj.hooks import Attached, attach
    from svdproj.metadata import DirectionMetadata, Energy
    from svdproj.optimizer import ProjectedOptimizer
    from svdproj.pairs import ContrastivePair
    from svdproj.scoring import Scores
    from svdproj.subspace import Subspace
    from svdproj.validation import Validation

__all__ = [
    "Attached",
    "BilinearChart",
    "Chart",
    "ContrastivePair",
    "Coverage",
    "DenseChart",
    "DiagonalChart",
    "DirectionMetadata",
    "Energy",
    "HackDirection",
    "ProjectedOptimizer",
    "Scores",
    "Subspace",
    "Validation",
    "__version__",
    "attach",
]

# Imported at first use, so that help and mistakes on the command line do not wait seconds for torch.
_HOMES = {
    "charts": ("BilinearChart", "Chart", "DenseChart", "DiagonalChart"),
    "coverage": ("Coverage",),
    "direction": ("HackDirection",),
    "hooks": ("Attached", "attach"),
    "metadata": ("DirectionMetadata", "Energy"),
    "optimizer": ("ProjectedOptimizer",),
    "pairs": ("ContrastivePair",),
    "scoring": ("Scores",),
    "subspace": ("Subspace",),
    "validation": ("Validation",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"svdproj.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'svdproj' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
