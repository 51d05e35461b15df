"""What the page shows, and how much it takes from whom: every number in one place."""

import ipaddress
from dataclasses import dataclass, replace
from typing import Any, Self

from biovita.errors import WebError
from biovita.identify.answer import Identifier
from biovita.report.inputs import Inputs
from biovita.search.archive import Archive

MIN_TOKEN = 16  # characters


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is served and under which limits. What is None has a page that says how to give it.

    Raises:
        WebError: another address than loopback without a token, or a token that is easily guessed.
    """

    identifier: Identifier | None = None
    archive: Archive | None = None
    results: Inputs | None = None
    is_made_up: bool = False
    """whether the model learned from a made-up biosphere and so knows no real animal"""
    host: str = "127.0.0.1"
    """the address to listen on; any but loopback needs a token"""
    port: int = 8000
    names: tuple[str, ...] = ()
    """further host names that people may type"""
    token: str | None = None
    max_body_bytes: int = 64_000_000
    """of a request, whether it says its length or not"""
    max_sound_s: float = 600.0
    """longer recordings are for `biovita identify`"""
    max_files: int = 4
    """of a request"""
    requests_per_min: int = 240
    """that an address may make, of those that cost something"""
    max_waiting: int = 64
    """requests that may wait for the model; one more is told to come back"""
    idle_s: float = 15.0
    """a client may pause so long while it sends a body"""
    body_s: float = 60.0
    """a body may take so long in all"""

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise WebError(f"--host {self.host}: others can reach this address; give --token as well")
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise WebError(f"--token: {len(self.token)} characters are easily guessed; give at least {MIN_TOKEN}")

    def showing(self, **opened: Any) -> Self:
        """Return the same limits with a model, an archive, results."""
        return replace(self, **opened)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
