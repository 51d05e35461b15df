"""BioVITA: the sound, the picture and the name of an animal in one 768-dimensional space.

The public names load on first use, so `import biovita` is light and imports no torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Archive",
    "Dataset",
    "Identifier",
    "__version__",
    "identify_file",
    "load",
    "read_calibration",
    "read_labels",
]

if TYPE_CHECKING:
    from biovita.data.dataset import Dataset
    from biovita.identify.answer import Identifier
    from biovita.identify.calibrate import read_calibration
    from biovita.identify.files import identify_file
    from biovita.identify.labels import read_labels
    from biovita.models.hub import load
    from biovita.search.archive import Archive

_HOMES = {
    "Archive": "biovita.search.archive",
    "Dataset": "biovita.data.dataset",
    "Identifier": "biovita.identify.answer",
    "identify_file": "biovita.identify.files",
    "load": "biovita.models.hub",
    "read_calibration": "biovita.identify.calibrate",
    "read_labels": "biovita.identify.labels",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'biovita' has no attribute '{name}'; it offers {', '.join(__all__)}")
    from importlib import import_module  # noqa: PLC0415 - loaded on first use by design

    return getattr(import_module(_HOMES[name]), name)
