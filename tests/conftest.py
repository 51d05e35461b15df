"""A clean environment for every test; one small made-up dataset and one untrained model for all that need them."""

import atexit
import fcntl
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before anything imports numpy or torch, which read these once; child processes inherit them.
for _name in [name for name in os.environ if name.startswith(("BIOVITA", "HF_", "TRANSFORMERS_"))]:
    del os.environ[_name]
os.environ |= {
    "TZ": "UTC",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "100",
    "NO_COLOR": "1",
    "TERM": "dumb",
    "BIOVITA_HOME": tempfile.mkdtemp(prefix="biovita-tests-"),
}
atexit.register(shutil.rmtree, os.environ["BIOVITA_HOME"], ignore_errors=True)
time.tzset()

import pytest  # noqa: E402

from biovita import cli, log  # noqa: E402

N_SPECIES, N_WITHHELD, N_EACH, SEED = 16, 4, 5, 5


class ClosedSocketError(RuntimeError):
    """A test tried to reach another machine; no OSError, so that no handler of ours hides it."""


def is_here(host: Any) -> bool:
    """Say whether a host name or address is this machine."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def closed_sockets() -> Iterator[None]:
    """Refuse every address and name that is not this machine's own."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: Any) -> None:
        if not is_here(host):
            raise ClosedSocketError(f"a test wanted to reach {host!r}")

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return original(self, address)

        return call

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host)
        return look_up(host, *args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded(connect))
    patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def common_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test without --json and --quiet, whatever the one before asked for."""
    monkeypatch.setattr(log.SETTINGS, "json", False)
    monkeypatch.setattr(log.SETTINGS, "quiet", False)


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str


@pytest.fixture
def biovita(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the command line in this process: `biovita("train", "--help")`."""

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["biovita", *map(str, words)])
        capsys.readouterr()
        try:
            code = cli.main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        return Ran(code, *capsys.readouterr())

    return run


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that all test processes share."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run that its processes share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def once(shared_folder: Path) -> Callable[..., Path]:
    """Make a folder once a test run, whichever process comes first: `once("name", make)` calls `make(folder)`."""

    def once_(name: str, make: Callable[[Path], None]) -> Path:
        home = shared_folder / name
        home.mkdir(exist_ok=True)
        with one_at_a_time(home / ".lock"):
            if not (home / ".done").is_file():
                make(home)
                (home / ".done").touch()
        return home

    return once_


@pytest.fixture(scope="session")
def made_up(once: Callable[..., Path]) -> Path:
    """A dataset folder of the made-up world, built once a test run: 16 species, 4 of them withheld. Do not write in it.

    The world that it came from is the folder `world` beside it.
    """

    def make(home: Path) -> None:
        sizes = ["--species", N_SPECIES, "--recordings", N_EACH, "--images", N_EACH]
        _command(home, "world", "make", "--out", "world", *sizes, "--seed", SEED, "--workers", 1)
        table = ["--manifest", "world/records.parquet", "--out", "dataset"]
        _command(home, "data", "build", *table, "--withheld", N_WITHHELD, "--seed", SEED, "--workers", 1)

    return once("made_up", make) / "dataset"


def _command(folder: Path, *words: object) -> None:
    line = [sys.executable, "-m", "biovita", *map(str, words), "--quiet"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


NAMES = (
    "Common Blackbird",
    "Turdus merula",
    "Aves Passeriformes Turdidae Turdus Turdus merula",
    "Common Frog",
    "Rana temporaria",
    "Amphibia Anura Ranidae Rana Rana temporaria",
)


@pytest.fixture(scope="session")
def new_encoder() -> Callable[..., Any]:
    """Make an untrained tiny model; every call with the same arguments gives the same one."""

    def make(size: str = "tiny", seed: int = 1) -> Any:
        from biovita.models import hub

        return hub.start(size, NAMES * 3, seed=seed)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture(scope="session")
def encoder(new_encoder: Callable[..., Any]) -> Any:
    """An untrained tiny model to look at; use `new_encoder` to change one."""
    return new_encoder()


@pytest.fixture(scope="session")
def model_folder(encoder: Any, made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained tiny model as a folder, with the species of `made_up` as its labels. Do not write in it."""
    from biovita.data.dataset import Dataset
    from biovita.models import hub
    from biovita.taxonomy.rank import LEVELS

    folder = tmp_path_factory.mktemp("model") / "untrained"
    hub.save(encoder, folder, card="# untrained\n")
    taxa = Dataset.open(made_up).taxa
    (folder / "labels.csv").write_text(taxa.select(LEVELS).write_csv())
    return folder
