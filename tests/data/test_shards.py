"""Shards: what goes in comes out, the same bytes each time, and the reader takes nothing else."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biovita.data.dataset import Dataset
from biovita.data.export import fill
from biovita.data.shards import Shards, read_shard, read_shards, write_shards
from biovita.errors import DatasetError, MediaError
from biovita.files import read_manifest, sha256_file

SMALL = 400_000  # bytes in a shard, so that there are several


@pytest.fixture(scope="module")
def dataset(made_up: Path) -> Dataset:
    return Dataset.open(made_up)


@pytest.fixture(scope="module")
def shards(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "out"
    write_shards(dataset, folder, shard_bytes=SMALL)
    return folder


def tars(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.tar"))}


def test_every_medium_comes_back_once_with_its_row(dataset: Dataset, shards: Path) -> None:
    found = {}
    for key, sample in read_shards(shards):
        assert key not in found
        found[key] = sample
    assert len(found) == len(dataset.media)
    for row in dataset.media.iter_rows(named=True):
        sample = found[row["sha256"]]
        assert sample[row["path"].rpartition(".")[2]] == dataset.path(row["path"]).read_bytes()
        record = sample["json"]
        for column in ("media_id", "modality", "licence", "rights_holder", "species", "class", "split", "duration_s"):
            assert record[column] == row[column]
        assert record["recorded_at"] == row["recorded_at"].strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")


def test_keys_are_sorted_and_shards_keep_to_their_size_and_split(dataset: Dataset, shards: Path) -> None:
    manifest = read_manifest(shards, verify=True)
    assert len(tars(shards)) == len(manifest["samples"]) > 8
    for name, n_samples in manifest["samples"].items():
        samples = list(read_shard(shards / name))
        assert [key for key, _ in samples] == sorted(key for key, _ in samples)
        assert len(samples) == n_samples
        assert {sample["json"]["split"] for _, sample in samples} == {name.rpartition("-")[0]}
        size = sum(len(content) for _, sample in samples for suffix, content in sample.items() if suffix != "json")
        assert size <= SMALL or n_samples == 1


def test_the_same_dataset_gives_the_same_bytes(
    dataset: Dataset, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1.0)
    before = os.umask(0o077)
    try:
        write_shards(dataset, tmp_path / "again", shard_bytes=SMALL)
    finally:
        os.umask(before)
    assert tars(tmp_path / "again") == tars(shards)


def test_a_stopped_export_goes_on_and_writes_no_finished_shard_again(
    dataset: Dataset, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    (out / "manifest.json").unlink()
    lost = sorted(out.glob("train-*.tar"))[1]
    lost.unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    write_shards(dataset, out, shard_bytes=SMALL)
    assert tars(out) == tars(shards)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar") if path != lost} == kept
    assert (out / "manifest.json").read_bytes() == (shards / "manifest.json").read_bytes()


def test_a_finished_export_is_left_alone(dataset: Dataset, shards: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert write_shards(dataset, shards, shard_bytes=SMALL) == read_manifest(shards)
    assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_another_export_and_a_strange_folder_are_refused(dataset: Dataset, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="another export"):
        write_shards(dataset, shards, shard_bytes=SMALL + 1)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match="no export of ours"):
        write_shards(dataset, tmp_path)
    with pytest.raises(DatasetError, match="split 'tran'"):
        write_shards(dataset, tmp_path / "new", split="tran")
    with pytest.raises(DatasetError, match="never finished"):
        next(read_shards(tmp_path))


def test_one_split_is_written_and_read_alone(dataset: Dataset, shards: Path, tmp_path: Path) -> None:
    write_shards(dataset, tmp_path / "val", split="val")
    assert list(tars(tmp_path / "val")) == ["val-000000.tar"]
    n_val = (dataset.media["split"] == "val").sum()
    assert sum(1 for _ in read_shards(tmp_path / "val")) == sum(1 for _ in read_shards(shards, split="val")) == n_val


def test_a_medium_that_changed_stops_the_export(dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(dataset.folder, tmp_path / "dataset")
    copy = Dataset.open(tmp_path / "dataset")
    victim = copy.path(copy.media["path"][0])
    victim.write_bytes(victim.read_bytes()[::-1])
    with pytest.raises(DatasetError, match=f"{victim.name}: changed"):
        write_shards(copy, tmp_path / "out")
    victim.unlink()
    with pytest.raises(DatasetError, match="No such file"):
        write_shards(copy, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_every_medium_is_read_alone_by_its_address(dataset: Dataset, shards: Path) -> None:
    opened = Shards.open(shards)
    assert opened.taxa.equals(dataset.taxa)
    assert opened.media.drop("path").equals(dataset.media.drop("path", "fingerprint"))
    for mine, original in zip(opened.media["path"], dataset.media["path"], strict=True):
        whole = opened.path(mine)
        assert whole.content == dataset.path(original).read_bytes()
        assert whole.suffix == Path(original).suffix
        assert str(shards) in str(whole)


def test_the_index_is_pinned_and_the_same_each_time(dataset: Dataset, shards: Path, tmp_path: Path) -> None:
    write_shards(dataset, tmp_path / "again", shard_bytes=SMALL)
    for name in ("index.parquet", "taxa.parquet", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (shards / name).read_bytes()
    (tmp_path / "again" / "index.parquet").write_bytes((shards / "taxa.parquet").read_bytes())
    with pytest.raises(DatasetError, match=r"index\.parquet: changed"):
        read_manifest(tmp_path / "again", verify=True)


def test_shards_of_an_earlier_version_get_their_index_and_keep_their_bytes(
    dataset: Dataset, shards: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(shards, old)
    manifest = json.loads((old / "manifest.json").read_text())
    for name in ("index.parquet", "taxa.parquet"):
        (old / name).unlink()
        del manifest["sha256"][name]
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match=r"has no index\.parquet.*`biovita data shard`.*adds"):
        Shards.open(old)
    before = {path.name: path.stat().st_mtime_ns for path in old.glob("*.tar")}
    write_shards(dataset, old, shard_bytes=SMALL)
    assert {path.name: path.stat().st_mtime_ns for path in old.glob("*.tar")} == before
    assert (old / "manifest.json").read_bytes() == (shards / "manifest.json").read_bytes()
    assert Shards.open(old).media.equals(Shards.open(shards).media)


def test_the_index_of_one_split_names_no_other(dataset: Dataset, tmp_path: Path) -> None:
    write_shards(dataset, tmp_path / "val", split="val")
    assert set(Shards.open(tmp_path / "val").media["split"]) == {"val"}


def test_a_folder_that_holds_no_shards_is_no_shards(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="holds no shards"):
        Shards.open(dataset.folder)


@pytest.mark.parametrize(
    "address",
    [
        "../{shard}/{place}/{name}",
        "/etc/passwd/0+1/{name}",
        "{shard}/{place}/../{name}",
        "{shard}/-1+5/{name}",
        "{shard}/9999999999999999999999+1/{name}",
        "{shard}/{place}/{name}/x",
        "train-1.tar/{place}/{name}",
        "",
    ],
)
def test_what_is_no_address_is_refused(address: str, shards: Path) -> None:
    opened = Shards.open(shards)
    shard, place, name = opened.media["path"][0].split("/")
    with pytest.raises(DatasetError, match="is no SHARD/OFFSET"):
        opened.path(address.format(shard=shard, place=place, name=name))


def test_an_address_that_leads_elsewhere_gives_a_reason_and_no_bytes(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    opened = Shards.open(out)
    address = opened.media["path"][0]
    shard, place, name = address.split("/")
    offset, size = map(int, place.split("+"))
    end = (out / shard).stat().st_size
    for wrong, reason in (
        (f"{shard}/{offset + 1}+{size}/{name}", "corrupt"),
        (f"{shard}/{offset}+{size - 1}/{name}", "corrupt"),
        (f"{shard}/{end - 10}+{size}/{name}", "truncated"),
        (f"{shard}/{offset}+999999999999999/{name}", "truncated"),
        (f"{shard}/999999999+{size}/{name}", "truncated"),
        (f"train-999999.tar/{offset}+{size}/{name}", "unreadable"),
    ):
        with pytest.raises(MediaError) as refused:
            opened.path(wrong)
        assert refused.value.reason == reason, wrong
        assert wrong.split("/")[0] in str(refused.value)
    whole = bytearray((out / shard).read_bytes())
    whole[offset + size // 2] ^= 1
    (out / shard).write_bytes(whole)
    with pytest.raises(MediaError, match=f"corrupt: .*{shard}: {name} has other bytes"):
        opened.path(address)


@pytest.mark.filterwarnings("ignore")  # webdataset's own
def test_webdataset_reads_the_same_samples(shards: Path) -> None:
    import webdataset

    for path in sorted(shards.glob("val-*.tar")):
        ours = list(read_shard(path))
        theirs = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
        assert [sample["__key__"] for sample in theirs] == [key for key, _ in ours]
        for (_, sample), other in zip(ours, theirs, strict=True):
            assert {name: value for name, value in other.items() if not name.startswith("__")} == {
                name: value if name != "json" else other["json"] for name, value in sample.items()
            }
            assert json.loads(other["json"]) == sample["json"]


SOUND = b"a sound"
KEY = hashlib.sha256(SOUND).hexdigest()
LATER = next(sound for i in range(99) if hashlib.sha256(sound := b"%d" % i).hexdigest() > KEY)
RECORD = json.dumps({"sha256": KEY}).encode()
Member = tuple[str, bytes, dict[str, object]]


def good(sound: bytes = SOUND, **changes: object) -> list[Member]:
    key = hashlib.sha256(sound).hexdigest()
    return [(f"{key}.flac", sound, changes), (f"{key}.json", json.dumps({"sha256": key}).encode(), {})]


def make_tar(path: Path, members: list[Member], **options: object) -> Path:
    with tarfile.open(path, "w", format=options.get("format", tarfile.USTAR_FORMAT)) as tar:
        for name, content, changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return path


HOSTILE: dict[str, tuple[list[Member], str]] = {
    "link": (
        [*good(), ("f" * 64 + ".json", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})],
        "unsafe_archive",
    ),
    "hard link": ([*good(), ("f" * 64 + ".json", b"", {"type": tarfile.LNKTYPE, "linkname": KEY})], "unsafe_archive"),
    "folder": ([("a/", b"", {"type": tarfile.DIRTYPE}), *good()], "unsafe_archive"),
    "fifo": ([(f"{KEY}.flac", b"", {"type": tarfile.FIFOTYPE})], "unsafe_archive"),
    "device": ([(f"{KEY}.flac", b"", {"type": tarfile.CHRTYPE})], "unsafe_archive"),
    "sparse": ([(f"{KEY}.flac", b"", {"type": tarfile.GNUTYPE_SPARSE})], "unsafe_archive"),
    "absolute": ([("/" + f"{KEY}.flac", SOUND, {})], "unsafe_archive"),
    "climbing": ([("../" + f"{KEY}.flac", SOUND, {})], "unsafe_archive"),
    "in a folder": ([(f"a/{KEY}.flac", SOUND, {})], "unsafe_archive"),
    "no hash": ([("bird.flac", SOUND, {}), ("bird.json", RECORD, {})], "unsafe_archive"),
    "pickle": ([*good(), (f"{KEY}.pkl", b"cos\nsystem\n", {})], "unsafe_pickle"),
    "pyd": ([(f"{KEY}.pyd", b"cos\nsystem\n", {})], "unsafe_pickle"),
    "upper-case pickle": ([(f"{KEY}.PKL", b"", {})], "unsafe_pickle"),
    "strange suffix": ([*good(), (f"{KEY}.sh", b"rm", {})], "unsafe_archive"),
    "two suffixes": ([(f"{KEY}.tar.flac", SOUND, {})], "unsafe_archive"),
    "the same twice": ([*good(), *good()], "unsafe_archive"),
    "unsorted": ([*good(LATER), *good()], "unsafe_archive"),
    "the same again": ([*good(), *good(LATER), *good()], "unsafe_archive"),
    "no medium": ([(f"{KEY}.json", RECORD, {})], "unsafe_archive"),
    "no record": ([(f"{KEY}.flac", SOUND, {})], "unsafe_archive"),
    "two media": ([*good(), (f"{KEY}.mp3", SOUND, {})], "unsafe_archive"),
    "other bytes": ([(f"{KEY}.flac", b"another", {}), (f"{KEY}.json", RECORD, {})], "corrupt"),
    "other record": ([(f"{KEY}.flac", SOUND, {}), (f"{KEY}.json", b'{"sha256": "0"}', {})], "corrupt"),
    "no JSON": ([(f"{KEY}.flac", SOUND, {}), (f"{KEY}.json", b"[1", {})], "corrupt"),
    "deep JSON": ([(f"{KEY}.flac", SOUND, {}), (f"{KEY}.json", b"[" * 200_000, {})], "corrupt"),
    "list as JSON": ([(f"{KEY}.flac", SOUND, {}), (f"{KEY}.json", b"[]", {})], "corrupt"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_archive_that_we_would_not_write_is_refused(case: str, tmp_path: Path) -> None:
    members, reason = HOSTILE[case]
    path = make_tar(tmp_path / "x.tar", members)
    with pytest.raises(MediaError) as refused:
        list(read_shard(path))
    assert refused.value.reason == reason
    assert str(path) in str(refused.value)


def test_a_good_archive_of_another_maker_is_read(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", good(mtime=5, uname="me"))
    assert list(read_shard(path)) == [(KEY, {"flac": SOUND, "json": {"sha256": KEY}})]
    assert list(read_shard(make_tar(tmp_path / "empty.tar", []))) == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: b[:700], "truncated"),
        (lambda b: b[:-1024].rstrip(b"\0") + b"", "truncated"),
        (lambda b: b"", "truncated"),
        (lambda b: b[: b.index(b"\0" * 1024)] + b"\0" * 512, "truncated"),
        (lambda b: b + b"\0" * 512 + b"PK\x03\x04", "unsafe_archive"),
        (lambda b: gzip.compress(b, 0), "unsafe_archive"),
        (lambda b: b"#!/bin/sh\n" * 100, "unsafe_archive"),
        (lambda b: b[:124] + b"77777777777\0" + b[136:], "unsafe_archive"),  # a size that the checksum does not cover
    ],
)
def test_a_cut_or_strange_archive_is_refused(damage: Callable[[bytes], bytes], reason: str, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", good())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MediaError) as refused:
        list(read_shard(path))
    assert refused.value.reason == reason


@pytest.mark.parametrize("size", [-1, -10_000, 1 << 40, (1 << 62)])
def test_an_impossible_size_is_refused_at_once(size: int, tmp_path: Path) -> None:
    info = tarfile.TarInfo(f"{KEY}.flac")
    info.size = size
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)
    with pytest.raises(MediaError, match="truncated"):
        list(read_shard(path))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_headers_that_rename_the_next_member_are_refused(form: int, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", [("x" * 300 + ".flac", SOUND, {})], format=form)
    with pytest.raises(MediaError, match="no plain file"):
        list(read_shard(path))


def test_a_shard_behind_a_link_or_a_pipe_is_refused(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", good())
    (tmp_path / "link.tar").symlink_to(tmp_path / "x.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    for name in ("link.tar", "pipe.tar", "absent.tar"):
        with pytest.raises(MediaError, match="not_regular_file"):
            list(read_shard(tmp_path / name))


def test_a_manifest_cannot_lead_out_of_the_folder_or_count_wrong(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    manifest = json.loads((out / "manifest.json").read_text())
    name = next(iter(manifest["samples"]))
    (out / "manifest.json").write_text(json.dumps({**manifest, "samples": {"../x-000000.tar": 1}}))
    with pytest.raises(DatasetError, match="no name of a shard"):
        list(read_shards(out))
    (out / "manifest.json").write_text(json.dumps({**manifest, "samples": {name: manifest["samples"][name] + 1}}))
    with pytest.raises(MediaError, match="truncated"):
        list(read_shards(out))


def test_500_mutated_shards_give_true_samples_or_a_reason_and_touch_nothing(shards: Path, tmp_path: Path) -> None:
    source = min(shards.glob("*.tar"), key=lambda path: path.stat().st_size)
    truth = dict(read_shard(source))
    whole = source.read_bytes()
    rng = np.random.default_rng(11)
    reasons = set()
    path = tmp_path / "some" / "where" / "deep" / "x.tar"  # so that ../.. is still ours to look at
    path.parent.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(damaged)))
            if rng.random() < 0.5:  # half of them in a header
                at = at // 512 * 512 + int(rng.integers(512))
            damaged[min(at, len(damaged) - 1)] = int(rng.integers(256))
        if rng.random() < 0.3:
            del damaged[int(rng.integers(len(damaged))) :]
        path.write_bytes(damaged)
        try:
            for key, sample in read_shard(path):
                assert {name: value for name, value in sample.items() if name != "json"}.items() <= truth[key].items()
        except MediaError as error:
            reasons.add(error.reason)
    path.unlink()
    assert reasons >= {"truncated", "corrupt", "unsafe_archive"}
    assert sorted(tmp_path.rglob("*")) == before


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_runs_are_gapless_and_as_full_as_they_may_be(sizes: list[int], limit: int) -> None:
    runs = list(fill(sizes, limit))
    assert [i for start, end in runs for i in range(start, end)] == list(range(len(sizes)))
    for start, end in runs:
        assert end > start
        assert sum(sizes[start:end]) <= limit or end == start + 1
        assert end == len(sizes) or sum(sizes[start : end + 1]) > limit


def test_building_a_dataset_loads_no_torch() -> None:
    code = (
        "import sys, biovita.data.build, biovita.data.hub_parquet, biovita.data.camtrap, biovita.report.card_plots;"
        "sys.exit(bool({'torch', 'webdataset'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
