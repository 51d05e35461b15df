"""A name that cannot be opened as a model says what it is and what to name instead."""

from pathlib import Path

import pytest

from biovita.errors import ModelError
from biovita.models import hub


def test_a_file_of_a_model_is_not_looked_for_on_the_hub(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder.parent)
    name = f"{model_folder.name}/model.safetensors"
    with pytest.raises(ModelError, match=f"^{name}: is a file; name the model folder that it lies in"):
        hub.load(name)


def test_exported_towers_name_what_opens_them(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    (tmp_path / "audio.onnx").touch()
    with pytest.raises(ModelError, match=r"exported towers, which biovita\.models\.export\.load_exported opens"):
        hub.load(tmp_path)
