"""Files without sound or picture are left out of questions and answers: as if the task files had never named them."""

import json
import shutil

import polars as pl
import pytest

from biovita.bench.build import make_bench
from biovita.bench.official import open_bench, read_index
from biovita.bench.run import score_bench
from biovita.bench.tasks import MODALITIES


@pytest.fixture
def official(make_dataset, tmp_path):
    make_bench(
        make_dataset(tmp_path / "dataset", n_species=30, n_withheld=12), tmp_path / "bench", seed=3, n_candidates=6
    )
    return shutil.copytree(tmp_path / "bench" / "unseen", tmp_path / "official")


def without(folder, gone):
    """Rewrite the task files: no query of these ids, no such samples, and no query whose candidate has lost all."""
    n_dropped = {}
    for path in sorted(folder.glob("*/test_*.csv")):
        table = pl.read_csv(path, infer_schema=False)
        rows = []
        for row in table.iter_rows(named=True):
            lists = [[one for one in ids if one not in gone] for ids in json.loads(row["candidates_target_ids"])]
            if row["query_payload_id"] not in gone and all(lists):
                rows.append({**row, "candidates_target_ids": json.dumps(lists)})
        pl.DataFrame(rows, schema=table.schema).write_csv(path)
        n_dropped[path.parent.name, path.stem] = len(table) - len(rows)
    return n_dropped


@pytest.mark.parametrize("missing", ["error", "zero"])
def test_left_out_ids_change_the_scores_as_rewriting_the_tasks_does(official, embed, noisy, tmp_path, missing):
    vectors = embed(official, tmp_path / "embeddings", noisy(1.0))
    ids = {name: read_index(official, name)["id"].to_list() for name in ("audio", "image")}
    alone = next(
        i
        for i in ids["image"]
        if (table := read_index(official, "image")).filter(pl.col("species") == table.filter(id=i)["species"][0]).height
        > 1
    )
    gone = {**dict.fromkeys(ids["audio"][:3], "corrupt"), alone: "html_document"}
    found = score_bench(official, vectors, out=tmp_path / "a.json", split="unseen", missing=missing, left_out=gone)
    rewritten = shutil.copytree(official, tmp_path / "rewritten")
    n_dropped = without(rewritten, set(gone))
    wanted = score_bench(rewritten, vectors, out=tmp_path / "b.json", split="unseen", missing=missing)
    assert sum(n_dropped.values()) > 0
    for mine, theirs in zip(found["scenarios"], wanted["scenarios"], strict=True):
        names = {letter: name for name in MODALITIES for letter in name[0]}
        file = f"test_{names[mine['direction'][0]]}_to_{names[mine['direction'][2]]}"
        assert mine["n_skipped"] == n_dropped[mine["level"], file]
        assert {**mine, "n_skipped": 0} == {**theirs, "n_skipped": 0}
    assert found["run"]["left_out"] == {"corrupt": 3, "html_document": 1}
    a, b = (pl.read_parquet(tmp_path / f"{name}.predictions.parquet") for name in "ab")
    assert a.equals(b)
    assert open_bench(official, "unseen").present


def test_a_vector_that_is_missing_for_no_reason_is_still_an_error(official, embed, noisy, tmp_path):
    from biovita.errors import BenchError

    ids = read_index(official, "audio")["id"].to_list()
    vectors = embed(official, tmp_path / "embeddings", noisy(1.0), drop=lambda _, item: item == ids[0])
    with pytest.raises(BenchError, match="lacks"):
        score_bench(official, vectors, out=tmp_path / "a.json", split="unseen", left_out={ids[-1]: "corrupt"})
