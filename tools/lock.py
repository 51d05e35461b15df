"""Write the lock files: names, versions and hashes, no addresses.

requirements.lock            everything but torch
requirements-torch.lock      torch from the package index; on Linux its CUDA build and the gigabytes it needs
requirements-torch-cpu.lock  torch's CPU build, for machines whose pip finds one (`find-links`); tried first
"""

import re
import subprocess
import sys
from pathlib import Path

TORCH = "2.13.0"
CPU_BUILD_SHA256 = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
TORCH_ONLY = re.compile(r"^(torch==|nvidia-|cuda-|triton)")
ROOT = Path(__file__).parents[1]


def main() -> None:
    command = [
        *(str(Path(sys.executable).parent / "uv"), "pip", "compile", "pyproject.toml", "--group", "dev", "--universal"),
        *("--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--upgrade"),
        *("--constraint", "-"),
    ]
    done = subprocess.run(command, cwd=ROOT, input=f"torch=={TORCH}\n", capture_output=True, text=True, check=True)
    blocks = re.split(r"\n(?=\S)", done.stdout.strip())
    torch = [block for block in blocks if TORCH_ONLY.match(block)]
    for name, chosen in (
        ("requirements.lock", [block for block in blocks if block not in torch]),
        ("requirements-torch.lock", torch),
        ("requirements-torch-cpu.lock", [f"torch=={TORCH}+cpu \\\n    --hash=sha256:{CPU_BUILD_SHA256}"]),
    ):
        (ROOT / name).write_text("\n".join(chosen) + "\n")
        print(f"{name}: {len(chosen)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
