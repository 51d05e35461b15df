"""Run the notebooks of docs/notebooks on a demo folder, and write their outputs into them.

    python tools/notebooks.py [DEMO]

DEMO is what `make demo` leaves; default: demo. Times, remarks on standard error and the kernel's version are left out,
so that a second run on the same demo changes nothing.
"""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def run(path: Path, demo: Path) -> Any:
    """Run a notebook, and return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    os.environ |= {"BIOVITA_DEMO": str(demo.resolve()), "HF_HUB_OFFLINE": "1"}
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell["outputs"] = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
    return notebook


def main() -> None:
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(path, demo), path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
