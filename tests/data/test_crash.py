"""A build that is killed at any write to the disk, run again, gives the bytes of one that was not.

Every rename and every fsync of ours is a place to die (`benchmarks/crash.py` does the same with strace, where no call
of a library is missed).
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from pathlib import Path

calls, deadly = 0, int(sys.argv[3])

def dying(real):
    def call(*words, **more):
        global calls
        calls += 1
        if calls == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words, **more)
    return call

for name in ("fsync", "replace", "rename", "unlink"):
    setattr(os, name, dying(getattr(os, name)))

sys.path.insert(0, sys.argv[4])
from test_dataset_build import make
make(Path(sys.argv[1]), Path(sys.argv[2]))
print(calls)
"""


def run(source: Path, out: Path, deadly: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", SCRIPT, source, out, str(deadly), Path(__file__).parent]
    return subprocess.run(words, capture_output=True, text=True)


def contents(out: Path) -> dict[str, str]:
    kept = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("ledger.sqlite"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.slow
def test_a_build_killed_at_any_rename_or_fsync_ends_as_if_nothing_had_happened(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "whole" / "dataset", -1)
    assert done.returncode == 0, done.stderr
    n_calls = int(done.stdout)
    whole = contents(tmp_path / "whole" / "dataset")
    media = 3 * 108  # fsync, rename, fsync of each of the 108 files; one of them stands for all
    assert n_calls > media + 20
    places = [1, 200, *range(media + 1, n_calls + 1, 7)]
    for deadly in places:
        out = tmp_path / str(deadly) / "dataset"
        assert run(source, out, deadly).returncode == -9
        again = run(source, out, -1)
        assert again.returncode == 0, again.stderr
        assert contents(out) == whole, f"killed at call {deadly} of {n_calls}"
