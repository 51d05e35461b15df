"""Files to blocks: the same from any block on, also in the middle of a file or an animal; files that go bad midway."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from biovita.errors import MediaError
from biovita.identify import files as module
from biovita.identify.answer import Identifier
from biovita.identify.blocks import Block, Result, State, results
from biovita.identify.files import How, identify_file, identify_files
from biovita.identify.labels import named_labels
from biovita.media.held import Held
from biovita.models import encoder as pipeline
from biovita.models.encoder import Encoder
from biovita.taxonomy.taxon import Taxon

BLOCK = 4  # vectors in a block, here
SPECIES = ("Turdus merula", "Turdus viscivorus", "Rana temporaria", "Alytes obstetricans", "Canis lupus")
HOW = How(hop_s=3.0, min_score=-1.0, k=2)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", BLOCK)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # one checker's child is enough


@pytest.fixture(scope="module")
def identifier(encoder: Encoder) -> Identifier:
    return Identifier(encoder, named_labels(encoder, [Taxon(genus=name.split()[0], species=name) for name in SPECIES]))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Recordings of many windows and of one, pictures, and files that are neither."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(1)
    for n, seconds in ((0, 37), (2, 2), (5, 61), (6, 13)):
        wave = rng.normal(0, 0.1, 16_000 * seconds) * np.sin(np.arange(16_000 * seconds) / 30_000)
        soundfile.write(folder / f"{n}.{'mp3' if n == 5 else 'flac'}", wave, 16_000)
    for n in (1, 7):
        Image.fromarray(rng.integers(0, 255, (70, 80, 3), np.uint8)).save(folder / f"{n}.jpg")
    (folder / "3.wav").write_text("<html>not found</html>")
    return [*sorted(folder.iterdir()), folder / "gone.wav"]


GROUPS = ["a", "a", "a", "b", "b", "b", "c", "d"]


def through_json(block: Block) -> Block:
    return Block.from_row(json.loads(json.dumps(block.row())))


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_whoever_goes_on_behind_a_block_gets_the_same_blocks(
    identifier: Identifier, files: list[Path], groups: list[str] | None
) -> None:
    whole = list(identify_files(identifier, files, HOW, groups=groups))
    assert len(whole) > 8
    assert sum(block.state.opened is not None for block in whole) > 4  # cut in the middle of a file
    if groups:
        assert any(block.state.group for block in whole)  # and of an animal
    rows = [block.row() for block in whole]
    for n in (1, 4, 7, len(whole) - 2, len(whole)):
        state = through_json(whole[n - 1]).state
        assert [block.row() for block in identify_files(identifier, files, HOW, groups=groups, state=state)] == rows[n:]
    assert whole[-1].state == State(n_files=len(files))


def test_blocks_come_together_to_what_each_file_alone_gives(identifier: Identifier, files: list[Path]) -> None:
    found = list(results(map(through_json, identify_files(identifier, files, HOW))))
    assert [len(result.files) + len(result.refused) for result in found] == [1] * len(files)
    assert [result.refused[0].reason for result in found if result.refused] == ["html_document", "unreadable"]
    for result, path in zip(found, files, strict=True):
        for one in result.files:
            alone = identify_file(identifier, path, one.modality, how=HOW)
            assert one.path == alone.path == str(path)
            assert [named.name for named in one.whole.taxa] == [named.name for named in alone.whole.taxa]
            assert [(d.start_s, d.end_s, d.named.name) for d in one.detections] == [
                (d.start_s, d.end_s, d.named.name) for d in alone.detections
            ]


def test_groups_come_out_one_by_one_with_one_answer(identifier: Identifier, files: list[Path]) -> None:
    found = list(results(identify_files(identifier, files, HOW, groups=GROUPS)))
    names = [{Path(one.path).stem for one in (*result.files, *result.refused)} for result in found]
    assert names == [{"0", "1", "2"}, {"3", "5", "6"}, {"7"}, {"gone"}]
    vectors = {"image": identifier.encoder.embed_image([files[1]])}
    vectors["audio"] = np.stack(
        [vector for n in (0, 2) if (vector := identify_file(identifier, files[n], "audio", how=HOW).vector) is not None]
    )
    expected = identifier.together(vectors, **HOW.asked())
    assert found[0].together
    assert [one.name for one in found[0].together.taxa] == [one.name for one in expected.taxa]
    assert [one.score for one in found[0].together.taxa] == pytest.approx(
        [one.score for one in expected.taxa], abs=1e-5
    )
    assert found[3] == Result(refused=found[3].refused)  # nothing of it could be used


def test_a_file_that_goes_bad_in_the_middle_leaves_no_detections_and_hurts_no_other(
    identifier: Identifier, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = module.read_windows

    def torn(path: Path, spans: list[Any]) -> Iterator[np.ndarray]:
        for n, wave in enumerate(read(path, spans)):
            if path.stem == "5" and n == 9:
                raise MediaError("corrupt", "the disk has gone")
            yield wave

    before = list(results(identify_files(identifier, files, HOW)))
    monkeypatch.setattr(module, "read_windows", torn)
    blocks = list(identify_files(identifier, files, HOW))
    halfway = [block.state.opened for block in blocks if block.state.n_files == 4]
    assert any(opened and opened.merging.open for opened in halfway)  # it had some by then
    after = list(results(blocks))
    assert (after[4].files, after[4].refused[0].reason) == ([], "corrupt")
    for n in set(range(len(files))) - {4}:
        assert [one.path for one in after[n].files] == [one.path for one in before[n].files]
        assert [len(one.detections) for one in after[n].files] == [len(one.detections) for one in before[n].files]


def test_progress_is_told_from_begin_to_end(identifier: Identifier, files: list[Path]) -> None:
    told: list[tuple[int, float, bool]] = []

    def seen(file: int, share: float, *, is_bad: bool = False) -> None:
        told.append((file, share, is_bad))

    list(identify_files(identifier, files, HOW, seen=seen))
    assert [one[:2] for one in told] == sorted(one[:2] for one in told)
    assert {file for file, share, _ in told if share == 1} == set(range(len(files)))
    assert {file for file, _, is_bad in told if is_bad} == {3, 7}


def test_windows_of_a_sound_in_memory_equal_those_of_its_file(identifier: Identifier, files: list[Path]) -> None:
    held = identify_file(identifier, Held(files[0].name, files[0].read_bytes()), "audio", how=HOW)
    by_path = identify_file(identifier, files[0], "audio", how=HOW)
    assert held.windows == by_path.windows
    assert held.duration_s == 37.0


def test_a_file_that_does_not_decode_is_an_error(identifier: Identifier, files: list[Path]) -> None:
    for modality in ("audio", "image"):
        with pytest.raises(MediaError):
            identify_file(identifier, files[3], modality)
