"""Writing is all or nothing, and a folder is whole when its manifest stands."""

import hashlib
import json
from pathlib import Path

import pytest

from biovita.errors import BiovitaError, DatasetError
from biovita.files import (
    atomic_path,
    read_json,
    read_manifest,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_manifest,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_makes_its_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "Höhle\n")
    assert names(tmp_path / "a" / "b") == ["c.txt"]
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "Höhle\n".encode()


def test_an_interrupted_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_bytes(path, b"old")

    def interrupted() -> None:
        with atomic_path(path) as part:
            part.write_bytes(b"half of the n")
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["table.parquet"]


def test_a_first_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> None:
        with atomic_path(tmp_path / "new.json") as part:
            part.write_bytes(b"{")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert names(tmp_path) == []


def test_the_part_lies_beside_its_file_and_is_renamed_not_copied(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.bin") as part:
        assert part.parent == tmp_path
        assert part.name.startswith(".")
        part.touch()
        written = part.stat().st_ino
    assert (tmp_path / "x.bin").stat().st_ino == written


def test_the_longest_names_of_a_file_system_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".txt")
    write_text(path, "x")
    assert names(tmp_path) == [path.name]


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": ["ü", 0.1]})
    write_json(tmp_path / "b.json", {"a": ["ü", 0.1], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": ["ü", 0.1], "b": 1}


def test_json_of_a_value_that_is_no_number_is_refused_before_the_old_file_goes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert read_json(tmp_path / "a.json") == {"loss": 1.0}


@pytest.mark.parametrize(("content", "said"), [(None, "no such file"), ("{", "not valid JSON")])
def test_a_missing_or_broken_json_file_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BiovitaError, match=said) as error:
        read_json(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("n_bytes", [0, 1, 2**18, 2**18 + 1])
def test_the_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path: Path, n_bytes: int) -> None:
    content = bytes(i % 251 for i in range(n_bytes))
    (tmp_path / "f").write_bytes(content)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_value_ignores_key_order_and_nothing_else() -> None:
    assert sha256_json({"a": 1, "b": [2, 3]}) == sha256_json({"b": [2, 3], "a": 1})
    assert sha256_json({"a": 1, "b": [2, 3]}) != sha256_json({"a": 1, "b": [3, 2]})
    assert sha256_json(["1"]) != sha256_json([1])


def test_a_manifest_pins_its_tables_and_tells_which_one_changed(tmp_path: Path) -> None:
    (tmp_path / "media.parquet").write_bytes(b"rows")
    (tmp_path / "taxa.parquet").write_bytes(b"names")
    write_manifest(tmp_path, ["media.parquet", "taxa.parquet"], schema=1, made_up=True)
    manifest = read_manifest(tmp_path, verify=True)
    assert manifest["made_up"] is True
    assert manifest["sha256"]["taxa.parquet"] == hashlib.sha256(b"names").hexdigest()
    (tmp_path / "taxa.parquet").write_bytes(b"nameS")
    assert read_manifest(tmp_path)["schema"] == 1
    with pytest.raises(DatasetError, match=r"taxa\.parquet: changed since"):
        read_manifest(tmp_path, verify=True)
    (tmp_path / "taxa.parquet").unlink()
    with pytest.raises(DatasetError, match=r"taxa\.parquet: missing"):
        read_manifest(tmp_path, verify=True)


def test_no_manifest_is_written_when_a_table_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_manifest(tmp_path, ["media.parquet"])
    assert names(tmp_path) == []


@pytest.mark.parametrize(("folder", "said"), [(".", "never finished"), ("nowhere", "no such folder")])
def test_a_folder_without_a_manifest_is_refused_by_name(tmp_path: Path, folder: str, said: str) -> None:
    (tmp_path / "media.parquet").touch()
    with pytest.raises(DatasetError, match=said) as error:
        read_manifest(tmp_path / folder)
    assert str(tmp_path / folder) in str(error.value)


def test_a_manifest_that_is_cut_off_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": {}})[:-3])
    with pytest.raises(BiovitaError, match=r"manifest\.json: not valid JSON"):
        read_manifest(tmp_path)
