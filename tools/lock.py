"""Write the lock files: names, versions and hashes, no addresses.

requirements.lock            everything but torch
requirements-torch.lock      torch from the package index; on Linux its CUDA build and the gigabytes it needs
requirements-torch-cpu.lock  torch's CPU build, for machines whose pip finds one (`find-links`); tried first
requirements-peers.lock      what the parity tests compare with; goes into a folder of its own, beside the environment
"""

import re
import subprocess
import sys
from pathlib import Path

TORCH = "2.13.0"
CPU_BUILD_SHA256 = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
TORCH_ONLY = re.compile(r"^(torch==|nvidia-|cuda-|triton)")
# torchvision is torch's sibling; its wheel beside a CPU build of torch needs the care of tests/models/test_parity.py.
PEERS = ("open_clip_torch==2.31.0", "torchvision==0.28.0")
ROOT = Path(__file__).parents[1]


def compiled(*words: str, lines: tuple[str, ...]) -> list[str]:
    """Resolve, and return one block of lines a package: name, version, hashes."""
    command = [
        *(str(Path(sys.executable).parent / "uv"), "pip", "compile", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--upgrade", *words),
    ]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=True)
    return re.split(r"\n(?=\S)", done.stdout.strip())


def main() -> None:
    blocks = compiled("pyproject.toml", "--group", "dev", "--constraint", "-", lines=(f"torch=={TORCH}",))
    torch = [block for block in blocks if TORCH_ONLY.match(block)]
    for name, chosen in (
        ("requirements.lock", [block for block in blocks if block not in torch]),
        ("requirements-torch.lock", torch),
        ("requirements-torch-cpu.lock", [f"torch=={TORCH}+cpu \\\n    --hash=sha256:{CPU_BUILD_SHA256}"]),
        ("requirements-peers.lock", compiled("-", "--no-deps", lines=PEERS)),
    ):
        (ROOT / name).write_text("\n".join(chosen) + "\n")
        print(f"{name}: {len(chosen)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
