"""The SVD adapter as a PEFT method, its quarantine, and directions carried from weights to adapters.

Importing this registers the method with PEFT, so do it before an adapter is loaded.
"""

try:
    import peft as _peft  # noqa: F401 (its absence is what is tested)
    import transformers as _transformers  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"svdproj.adapters needs {error.name}; run: pip install 'svdproj[peft]'", name=error.name
    ) from None

from svdproj.adapters._register import register as _register
from svdproj.adapters.config import SVDScaleConfig
from svdproj.adapters.frames import pull_back
from svdproj.adapters.quarantine import ablated, drop_quarantine, quarantine_of, seed_quarantine
from svdproj.adapters.singular import cache_folder

_register()

__all__ = [
    "SVDScaleConfig",
    "ablated",
    "cache_folder",
    "drop_quarantine",
    "pull_back",
    "quarantine_of",
    "seed_quarantine",
]
