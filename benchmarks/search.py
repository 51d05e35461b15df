"""An archive of a million vectors beside faiss and usearch, in one run; killed writers, and readers during rebuilds.

    python benchmarks/search.py FOLDER [--rows 1000000] [--peer-rows 1000000] [--demo demo]
    python benchmarks/search.py FOLDER [--kills 50] [--rebuilds 100] [--store s3://bucket]

The vectors have the structure of a trained model's, not that of white noise, in which nothing has neighbours:

1. 14,133 species lie along a tree of 12 classes, 120 orders, 700 families and 4,200 genera; each level adds a step,
   with a share of the variance of 0.25, 0.2, 0.2, 0.15 and 0.2, so that relatives lie near to each other.
2. Every step and the scatter within a species (0.4 of the variance of a row) is drawn from a spectrum that falls as
   1/n, as that of good representations does (Agrawal et al. 2022, alpha-ReQ), and is turned at random in 768
   dimensions. That is harder than our own tiny models, whose vectors fill 5 dimensions where these fill 32.
3. Species are unequally common (log-normal, sigma 1.5). Queries are further draws, none of which is in the base.

Every method runs in a process of its own, with two threads: build, size on disk, recall of the 10 true nearest (by
comparing all, numpy), the median of single searches one after the other (`Archive.nearest`), and searches a second in
one batch (`Archive.nearest_many`); the archive also returns all that is known of each hit. faiss Flat is measured first
and last. FOLDER keeps vectors and archive: the next run measures the same index again.

Killed: a writer commits five files at a time, adding and replacing, and gets SIGKILL at a random moment; lost is a
commit that it had reported and that is gone, torn one that is there in part. Read: 8 processes open the archive and
search it without pause, while it is added to and rebuilt. Both also on an object store, which `AWS_ENDPOINT` and the
other AWS_* variables reach.

Several modalities: the vectors of a demo (`biovita demo`) are searched for any modality, by cosine and by standing.

Prints and writes docs/results/search.md; a part that was not asked for stays there as it is. Linux.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
from usearch.index import Index

from biovita.embed.store import Facts, read_embeddings
from biovita.errors import ArchiveError
from biovita.files import sha256_json
from biovita.search.archive import About, Archive, Entry
from biovita.search.query import Example, search

PAGE = Path(__file__).parents[1] / "docs" / "results" / "search.md"
WIDTH, K, BLOCK, THREADS = 768, 10, 20_000, 2
LEVELS = {
    "class": (12, 0.25),
    "order": (120, 0.2),
    "family": (700, 0.2),
    "genus": (4200, 0.15),
    "species": (14_133, 0.2),
}
WITHIN = 0.4  # of the variance of a row, around its species
FACTS = Facts(model="made-up", weights_sha256="", preprocess="")
N_SINGLE, N_READERS, N_FILES = 200, 8, 5
MONTHS = [datetime(2024, month, 1, tzinfo=UTC) for month in range(1, 13)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--peer-rows", type=int, default=0, help="for the graphs of faiss and usearch")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--rebuilds", type=int, default=0)
    parser.add_argument("--store", help="an address for the killed writers and the readers, such as s3://bucket")
    parser.add_argument("--demo", type=Path, help="a finished demo folder, for hits of several modalities")
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.writer:
        write_until_killed(asked.writer)
    asked.folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, str] = {}
    for rows in sorted({asked.rows, asked.peer_rows} - {0}, reverse=True):
        parts[f"{rows:,} vectors"] = speed(asked.folder, rows, asked.queries, peers=rows == asked.peer_rows)
    on = " on an object store" if asked.store else ""
    if asked.kills:
        parts["Killed writers" + on] = killed(asked.kills, asked.store)
    if asked.rebuilds:
        parts["Readers during rebuilds" + on] = read_during(asked.rebuilds, asked.store)
    if asked.demo:
        parts["Hits of several modalities"] = between(asked.demo, asked.folder)
    write_page(parts)
    return 0


def speed(folder: Path, n_rows: int, n_queries: int, *, peers: bool) -> str:
    """Measure all methods on so many vectors and return the section of the page."""
    shape = alone(make_vectors, folder, n_rows, n_queries)["result"]
    methods: dict[str, Callable[[Path, int], dict[str, Any]]] = {"faiss Flat": flat, "BioVITA archive": archive}
    if peers:
        methods |= {"faiss HNSW32": hnsw, "usearch HNSW16 f16": usearch_graph}
    methods["faiss Flat again"] = flat
    found: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        measured = alone(method, folder, n_rows)
        found[name] = {**measured["result"], "peak_mb": measured["peak_mb"]}
        print(name, json.dumps(found[name]), flush=True)
    base = max(found[name]["per_s"] for name in found if name.startswith("faiss Flat"))
    lines = [
        f"{n_rows:,} vectors of 768 numbers, {n_queries} queries that are not among them. Cosine of a query to its "
        f"nearest row {shape['nearest']} (5, 50, 95 %), to its tenth {shape['tenth']}, to any {shape['any']}; the rows "
        f"fill {shape['dimensions']:.1f} dimensions (participation ratio of the covariance).",
        "",
        "| method | build, s | size, MB | recall@10 | single, ms | 95 %, ms | searches/s | times Flat | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        lines.append(
            f"| {name} | {row['build_s']:.0f} | {row['size_mb']:,.0f} | {row['recall']:.3f} | {row['single_ms']:.1f} | "
            f"{row['single_95_ms']:.1f} | {row['per_s']:,.0f} | {row['per_s'] / base:.1f} | {row['peak_mb']:,.0f} |"
        )
    if filtered := found["BioVITA archive"].get("filtered_ms"):
        lines += ["", f"With `where=\"month = 5\"`, a twelfth of the rows: median {filtered:.1f} ms, recall@10 "
                      f"{found['BioVITA archive']['filtered_recall']:.3f}."]  # fmt: skip
    return "\n".join(lines)


def alone(work: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Run a function in a process of its own, and return what it returned and the process's peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, args))


def _measured(work: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
    result = work(*args)
    return {"result": result, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def files(folder: Path, n_rows: int) -> dict[str, Path]:
    """Name the files of so many vectors."""
    return {what: folder / f"{what}-{n_rows}.npy" for what in ("rows", "queries", "truth", "truth_may")}


def make_vectors(folder: Path, n_rows: int, n_queries: int) -> dict[str, Any]:
    """Draw vectors and queries, unless they are there, and find the true neighbours; return their structure."""
    named, facts = files(folder, n_rows), folder / f"structure-{n_rows}.json"
    if facts.is_file():
        return json.loads(facts.read_text())
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, WIDTH + 1)
    scale = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)

    def draw(n: int) -> np.ndarray:
        return rng.standard_normal((n, WIDTH), dtype=np.float32) * scale

    centres = np.zeros((1, WIDTH), np.float32)
    for size, share in LEVELS.values():
        weight = rng.lognormal(0, 1, len(centres))
        parents = rng.choice(len(centres), size, p=weight / weight.sum())
        centres = centres[parents] + np.float32(np.sqrt(share)) * draw(size)
    weight = rng.lognormal(0, 1.5, len(centres))

    def rows(n: int) -> np.ndarray:
        species = rng.choice(len(centres), n, p=weight / weight.sum())
        around = np.sqrt(1 - WITHIN) * centres[species] + np.sqrt(WITHIN) * draw(n)
        vectors = (around.astype(np.float32)) @ turn
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    queries = rows(n_queries)
    base = np.lib.format.open_memmap(named["rows"], "w+", np.float32, (n_rows, WIDTH))
    best = {
        what: (np.full((n_queries, K), -2, np.float32), np.zeros((n_queries, K), np.int64)) for what in ("", "_may")
    }
    for start in range(0, n_rows, BLOCK):
        base[start : start + BLOCK] = block = rows(min(BLOCK, n_rows - start))
        scores = queries @ block.T
        number = np.arange(start, start + len(block))
        for what, kept in (("", slice(None)), ("_may", number % 12 == 4)):
            all_scores = np.concatenate([best[what][0], scores[:, kept]], axis=1)
            all_numbers = np.concatenate([best[what][1], np.broadcast_to(number[kept], scores[:, kept].shape)], axis=1)
            order = np.argsort(-all_scores, axis=1, kind="stable")[:, :K]
            best[what] = tuple(np.take_along_axis(table, order, axis=1) for table in (all_scores, all_numbers))
    base.flush()
    np.save(named["queries"], queries)
    for what in best:
        np.save(named[f"truth{what}"], best[what][1])
    variance = np.linalg.eigvalsh(np.cov(base[:BLOCK].T))

    def spread(values: np.ndarray) -> str:
        return ", ".join(f"{value:.2f}" for value in np.percentile(values, [5, 50, 95]))

    structure = {
        "nearest": spread(best[""][0][:, 0]),
        "tenth": spread(best[""][0][:, -1]),
        "any": spread(queries @ base[:BLOCK].T),
        "dimensions": float(variance.sum() ** 2 / (variance**2).sum()),
    }
    facts.write_text(json.dumps(structure))
    return structure


def measure(
    folder: Path, n_rows: int, one: Callable[[np.ndarray], list[int]], many: Callable[[np.ndarray], Any]
) -> dict[str, float]:
    """Measure recall and speed of a search for single queries and for many."""
    named = files(folder, n_rows)
    queries, truth = np.load(named["queries"]), np.load(named["truth"])
    for query in queries[:20]:
        one(query)
    seconds, shares = [], []
    for query, true in zip(queries[:N_SINGLE], truth, strict=False):
        begin = time.perf_counter()
        found = one(query)
        seconds.append(time.perf_counter() - begin)
        shares.append(len(set(found) & set(true.tolist())) / K)
    begin = time.perf_counter()
    many(queries)
    return {
        "recall": float(np.mean(shares)),
        "single_ms": 1000 * float(np.median(seconds)),
        "single_95_ms": 1000 * float(np.percentile(seconds, 95)),
        "per_s": len(queries) / (time.perf_counter() - begin),
    }


def blocks(folder: Path, n_rows: int) -> Iterator[np.ndarray]:
    """Read the vectors a block at a time."""
    base = np.load(files(folder, n_rows)["rows"], mmap_mode="r")
    for start in range(0, n_rows, BLOCK):
        yield np.ascontiguousarray(base[start : start + BLOCK])


def archive(folder: Path, n_rows: int) -> dict[str, Any]:
    """Measure an archive; one that is there from an earlier run is opened."""
    place, note = folder / f"archive-{n_rows}", folder / f"archive-{n_rows}.json"
    if not note.is_file():
        begin = time.perf_counter()
        made = Archive.create(place, FACTS, width=WIDTH)
        for n, block in enumerate(blocks(folder, n_rows)):
            made.add(entry(n * BLOCK + i, vector) for i, vector in enumerate(block))
        added_s = time.perf_counter() - begin
        made.settle()
        took = {"added_s": added_s, "build_s": time.perf_counter() - begin}
        note.write_text(json.dumps(took))
    made = Archive.open(place)
    status = made.status()
    print(json.dumps({key: status[key] for key in ("n_rows", "index", "n_fragments", "size_bytes")}), flush=True)

    def one(query: np.ndarray, where: str | None = None) -> list[int]:
        return [int(hit.sha256[:8], 16) for hit in made.nearest(query, k=K, where=where)]

    def many(queries: np.ndarray) -> None:
        made.nearest_many(queries, k=K)

    found = measure(folder, n_rows, one, many)
    named = files(folder, n_rows)
    seconds, shares = [], []
    for query, true in zip(np.load(named["queries"])[:50], np.load(named["truth_may"]), strict=False):
        begin = time.perf_counter()
        hits = one(query, "month = 5")
        seconds.append(time.perf_counter() - begin)
        shares.append(len(set(hits) & set(true.tolist())) / K)
    filtered = {"filtered_ms": 1000 * float(np.median(seconds)), "filtered_recall": float(np.mean(shares))}
    return {**json.loads(note.read_text()), **found, **filtered, "size_mb": status["size_bytes"] / 1e6}


def entry(n: int, vector: np.ndarray) -> Entry:
    """Make picture number n, taken in one month after the other."""
    about = About(species="Turdus merula", licence="CC0-1.0", recorded_at=MONTHS[n % 12], latitude_deg=50.0)
    path = f"/pictures/{n:08}.jpg"
    return Entry(path=path, sha256=f"{n:08x}" + "0" * 56, modality="image", vectors=vector[None], about=about)


def flat(folder: Path, n_rows: int) -> dict[str, Any]:
    """Measure faiss, comparing all."""
    return faiss_index(folder, n_rows, faiss.IndexFlatIP(WIDTH))


def hnsw(folder: Path, n_rows: int) -> dict[str, Any]:
    """Measure faiss's graph with 32 links."""
    index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    return faiss_index(folder, n_rows, index)


def faiss_index(folder: Path, n_rows: int, index: Any) -> dict[str, Any]:
    faiss.omp_set_num_threads(THREADS)
    begin = time.perf_counter()
    for block in blocks(folder, n_rows):
        index.add(block)
    build_s = time.perf_counter() - begin
    links = 32 * 2 * 4 * n_rows if isinstance(index, faiss.IndexHNSW) else 0  # of its lowest level, nearly all of them
    found = measure(folder, n_rows, lambda q: index.search(q[None], K)[1][0].tolist(), lambda qs: index.search(qs, K))
    return {**found, "build_s": build_s, "size_mb": (n_rows * WIDTH * 4 + links) / 1e6}


def usearch_graph(folder: Path, n_rows: int) -> dict[str, Any]:
    """Measure usearch's graph over half-precision vectors."""
    index = Index(ndim=WIDTH, metric="ip", dtype="f16", connectivity=16, expansion_add=128, expansion_search=64)
    begin = time.perf_counter()
    for n, block in enumerate(blocks(folder, n_rows)):
        index.add(np.arange(n * BLOCK, n * BLOCK + len(block)), block, threads=THREADS)
    build_s = time.perf_counter() - begin
    found = measure(
        folder, n_rows, lambda q: index.search(q, K).keys.tolist(), lambda qs: index.search(qs, K, threads=THREADS)
    )
    return {**found, "build_s": build_s, "size_mb": index.serialized_length / 1e6}


def write_until_killed(uri: str) -> None:
    """Add and replace five files at a time, and say which block is committed."""
    made = Archive.open(uri)
    block = len(made) // N_FILES  # every second block stands in the place of the one before
    while True:
        made.add(small(block * N_FILES + i, block) for i in range(N_FILES))
        print(block, flush=True)
        block += 1


def small(n: int, block: int) -> Entry:
    """Make a small file; it says which block it is of."""
    vector = np.random.default_rng(n).normal(size=(1, 16)).astype(np.float32)
    vector /= np.linalg.norm(vector)
    about = About(species=f"Block {block}")
    return Entry(path=f"/files/{n}.jpg", sha256=f"{n:08x}" + "0" * 56, modality="image", vectors=vector, about=about)


def killed(n_kills: int, store: str | None) -> str:
    """Kill a writer at random moments and count what is lost or torn."""
    draw = np.random.default_rng(1)
    lost = torn = wrong = n_commits = 0
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{store or folder}/killed"
        Archive.create(uri, FACTS, width=16)
        for _ in range(n_kills):
            words = [sys.executable, __file__, folder, "--writer", uri]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout
                said = [writer.stdout.readline()]
                time.sleep(draw.uniform(0, 0.5))
                os.kill(writer.pid, signal.SIGKILL)
                said += writer.stdout.read().splitlines()
            n_commits += len(said)
            made = Archive.open(uri)
            table = made.column("id", "species")
            per_block = table["species"].value_counts()
            lost += int(said[-1]) + 1 > len(per_block)
            torn += int((per_block["count"] != N_FILES).sum())
            expected = np.concatenate([small(int(one, 16) >> 32, 0).vectors for one in table["id"]])
            wrong += int(not np.array_equal(made.vectors(table["id"].to_list()), expected))
    line = (
        f"{n_kills} kills of a writer, {n_commits:,} commits that it reported: {lost} lost, {torn} torn, "
        f"{wrong} times a vector that differs."
    )
    print(line, flush=True)
    return line


def read_during(n_rebuilds: int, store: str | None) -> str:
    """Rebuild while processes read, and count their answers and errors."""
    with tempfile.TemporaryDirectory() as folder:
        uri, stop = f"{store or folder}/read", Path(folder) / "stop"
        made = Archive.create(uri, FACTS, width=16)
        made.add(small(i, 0) for i in range(N_FILES))
        with multiprocessing.get_context("spawn").Pool(N_READERS) as pool:
            readers = [pool.apply_async(read_until, (uri, str(stop))) for _ in range(N_READERS)]
            for block in range(1, n_rebuilds + 1):
                made.add(small(block * N_FILES + i, block) for i in range(N_FILES))
                made.rebuild()
            stop.touch()
            results = [reader.get() for reader in readers]
    n_answers, n_versions, errors = (
        sum(r[0] for r in results),
        max(r[1] for r in results),
        [e for r in results for e in r[2]],
    )
    line = (
        f"{N_READERS} processes read while the archive was added to and rebuilt {n_rebuilds} times: {n_answers:,} "
        f"answers, up to {n_versions} versions a reader, {len(errors)} errors or mixed versions."
    )
    print(line, *errors[:3], sep="\n", flush=True)
    return line


def read_until(uri: str, stop: str) -> tuple[int, int, list[str]]:
    """Search again and again; an answer must be the first blocks, each whole."""
    n_answers, versions, errors = 0, set(), []
    query = np.ones(16, np.float32)
    while not Path(stop).exists():
        try:
            made = Archive.open(uri)
            hits, _ = made.fetch(query, 10_000)
        except ArchiveError as error:
            errors.append(str(error))
            continue
        numbers = sorted(int(hit.sha256[:8], 16) for hit in hits)
        if numbers != list(range(len(numbers))) or len(numbers) % N_FILES:
            errors.append(f"a mix: {numbers}")
        n_answers += 1
        versions.add(made.version)
    return n_answers, len(versions), errors


def between(demo: Path, folder: Path) -> str:
    """Search the demo's vectors for any modality, by raw cosine and by standing."""
    species = dict(pl.read_parquet(demo / "dataset" / "media.parquet").select("media_id", "species").iter_rows())
    stored = {kind: read_embeddings(demo / "embeddings" / f"{kind}.parquet") for kind in ("audio", "image", "text")}
    place = folder / "between"
    shutil.rmtree(place, ignore_errors=True)
    made = Archive.create(place, FACTS, width=stored["text"].embedding.shape[1])
    entries: list[Entry] = []
    for kind in ("audio", "image"):
        for one, vector in zip(stored[kind].ids, stored[kind].embedding, strict=True):
            facts = {"sha256": sha256_json(one), "modality": kind, "about": About(species=species[one])}
            entries.append(Entry(path=one, vectors=vector[None], **facts))
    made.add(entries)
    draw = np.random.default_rng(0)
    lines = ["| query | ranked by | sounds of 20 hits | of its species | answers with both |", "|---|---|---|---|---|"]
    for kind, table in stored.items():
        asked = np.flatnonzero(np.array(table.level) == "species") if kind == "text" else np.arange(len(table))
        for by in ("cosine", "standing"):
            found = []
            for n in draw.choice(asked, 100, replace=False):
                wanted = table.text[n] if kind == "text" else species[table.ids[n]]
                example = Example(modality=kind, vector=table.embedding[n], item=sha256_json(table.ids[n])[:16])
                if by == "cosine":
                    hits = [hit for hit in made.nearest(example.vector, k=21) if hit.item != example.item][:20]
                else:
                    hits = search(made, [example], k=20, collapse=False)
                is_sound = [hit.modality == "audio" for hit in hits]
                right = [hit.species == wanted for hit in hits]
                found.append((np.mean(is_sound), np.mean(right), 0 < sum(is_sound) < len(hits)))
            share, right, both = np.mean(found, axis=0)
            lines.append(f"| {kind} | {by} | {share:.2f} | {right:.3f} | {both:.2f} |")
    n_files = {kind: len(stored[kind]) for kind in ("audio", "image")}
    head = (
        f"The demo's vectors ({n_files['audio']} sounds, {n_files['image']} pictures, {len(set(species.values()))} "
        "species, a tiny model), 100 queries of each kind, `--to any`."
    )
    print(head, *lines, sep="\n", flush=True)
    return "\n".join([head, "", *lines])


def write_page(parts: dict[str, str]) -> None:
    """Write the page, each section with its command; sections of other runs stay."""
    old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in old.split("\n## ")[1:]}
    command = " ".join(["    python benchmarks/search.py FOLDER", *sys.argv[2:]])
    sections |= {name: f"{command}\n\n{body}" for name, body in parts.items()}
    text = "\n".join(["# Search at size\n", *(f"## {name}\n\n{body.strip()}\n" for name, body in sections.items())])
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
