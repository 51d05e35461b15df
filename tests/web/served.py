"""A real server: `biovita serve` in a process of its own."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

HERE = "http://127.0.0.1"
LINE = (sys.executable, "-m", "biovita", "serve", "--port", "0")
TOKEN = "a token of more than sixteen characters"


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"{HERE}:{self.port}"

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(*words: object, line: Sequence[str] = LINE, **environment: str) -> Iterator[Served]:
    """Run `biovita serve`, or another line that says where it serves, on a free port of loopback."""
    process = subprocess.Popen([*line, *map(str, words)], stderr=subprocess.PIPE, env={**os.environ, **environment})
    try:
        yield Served(process, port_of(process))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


def port_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stderr
    said, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        ready, _, _ = select.select([process.stderr], [], [], 1.0)
        part = os.read(process.stderr.fileno(), 65536) if ready else b""
        said += part
        if b"the page is at http" in said and said.endswith(b"\n"):
            return int(said.split(b"the page is at ")[1].split()[0].rsplit(b":", 1)[1])
        if ready and not part:
            break
    raise AssertionError(said.decode())
