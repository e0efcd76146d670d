"""Keep training from moving a model's weights into a direction that you named by examples.

A few dozen contrastive pairs become a `HackDirection`, a small subspace of each weight's gradient space; a
`ProjectedOptimizer` wraps any torch optimizer and keeps its updates out of it.
"""

from svdproj._version import __version__
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
