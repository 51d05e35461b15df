"""The notebooks run on what `make demo` leaves."""

import sys
from pathlib import Path

import nbformat
import pytest
from test_demo import whole  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools"))

from notebooks import FOLDER, run  # noqa: E402

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_says_something(path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("BIOVITA_DEMO", str(whole))
    notebook = run(path, whole)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) - 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs_and_says_that_the_animals_are_made_up(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert "made up" in notebook.cells[0].source
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert outputs
    assert not [out for out in outputs if out.output_type == "error"]
