"""A full or read-only disk stops a build with one line that says so; what is verified stays, and it goes on later."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_crash import contents

BIOVITA = Path(sys.executable).parent / "biovita"
ISOLATED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def can_mount(folder: Path) -> bool:
    words = [*ISOLATED, f"mount -t tmpfs -o size=1m tmpfs {folder}"]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True).returncode == 0


def build(source: Path, out: Path) -> str:
    return f"{BIOVITA} data build --manifest {source}/records.tsv --out {out} --seed 0 --withheld 2 --quiet"


@pytest.mark.slow
@pytest.mark.parametrize("room", ["64k", "300k", "420k", "480k", "560k", "700k", "read-only"])
def test_a_full_disk_is_one_line_and_the_build_goes_on_later(source: Path, tmp_path: Path, room: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("needs a user namespace that may mount a tmpfs")
    size = "1m" if room == "read-only" else room
    steps = [
        f"mount -t tmpfs -o size={size} tmpfs {disk}",
        "mount -o remount,ro " + str(disk) if room == "read-only" else "true",
        f"{build(source, disk / 'dataset')}; echo code $? >&2",
        f"mount -o remount,rw,size=64m {disk}",
        f"ls -A {disk} >&2",
        build(source, disk / "dataset"),
        f"cp -a {disk}/dataset {tmp_path}/saved",
    ]
    done = subprocess.run([*ISOLATED, " && ".join(steps)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    if "code 0" not in said:  # there was room enough
        assert "code 2" in said, done.stderr
        assert said[0].startswith("biovita: ")
        assert "No space left" in said[0] or "Read-only" in said[0] or "full" in said[0], said[0]
        assert "Traceback" not in done.stderr
    whole = tmp_path / "whole" / "dataset"
    subprocess.run(build(source, whole).split(), check=True)
    (tmp_path / "again").mkdir()
    (tmp_path / "saved").rename(tmp_path / "again" / "dataset")
    assert contents(tmp_path / "again" / "dataset") == {
        **contents(whole),
        "run.json": contents(tmp_path / "again" / "dataset")["run.json"],
        "manifest.json": contents(tmp_path / "again" / "dataset")["manifest.json"],
    }
