"""Every error a user can cause; anything else that escapes a command is a bug.

    BiovitaError
    +-- ConfigError      a flag or a run file: unknown key, wrong value
    +-- TaxonomyError    a name, rank or name table
    +-- MediaError       one sound or picture that is refused; carries a reason of the fixed vocabulary
    +-- WorldError       the made-up biosphere cannot be made as asked
    +-- DatasetError     a dataset folder or the tables that should become one
    +-- FetchError       one URL that was refused or did not give what was asked; says whether to try again
    +-- ModelError       a model folder: missing file, tensor or key
    +-- TrainError       a stage that cannot start or must stop
    |   +-- StoppedError     a signal asked it to stop; its state is saved
    +-- EmbeddingError   stored vectors: mixed models, missing ids, non-finite values
    +-- BenchError       a benchmark folder, its tasks or its scoring
    +-- ArchiveError     an archive, a query or a label of it
    +-- WebError         the page: its address, its token, what it shall show

The command line prints one line for these (file, value, what to do) and exits with 2.
"""

from typing import Literal

EXIT_BAD_ITEMS = 3  # of a command that did its work, but for items that it lists


class BiovitaError(Exception):
    """Base of all errors that a user can cause and mend."""


class ConfigError(BiovitaError):
    """A flag or a key of a run file is unknown or has a value that cannot be used."""


class TaxonomyError(BiovitaError):
    """A name cannot be resolved or a rank is missing."""


class MediaError(BiovitaError):
    """One file is refused.

    Attributes:
        reason: one word of `biovita.media.reasons.REASONS`.
        detail: what was seen, for people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class WorldError(BiovitaError):
    """The made-up biosphere cannot be made with these numbers."""


class DatasetError(BiovitaError):
    """A dataset folder is missing, incomplete, damaged, or cannot be built."""


class FetchError(BiovitaError):
    """One URL is refused, or did not give what was asked.

    Attributes:
        kind: `refused` (our rules), `permanent` (the server's word, or the content) or `temporary` (try again later).
        status: the HTTP status, where there was one.
    """

    def __init__(self, message: str, *, kind: Literal["refused", "permanent", "temporary"], status: int | None = None):
        self.kind: Literal["refused", "permanent", "temporary"] = kind
        self.status = status
        super().__init__(message)


class ModelError(BiovitaError):
    """A model folder lacks a file or tensor, or holds something else than it should."""


class TrainError(BiovitaError):
    """A training stage cannot start, or must stop to protect the weights."""


class StoppedError(TrainError):
    """A stage was asked to stop, and has saved its state.

    Attributes:
        signal: number of the signal that asked.
    """

    def __init__(self, message: str, signal: int) -> None:
        self.signal = signal
        super().__init__(message)


class EmbeddingError(BiovitaError):
    """Stored vectors do not fit together, are missing, or are not finite."""


class BenchError(BiovitaError):
    """A benchmark folder is incomplete, or a task cannot be scored honestly."""


class ArchiveError(BiovitaError):
    """An archive is missing, of another model or damaged, or a query or label of it cannot be used."""


class WebError(BiovitaError):
    """The page cannot be served as asked: its address, its token, or what it shall show."""
