"""A benchmark by the name of its repository on the model hub; one of the doors to the hub."""

from pathlib import Path
from typing import Final

from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from biovita.errors import BenchError

LEFT_OUT: Final = ("train/*",)  # of the release: a million rows that no scenario asks for


def find_bench(name: str) -> Path:
    """Return a benchmark folder as it is: itself, or a copy of the hub's in the hub's own cache.

    Args:
        name: a folder, or the `owner/name` of a dataset repository.

    Raises:
        BenchError: no such folder, and the hub does not give it.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BenchError(f"{name}: no such benchmark folder, and not a hub name of the form owner/name")
    try:
        return Path(snapshot_download(name, repo_type="dataset", ignore_patterns=list(LEFT_OUT)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if is_offline_mode():
            raise BenchError(
                f"{name}: no such folder, not in the hub's cache, and --offline forbids to ask the hub; "
                "leave it out, or name a folder"
            ) from error
        raise BenchError(
            f"{name}: no such folder, and the hub did not give it: {str(error).splitlines()[0]}"
        ) from error
