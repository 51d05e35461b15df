import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biovita.embed.store import check_joinable, join_embeddings, read_embeddings, write_embeddings
from biovita.errors import EmbeddingError

META = {"model": "made up", "weights_sha256": "ab" * 32, "preprocess": "48 kHz, 10 s"}


def unit(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_round_trip(tmp_path, n):
    vectors = unit(n)
    write_embeddings(
        tmp_path / "audio.parquet",
        ids=[f"id {i}" for i in range(n)],
        modality="audio",
        embedding=vectors,
        start_s=[None if i % 2 else 0.5 * i for i in range(n)],
        end_s=[None if i % 2 else 0.5 * i + 10 for i in range(n)],
        **META,
    )
    table = read_embeddings(tmp_path / "audio.parquet")
    assert table.ids == [f"id {i}" for i in range(n)]
    assert table.modality == ["audio"] * n
    assert table.text == table.level == [None] * n
    assert table.start_s == [None if i % 2 else 0.5 * i for i in range(n)]
    assert table.meta == META
    assert table.embedding.dtype == np.float32
    np.testing.assert_array_equal(table.embedding, vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["audio.parquet"]


def test_the_file_is_as_the_contract_says(tmp_path):
    write_embeddings(tmp_path / "x.parquet", ids=["a"], modality="image", embedding=unit(1), **META)
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.names == ["id", "modality", "start_s", "end_s", "text", "level", "embedding"]
    assert pa.types.is_fixed_size_list(schema.field("embedding").type)
    assert schema.field("embedding").type.value_type == pa.float32()
    assert schema.metadata == {f"biovita.{key}".encode(): value.encode() for key, value in META.items()}


def test_one_item_may_have_several_levels_and_windows(tmp_path):
    levels = ["species", "genus", None, None]
    starts = [None, None, 0.0, 10.0]
    write_embeddings(
        tmp_path / "x.parquet",
        ids=["a"] * 4,
        modality=["text", "text", "audio", "audio"],
        level=levels,
        text=["Corvus corax", "Corvus", None, None],
        start_s=starts,
        embedding=unit(4),
        **META,
    )
    assert read_embeddings(tmp_path / "x.parquet").level == levels


GOOD = {"ids": ["a", "b", "c"], "modality": "text", "embedding": unit(3), "level": ["species"] * 3, **META}


def scaled(row: int, factor: float) -> np.ndarray:
    vectors = unit(3)
    vectors[row] *= factor
    return vectors


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ({"embedding": scaled(1, np.nan)}, "the vector of 'b' is not finite"),
        ({"embedding": scaled(2, np.inf)}, "the vector of 'c' is not finite"),
        ({"embedding": scaled(1, 1.01)}, r"the vector of 'b' has length 1.01, not 1"),
        ({"embedding": scaled(0, 0.0)}, "the vector of 'a' has length 0, not 1"),
        ({"embedding": unit(3) * 2}, "the vector of 'a', 'b', 'c' has length 2"),
        ({"embedding": unit(3).astype(np.float64)[:, 0]}, r"shape \(3,\)"),
        ({"embedding": unit(2)}, "2 vectors but 3 values of id"),
        ({"level": ["species"]}, "3 vectors but 1 values of level"),
        ({"ids": ["a", "b", "a"]}, r"2 rows share the key \(id 'a', level 'species'\)"),
        ({"ids": ["a", None, "c"]}, "1 rows have no id"),
        ({"modality": "smell"}, "modality 'smell'; use one of audio, image, text"),
    ],
)
def test_rows_that_break_a_law_are_neither_written_nor_read(tmp_path, harm, message):
    path = tmp_path / "x.parquet"
    with pytest.raises(EmbeddingError, match=message):
        write_embeddings(path, **{**GOOD, **harm})
    assert not path.exists()


def foreign(path, vectors: pa.Array, *, drop: str = "", **columns) -> None:
    """Write a file as another program would."""
    n = len(vectors)
    data = {"id": [f"{i}" for i in range(n)], "modality": ["audio"] * n, **columns, "embedding": vectors}
    meta = {f"biovita.{key}": value for key, value in META.items() if key != drop}
    table = pa.table({name: value for name, value in data.items() if name != drop})
    pq.write_table(table.replace_schema_metadata(meta), path)


def test_plain_lists_and_other_widths_of_float_are_read(tmp_path):
    vectors = unit(3)
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 8)):
        foreign(
            tmp_path / "x.parquet",
            pa.array([row.astype(np.float16) for row in vectors], pa.list_(pa.float16(), 8))
            if kind == pa.list_(pa.float16(), 8)
            else pa.array(vectors.tolist(), kind),
        )
        np.testing.assert_allclose(read_embeddings(tmp_path / "x.parquet").embedding, vectors, atol=1e-3)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: foreign(path, pa.array(unit(3).tolist()), drop="preprocess"), "lacks biovita.preprocess"),
        (lambda path: foreign(path, pa.array(unit(3).tolist()), drop="weights_sha256"), "lacks biovita.weights_sha256"),
        (lambda path: foreign(path, pa.array(unit(3).tolist()), drop="modality"), "no column modality; the columns"),
        (lambda path: foreign(path, pa.array([[1.0, 0.0], [1.0]])), "vectors of 1 and of 2 numbers"),
        (lambda path: foreign(path, pa.array([[1.0, 0.0], None])), "the embedding of '1' is null"),
        (lambda path: foreign(path, pa.array([[1.0, None]])), "the vector of '0' is not finite"),
        (lambda path: foreign(path, pa.array([[1, 0]])), "column embedding holds int64"),
        (lambda path: foreign(path, pa.array(["1 0"])), "column embedding is string"),
        (lambda path: path.write_bytes(b"PAR1 and nothing else"), "not a readable Parquet file"),
        (lambda path: None, "no such embedding file"),
    ],
)
def test_files_that_cannot_be_trusted_are_refused(tmp_path, write, message):
    path = tmp_path / "x.parquet"
    write(path)
    with pytest.raises(EmbeddingError, match=message):
        read_embeddings(path)


def test_many_bad_rows_are_counted(tmp_path):
    with pytest.raises(EmbeddingError, match=r"'0', '1', '2', '3', '4' and 15 more has length 3"):
        write_embeddings(
            tmp_path / "x.parquet", ids=[str(i) for i in range(20)], modality="audio", embedding=3 * unit(20), **META
        )


@pytest.mark.parametrize("key", list(META))
def test_files_of_two_models_do_not_join_and_both_values_are_shown(tmp_path, key):
    for name, meta in (("a", META), ("b", META), ("c", {**META, key: "other"})):
        write_embeddings(tmp_path / name, ids=["x"], modality="audio", embedding=unit(1), **meta)
    a, b, c = (read_embeddings(tmp_path / name) for name in "abc")
    assert check_joinable([a, b]) == META
    with pytest.raises(EmbeddingError, match=f"biovita.{key} is '{META[key]}' in the first and 'other' in the second"):
        check_joinable([a, c])


def test_files_of_two_dimensions_do_not_join(tmp_path):
    for name, dim in (("a", 8), ("b", 4)):
        write_embeddings(tmp_path / name, ids=["x"], modality="audio", embedding=unit(1, dim), **META)
    with pytest.raises(EmbeddingError, match="vectors of 8 and of 4 numbers"):
        check_joinable([read_embeddings(tmp_path / name) for name in "ab"])


@pytest.mark.parametrize("sizes", [[1], [3, 1, 4], [5000, 1, 5000, 7]])
def test_joined_parts_are_the_rows_of_all_in_their_order(tmp_path, sizes):
    whole = unit(sum(sizes))
    ids = [f"id {n}" for n in range(len(whole))]
    parts, begin = [], 0
    for n, size in enumerate(sizes):
        rows = slice(begin, begin + size)
        parts.append(tmp_path / f"part{n}")
        level = ["name"] * size if n % 2 else None
        write_embeddings(
            parts[-1], ids=ids[rows], modality="text", embedding=whole[rows], text=ids[rows], level=level, **META
        )
        begin += size
    assert join_embeddings(tmp_path / "x.parquet", parts) == len(whole)
    table = read_embeddings(tmp_path / "x.parquet")
    assert table.ids == table.text == ids
    np.testing.assert_array_equal(table.embedding, whole)
    assert table.meta == META
    assert pq.read_schema(tmp_path / "x.parquet").metadata == pq.read_schema(parts[0]).metadata


@pytest.mark.parametrize("case", ["model", "dimension", "key"])
def test_parts_that_do_not_belong_together_are_not_joined(tmp_path, case):
    other = {**META, "model": "another"} if case == "model" else META
    write_embeddings(tmp_path / "a", ids=["a", "b"], modality="image", embedding=unit(2), **META)
    ids = ["c", "a"] if case == "key" else ["c", "d"]
    vectors = unit(2, dim=4 if case == "dimension" else 8)
    write_embeddings(tmp_path / "b", ids=ids, modality="image", embedding=vectors, **other)
    with pytest.raises(EmbeddingError, match="2 rows share the key" if case == "key" else "is not of one model with"):
        join_embeddings(tmp_path / "x.parquet", [tmp_path / "a", tmp_path / "b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_one_flipped_bit_of_a_vector_is_seen(tmp_path):
    write_embeddings(tmp_path / "x.parquet", ids=["a", "b"], modality="image", embedding=unit(2), **META)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[content.index(unit(2).tobytes()) + 32] ^= 1
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(EmbeddingError, match="not a readable Parquet file"):
        read_embeddings(tmp_path / "x.parquet")


def test_the_store_and_the_scorer_load_no_torch():
    code = "import biovita.embed.store, biovita.bench.run, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
