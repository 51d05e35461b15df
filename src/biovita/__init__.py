"""BioVITA: the sound, the picture and the name of an animal in one 768-dimensional space.

The public names load on first use, so `import biovita` is light and imports no torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Dataset", "__version__", "load"]

if TYPE_CHECKING:
    from biovita.data.dataset import Dataset
    from biovita.models.hub import load

_HOMES = {"load": "biovita.models.hub", "Dataset": "biovita.data.dataset"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'biovita' has no attribute '{name}'; it offers {', '.join(__all__)}")
    from importlib import import_module  # noqa: PLC0415 - loaded on first use by design

    return getattr(import_module(_HOMES[name]), name)
