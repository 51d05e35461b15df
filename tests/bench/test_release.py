"""A release in the layout of the published one, with every defect planted, opened, embedded and scored."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biovita.bench.official import open_bench, read_indices, read_task
from biovita.bench.release import find_media
from biovita.bench.tasks import DIRECTIONS, Scenario, scenarios
from biovita.embed.store import read_embeddings
from biovita.errors import BenchError
from biovita.media.audio import write_audio
from biovita.media.image import write_image

N_SPECIES, N_EACH = 6, 4
KINDS = ("as named", "asa", "as named", "upload")  # of the clips of each species, in the order of metadata
PAGE, TRAILING, COPY = 2, 6, 10  # clips that are a web page, end in garbage, repeat the one before the last


def name_of(s: int) -> str:
    return f"Genus{s // 2} sp{s}"


def ranks_of(s: int) -> dict[str, str]:
    return {"species": name_of(s), "genus": f"Genus{s // 2}", "family": "F"}


def clips() -> list[dict]:
    """List clips in the order of metadata, species by turns: the file, and the name that the index has for it."""
    rows = []
    for n in range(N_SPECIES * N_EACH):
        s, kind = n % N_SPECIES, KINDS[n // N_SPECIES]
        if kind == "asa":
            file, listed = f"{name_of(s).replace(' ', '_')}_DIG12_{500 + n}_short.mp3", f"asa_{500 + n}.mp3"
        else:
            file = f"xc_{n}.mp3"
            listed = file if kind == "as named" else f"Koel_IW{n}.mp3"
        rows.append({"n": n, "s": s, "source": kind[:3], "file": f"audio/{file}", "listed": f"audio/{listed}"})
    return rows


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_csv(path)


def write_tasks(home: Path, index: dict[str, list[dict]]) -> None:
    """Write the tasks as released: whole ids, all taxa in every pool, family files with a header alone."""
    for scenario in scenarios("unseen"):
        level = scenario.level
        groups: dict[str, list[int]] = {}
        for row in index[scenario.target]:
            groups.setdefault(row[level], []).append(row["id"])
        tasks = [
            {
                "query_id": f"q{n}",
                "query_payload_id": row["id"],
                "task": f"{scenario.direction.upper()}_{level}",
                "taxon_level": level,
                "correct_taxon": row[level],
                "candidates_taxa": json.dumps(list(groups)),
                "candidates_target_ids": json.dumps(list(groups.values())),
            }
            for n, row in enumerate(index[scenario.query])
            if row[level] in groups
        ]
        write_csv(home / scenario.file, tasks)
        if level == "family":
            (home / scenario.file).write_text((home / scenario.file).read_text().splitlines()[0] + "\n")


def make_release(root: Path) -> Path:
    """Write a release with the defects D1 to D7 of the published one."""
    part, rng = root / "unseen", np.random.default_rng(1)
    (part / "audio").mkdir(parents=True)
    (part / "image").mkdir()
    listed = clips()
    for clip in listed:
        path, t = part / clip["file"], np.arange(8_000) / 16_000
        write_audio(path, 0.3 * np.sin(2 * np.pi * (300 + 150 * clip["n"]) * t), 16_000)
        if clip["n"] == PAGE:
            path.write_text("<!DOCTYPE html><html><body>Not found</body></html>" * 40)
        elif clip["n"] == TRAILING:
            path.write_bytes(path.read_bytes() + bytes(rng.integers(0, 200, 3_000).astype(np.uint8)))
        elif clip["n"] == COPY:
            path.write_bytes((part / listed[COPY - 1]["file"]).read_bytes())
    write_csv(
        part / "metadata.csv",
        [
            {
                "file_name": clip["file"],
                "scientific_name": name_of(clip["s"]),
                "source": "asa" if clip["source"] == "asa" else "xc",
                "recording_id": 500 + clip["n"] if clip["source"] == "asa" else clip["n"],
            }
            for clip in listed
        ],
    )
    by_species = sorted(listed, key=lambda clip: -clip["s"])  # the index has another order than the metadata
    audio = [{"id": i, "file_path": c["listed"], **ranks_of(c["s"])} for i, c in enumerate(by_species)]
    image = []
    for i in range(2 * (N_SPECIES - 1)):  # the last species has no picture
        path = f"image/{name_of(i // 2).lower().replace(' ', '_')}_{i}.png"
        write_image(part / path, Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)))
        image.append({"id": i, "file_path": path, **ranks_of(i // 2)})
    shutil.copy(part / image[0]["file_path"], part / image[1]["file_path"])
    text = [{"id": s, **ranks_of(s), "com_canon": f"beast {s}" if s else ""} for s in range(N_SPECIES)]
    home = part / "benchmark"
    for kind, rows in (("audio", audio), ("image", image), ("text", text)):
        write_csv(home / f"{kind}_index.csv", rows)
    write_tasks(home, {"audio": audio, "image": image, "text": text})
    for kind, rows in (("image", image), ("text", text)):  # of the seen part, there are neither tasks nor sounds
        write_csv(root / "test" / "benchmark" / f"{kind}_index.csv", rows)
    write_csv(root / "test" / "metadata.csv", [{"scientific_name": "Rana x", "download_url": "https://example.org/1"}])
    return root


def truth() -> dict[str, str]:
    """Return the file of each id of the audio index."""
    return {str(i): clip["file"] for i, clip in enumerate(sorted(clips(), key=lambda clip: -clip["s"]))}


COUNTS = {
    "audio": {
        "matched": 2 * N_SPECIES,
        "renamed": 2 * N_SPECIES,
        "missing": 0,
        "broken": 0,
        "renamed and proved by an archive id": N_SPECIES,
        "with the content of another": 1,
    },
    "image": {
        "matched": 2 * (N_SPECIES - 1),
        "renamed": 0,
        "missing": 0,
        "broken": 0,
        "renamed and proved by an archive id": 0,
        "with the content of another": 1,
    },
    "species": {"without audio": 0, "without image": 1},
}
LINE = (
    "unseen: audio: 12 matched, 12 renamed, 6 renamed and proved by an archive id, 1 with the content of another; "
    "image: 10 matched, 1 with the content of another; species: 1 without image\n"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A release that no test changes."""
    return make_release(tmp_path_factory.mktemp("release") / "BioVITA")


@pytest.fixture
def release(published, tmp_path):
    shutil.copytree(published, tmp_path / "BioVITA")
    return tmp_path / "BioVITA"


@pytest.mark.parametrize("inside", [".", "unseen", "unseen/benchmark"])
def test_names_are_repaired_and_everything_is_counted_wherever_it_is_opened(published, inside, capsys):
    bench = open_bench(published / inside)
    assert capsys.readouterr().err.endswith(LINE)
    assert bench.facts == {"files": {"unseen": COUNTS}}
    assert {item: path.resolve() for item, path in bench.files("audio").items()} == {
        item: (published / "unseen" / file).resolve() for item, file in truth().items()
    }
    assert all(path.is_file() for path in bench.files("image").values())
    assert bench.sha256 == open_bench(published / "unseen/benchmark").sha256
    assert [str(one) for one in bench.present] == [
        f"unseen/{le}/{di}" for le in ("species", "genus") for di in DIRECTIONS
    ]
    for scenario in bench.present:
        read_task(bench.splits["unseen"], scenario, read_indices(bench.splits["unseen"]))


def test_a_folder_inside_the_release_may_be_the_working_directory(published, monkeypatch):
    for inside in ("unseen", "unseen/benchmark"):
        monkeypatch.chdir(published / inside)
        bench = open_bench(Path())
        assert bench.facts == {"files": {"unseen": COUNTS}}
        assert bench.splits.keys() == {"unseen"}


def test_what_was_not_released_is_absent_with_its_reason(published):
    bench = open_bench(published)
    reasons = {reason: sorted({str(one) for one in those}) for reason, those in bench.absent_here().items()}
    assert reasons == {
        "task files hold only headers": sorted(f"unseen/family/{di}" for di in DIRECTIONS),
        **{f"no folder {le}/": sorted(f"seen/{le}/{di}" for di in DIRECTIONS) for le in ("species", "genus", "family")},
    }
    assert bench.splits.keys() == {"unseen"}
    with pytest.raises(BenchError, match=r"no scenario can be run \(no folder family/; no folder genus/"):
        open_bench(published / "test")


def test_a_level_folder_without_any_task_file_is_absent(release):
    for direction in DIRECTIONS:
        (release / "unseen/benchmark" / Scenario(direction=direction, level="genus", split="unseen").file).unlink()
    bench = open_bench(release)
    assert {one.level for one in bench.present} == {"species"}
    assert "no task files in genus/" in bench.absent_here()


def test_a_part_named_test_is_the_seen_split(release):
    shutil.rmtree(release / "test")
    (release / "unseen").rename(release / "test")
    for folder in (release, release / "test", release / "test/benchmark"):
        assert {one.split for one in open_bench(folder).present} == {"seen"}


def test_the_links_of_the_hubs_cache_are_files(published, tmp_path):
    for n, path in enumerate(sorted(path for path in published.rglob("*") if path.is_file())):
        link, blob = tmp_path / "snapshot" / path.relative_to(published), tmp_path / "blobs" / f"{n:064x}"
        blob.parent.mkdir(exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link.symlink_to(blob)
    bench = open_bench(tmp_path / "snapshot")
    assert bench.facts == {"files": {"unseen": COUNTS}}
    assert bench.sha256 == open_bench(published).sha256


def test_rows_without_a_file_are_counted_and_keep_their_names(release, capsys):
    part = release / "unseen"
    gone = [part / clips()[n]["file"] for n in (0, N_SPECIES)]  # as named, and renamed
    picture = next((part / "image").iterdir())
    for path in (*gone, picture):
        path.unlink()
    bench = open_bench(release)
    counts = bench.facts["files"]["unseen"]
    assert (counts["audio"]["missing"], counts["audio"]["renamed"], counts["image"]["missing"]) == (2, 11, 1)
    assert "2 missing" in capsys.readouterr().err
    assert len(bench.files("audio")) == N_SPECIES * N_EACH
    assert {path.name for path in bench.files("image").values() if not path.exists()} == {picture.name}
    assert sum(not path.exists() for path in bench.files("audio").values()) == 2


def test_names_that_contradict_the_metadata_are_not_repaired(release):
    path = release / "unseen/metadata.csv"
    table = pl.read_csv(path)
    first = table["scientific_name"] == name_of(0)
    table = pl.concat([table.filter(~first), table.filter(first).reverse()])  # of one species in another order
    table.write_csv(path)
    counts = open_bench(release).facts["files"]["unseen"]["audio"]
    assert (counts["broken"], counts["renamed"]) == (2, 2 * (N_SPECIES - 1))


def test_without_metadata_names_are_taken_as_they_are(release):
    (release / "unseen/metadata.csv").unlink()
    bench = open_bench(release)
    counts = bench.facts["files"]["unseen"]["audio"]
    assert (counts["matched"], counts["missing"], counts["renamed"]) == (12, 12, 0)
    assert {path.parent for path in bench.files("audio").values()} == {(release / "unseen/audio").resolve()}


def test_a_release_without_media_is_opened_in_silence(release, capsys):
    before = open_bench(release).sha256
    shutil.rmtree(release / "unseen/audio")
    shutil.rmtree(release / "unseen/image")
    capsys.readouterr()
    bench = open_bench(release)
    assert capsys.readouterr().err == ""
    assert bench.facts["files"]["unseen"]["audio"]["missing"] == N_SPECIES * N_EACH
    assert bench.sha256 == before


def test_splits_that_number_their_items_alike_are_not_mixed(release):
    shutil.rmtree(release / "test")
    shutil.copytree(release / "unseen", release / "test")
    with pytest.raises(
        BenchError, match="BioVITA: audio id '0' is an item of seen and of unseen; name the folder of one"
    ):
        open_bench(release)
    assert {one.split for one in open_bench(release, "seen").present} == {"seen"}
    assert {one.split for one in open_bench(release / "test").present} == {"seen"}


@given(st.lists(st.binary(max_size=2), max_size=12))
@settings(deadline=None, max_examples=60)
def test_repeated_contents_are_counted_as_a_plain_loop_counts_them(tmp_path_factory, contents):
    home = tmp_path_factory.mktemp("contents")
    for n, content in enumerate(contents):
        (home / str(n)).write_bytes(content)
    index = {"id": [str(n) for n in range(len(contents))], "file_path": [str(n) for n in range(len(contents))]}
    empty = pl.DataFrame(
        {"id": [], "file_path": [], "species": []}, dict.fromkeys(("id", "file_path", "species"), pl.String)
    )
    audio = pl.DataFrame({**index, "species": ["A b"] * len(contents)}, dict(empty.schema))
    media = find_media(home, {"audio": audio, "image": empty, "text": empty})
    seen: set[str] = set()
    n_again = 0
    for content in contents:
        digest = hashlib.sha256(content).hexdigest()
        n_again += digest in seen
        seen.add(digest)
    assert media.counts["audio"]["with the content of another"] == n_again
    assert media.counts["audio"]["matched"] == len(contents)


def test_a_release_is_embedded_and_scored_from_the_command_line(biovita, encoder, published, tmp_path):
    from biovita.models import hub

    hub.save(encoder, tmp_path / "model", card="# untrained\n")
    vectors, results = tmp_path / "vectors", tmp_path / "results.json"
    ran = biovita("bench", "embed", published, "--model", tmp_path / "model", "--out", vectors, "--workers", 1)
    assert ran.code == 3  # one clip is a web page
    assert LINE in ran.err
    files = truth()
    page = next(item for item, file in files.items() if file == clips()[PAGE]["file"])
    assert f"{page}: not embedded: html_document" in ran.err
    run = json.loads((vectors / "run.json").read_text())
    assert (run["refused"], run["files"]) == ({"html_document": 1}, {"unseen": COUNTS})

    table = read_embeddings(vectors / "audio.parquet")
    assert set(table.ids) == files.keys() - {page}
    asked = [item for item in table.ids if "DIG12" in files[item] or f"xc_{TRAILING}.mp3" in files[item]]
    expected = encoder.embed_audio([published / "unseen" / files[item] for item in asked])
    found = table.embedding[[table.ids.index(item) for item in asked]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    names = read_embeddings(vectors / "text.parquet")
    assert {name for name, level in zip(names.text, names.level, strict=True) if level == "common_name"} == {
        *(f"beast {s}" for s in range(1, N_SPECIES)),
        "Genus0 sp0",  # which has no common name
    }

    words = ("bench", "score", published, "--embeddings", vectors, "--out", results)
    ran = biovita(*words)
    assert ran.code == 2
    assert f"lacks 1 of the 24 ids that unseen/species/a2t needs: {page}" in ran.err
    ran = biovita(*words, "--missing", "skip")
    assert ran.code == 0
    assert LINE in ran.err
    assert "6 scenarios cannot be run (task files hold only headers)" in ran.err
    assert "6 scenarios cannot be run (no folder species/): seen/species/a2t" in ran.err
    scored = json.loads(results.read_text())
    assert len(scored["scenarios"]) == 12
    assert scored["run"]["bench_sha256"] == run["bench_sha256"] == open_bench(published).sha256
    assert scored["run"]["files"] == {"unseen": COUNTS}
