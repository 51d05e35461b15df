"""A sound or picture that lies inside another file, for readers that take a path."""

import io
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO


@dataclass(frozen=True)
class Held:
    """The bytes of a file, with as much of `Path` as our readers use.

    Attributes:
        name: for messages; its suffix says the format.
        content: the whole file.
    """

    name: str
    content: bytes = field(repr=False)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """Open the bytes for reading; arguments are those of `Path.open`, and change nothing."""
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return self.name


def as_file(path: Path | str | Held) -> Path | Held:
    """Take what can be opened as it is, and a string as a path."""
    return path if isinstance(path, Held) else Path(path)
