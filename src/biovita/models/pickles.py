"""Pickled weights: the only module that reads or writes them.

Others publish weights as pickles, and a pickle can run code. So a stranger's file is opened in a child process with
limits, by `weights_only=True` with nothing to fall back on, and leaves it as safetensors; no other code of ours ever
sees a pickle. The limits bound memory, time and files; they are no jail for code that got past torch.
"""

import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from biovita.errors import ModelError
from biovita.files import atomic_path

SECONDS = 900  # for the largest published file 10 are enough
SLACK_BYTES = 1 << 30


def to_safetensors(source: Path, out: Path) -> None:
    """Turn a checkpoint of torch.save into safetensors; nested names are joined with dots, and only tensors are kept.

    Args:
        source: the pickled weights, in the zip layout of torch 1.6 and newer.
        out: the file to write.

    Raises:
        ModelError: it is no such file, tries to run code, is damaged, or wants more memory than it has bytes.
    """
    with atomic_path(out) as part:
        part.touch()
        # -P: the folder we stand in may hold a stranger's json.py
        line = [sys.executable, "-P", "-m", "biovita.models.pickles", os.fspath(source), os.fspath(part)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(line, capture_output=True, env=environment, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ModelError(f"{source}: refused: not read within {SECONDS} s") from None
        if done.returncode == 2:
            raise ModelError(f"{source}: refused: {json.loads(done.stdout)}")
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ModelError(f"{source}: refused: reading it ended with {done.returncode} {''.join(last)[:200]}")


def write_pickle(tensors: dict[str, Any], path: Path) -> None:
    """Write a dictionary of tensors as others' loaders want it; `weights_only=True` reads it."""
    with atomic_path(path) as part:
        torch.save(tensors, part)


def read_pickle(source: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors without running what it says; only the child process calls this.

    Raises:
        ModelError: the reason, without the file's name.
    """
    _check_container(source)
    try:
        if asked := sorted(torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(source))):
            raise ModelError(f"a pickle that asks for {', '.join(asked[:3])}, which is code, not weights")
        content = torch.load(source, map_location="cpu", mmap=True, weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # hostile bytes raise anything; the reason keeps the first line
        raise ModelError(f"cannot be read as weights: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"holds a {type(content).__name__}, not a dictionary of tensors")
    found: dict[str, torch.Tensor] = {}
    for name, tensor in _leaves(content):
        if name in found:
            raise ModelError(f"holds the name {name} twice")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ModelError(f"{name} is not a plain dense tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(f"{name} claims to be larger than what the file holds of it")
        found[name] = tensor.detach().contiguous()
    return found


def _check_container(source: Path) -> None:
    """Let only torch's zip archive pass, stored without compression, so that no file grows when it is read."""
    with source.open("rb") as file:
        head = file.read(40)
    if head.startswith(b"version https://git-lfs"):
        raise ModelError("a pointer of Git LFS, not the weights; fetch the file itself")
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"not a checkpoint of torch.save, or cut short ({error}; it begins with {head[:8]!r})"
        ) from error
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ModelError(f"its member {member.filename} is compressed, which torch.save never does")


def _leaves(value: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, item in value.items():
        if isinstance(item, torch.Tensor):
            yield f"{prefix}{key}", item
        elif isinstance(item, dict):
            yield from _leaves(item, f"{prefix}{key}.")


def _first_line(error: Exception) -> str:
    """Pick what went wrong out of torch's message, which is mostly advice to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not re.search(r"weights.only|file an issue|documentation", line, re.IGNORECASE)]
    return (lines[0] if lines else type(error).__name__)[:200]


def _restrict(n_bytes: int) -> None:
    """Take limits for the life of this process: memory and output as a file of this size may need."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes + SLACK_BYTES // 16, n_bytes + SLACK_BYTES // 16))
    if sys.platform == "linux":  # elsewhere memory that torch itself has mapped counts too
        status = Path("/proc/self/status").read_text()
        found = re.search(r"VmData:\s+(\d+) kB", status)
        used = int(found[1]) * 1024 if found else 0
        memory = used + 2 * n_bytes + SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def main(source: Path, out: Path) -> int:
    """Read and write in this process; 2 and the reason on standard output if the file is refused."""
    try:
        _restrict(source.stat().st_size)
        save_file(read_pickle(source), out, metadata={"format": "pt"})
    except (ModelError, OSError) as error:
        sys.stdout.write(json.dumps(str(error)))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
