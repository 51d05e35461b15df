"""The scorer at full size, beside the reference protocol's loop over queries and the scorer inside MTEB.

    python benchmarks/score.py WORK [--mteb PYTHON] [--queries 5000] [--species 1333] [--runs 3] [--threads 1]
                                    [--all-species 14133] [--all-vectors 200000]

First a split of official size: six directions at species level, 100 candidates of about 15 samples each, made-up
vectors of 768 numbers. Each side reads the same files and works on the same cores; WORK needs 4 GB and keeps them.
The loop is the reference protocol in our words: for each query a product with the whole gallery, then for each
candidate the maximum over its rows; one file an id; the candidate lists by a JSON parser, row by row. Then the whole
benchmark, 36 scenarios over a dataset of 14,133 species, by `biovita bench score` in a process of its own. Linux.
Writes docs/results/score.md.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from threadpoolctl import threadpool_limits

from biovita.bench import retrieval
from biovita.bench.official import read_indices, read_task
from biovita.bench.retrieval import rank_task, vectors_of
from biovita.bench.tasks import LEVELS, MODALITIES, Modality, Scenario, scenarios
from biovita.embed.store import read_embeddings, write_embeddings

PAGE = Path(__file__).parents[1] / "docs" / "results" / "score.md"
PEER = Path(__file__).with_name("score_peer.py")
WIDTH, POOL, SAMPLES, K = 768, 100, 14.5, (1, 5, 10)
SKILL = 0.3  # of the made-up model: so that hits are neither none nor all
BATCH = 512  # of the released feature script; a row that it saves takes the whole batch along
LOAD_NOTED = 0.5  # of other programs, from which on the page says that the machine was busy
UNSEEN_SPECIES, UNSEEN_AUDIO, UNSEEN_IMAGE = 325, 1024, 2835  # of the release
SPECIES_A_GENUS, GENERA_A_FAMILY = 3, 6
FACTS = {"model": "made up", "weights_sha256": "0" * 64, "preprocess": "none"}

# A small process between, because a program begins with the peak memory of the one that starts it.
LAUNCH = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run([sys.executable, "-m", "biovita", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""

csv.field_size_limit(sys.maxsize)


def make_index(n_species: int, n_items: dict[Modality, int], first: int = 0) -> dict[Modality, pl.DataFrame]:
    """List items of species `first` and on: text once a species, sounds and pictures at least once, then by chance."""
    index: dict[Modality, pl.DataFrame] = {}
    for letter, modality in enumerate(MODALITIES, start=1):
        rng = np.random.default_rng([letter, first])
        more = rng.integers(0, n_species, max(0, n_items.get(modality, 0) - n_species))
        species = first + np.sort(np.concatenate([np.arange(n_species), more]))
        genus, family = species // SPECIES_A_GENUS, species // (SPECIES_A_GENUS * GENERA_A_FAMILY)
        index[modality] = pl.DataFrame(
            {
                "id": [str(i) for i in 10_000_000 * letter + 1_000_000 * bool(first) + np.arange(len(species))],
                "file_path": [f"{modality}/{i}" for i in range(len(species))],
                "species": [f"Genus{g} species{s}" for g, s in zip(genus, species, strict=True)],
                "genus": [f"Genus{g}" for g in genus],
                "family": [f"Family{f}" for f in family],
                "class": [("Aves", "Mammalia", "Amphibia")[f % 3] for f in family],
            }
        )
    return index


def write_split(folder: Path, index: dict[Modality, pl.DataFrame], levels: tuple[str, ...], n_queries: int) -> None:
    """Write a split in the official layout, with queries and pools drawn evenly; text asks once a taxon at most."""
    folder.mkdir(parents=True, exist_ok=True)
    for modality, table in index.items():
        table.write_csv(folder / f"{modality}_index.csv")
    for number, scenario in enumerate(scenarios("seen")):
        if scenario.level not in levels:
            continue
        rng, level = np.random.default_rng([number, n_queries]), scenario.level
        groups = index[scenario.target].group_by(level, maintain_order=True).agg("id")
        names, lists = groups[level].to_list(), [f"[{', '.join(ids)}]" for ids in groups["id"]]
        place = {name: i for i, name in enumerate(names)}
        asking = index[scenario.query]
        if scenario.query == "text" and len(levels) > 1:
            asking = asking.unique(level, keep="first", maintain_order=True)
        chosen = rng.integers(0, len(asking), n_queries) if len(levels) == 1 else rng.permutation(len(asking))
        (folder / level).mkdir(exist_ok=True)
        with (folder / scenario.file).open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(
                ["query_id", "query_payload_id", "task", "taxon_level", "correct_taxon", "candidates_taxa",
                 "candidates_target_ids"]
            )  # fmt: skip
            for q, row in enumerate(asking[chosen[:n_queries].tolist()].iter_rows(named=True)):
                own = place[row[level]]
                others = rng.choice(len(names) - 1, min(POOL, len(names)) - 1, replace=False)
                pool = rng.permutation([own, *(others + (others >= own))])
                taxa = "[" + ", ".join(f'"{names[t]}"' for t in pool) + "]"
                ids = "[" + ", ".join(lists[t] for t in pool) + "]"
                rows.writerow([f"q{q}", row["id"], scenario.direction.upper(), level, row[level], taxa, ids])


def write_vectors(out: Path, indices: list[dict[Modality, pl.DataFrame]], levels: tuple[str, ...]) -> int:
    """Write made-up vectors of every item, near its species, genus and family; return how many."""
    directions: dict[str, np.ndarray] = {}
    rng, n = np.random.default_rng(3), 0
    for modality in MODALITIES:
        table = pl.concat([index[modality] for index in indices])
        forms = levels if modality == "text" else (None,)
        ids, form, vectors = [], [], []
        for level in forms:
            x = rng.standard_normal((len(table), WIDTH), dtype=np.float32)
            for rank in LEVELS if level is None else LEVELS[LEVELS.index(level) :]:
                for name in set(table[rank]) - set(directions):
                    directions[name] = SKILL * rng.standard_normal(WIDTH, dtype=np.float32)
                x += np.stack([directions[name] for name in table[rank]])
            vectors.append(x / np.linalg.norm(x, axis=1, keepdims=True))
            ids += table["id"].to_list()
            form += [level] * len(table)
        path = out / f"{modality}.parquet"
        write_embeddings(path, ids=ids, modality=modality, level=form, embedding=np.concatenate(vectors), **FACTS)
        n += len(ids)
    return n


def spent_s(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def median_s(work: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """Return the median time of several runs, after one that does not count, and the last result."""
    found = [spent_s(work) for _ in range(runs + 1)]
    return statistics.median(took for took, _ in found[1:]), found[-1][1]


def parse_by_row(path: Path) -> list[tuple[str, str, list[str], list[list[str]]]]:
    with path.open(newline="") as file:
        return [
            (
                row["query_payload_id"],
                row["correct_taxon"],
                json.loads(row["candidates_taxa"]),
                [[str(item) for item in ids] for ids in json.loads(row["candidates_target_ids"])],
            )
            for row in csv.DictReader(file)
        ]


def score_by_query(
    rows: list[tuple[str, str, list[str], list[list[str]]]],
    query: dict[str, torch.Tensor],
    gallery: torch.Tensor,
    place: dict[str, int],
) -> np.ndarray:
    """Say for each query whether its taxon is among the first 1, 5 and 10, as the reference protocol does."""
    hits = []
    for payload, correct, taxa, lists in rows:
        cosine = gallery @ query[payload]
        best = torch.stack([cosine[[place[item] for item in ids]].max() for ids in lists])
        first = [taxa[i] for i in best.topk(max(K)).indices.tolist()]
        hits.append([correct in first[:k] for k in K])
    return np.array(hits)


def gemm_flops(threads: int) -> float:
    """Return float32 operations a second of a large product."""
    one, other = (np.random.default_rng(i).standard_normal((4096, WIDTH), dtype=np.float32) for i in (1, 2))
    with threadpool_limits(threads, user_api="blas"):
        took, _ = median_s(lambda: one @ other.T, 5)
    return 2 * 4096 * 4096 * WIDTH / took


def forget(paths: list[Path]) -> None:
    """Drop files from the system's cache."""
    os.sync()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_ways(folder: Path, store: Path, runs: int) -> tuple[int, dict[str, tuple[int, float, float]]]:
    """Time reading the audio vectors: files of each way, and seconds for all vectors, from the cache and from disk."""
    table = read_embeddings(store / "audio.parquet")
    vectors = torch.from_numpy(table.embedding.copy())
    some = min(len(table), BATCH)
    batch = vectors[:BATCH].clone()
    for kind in ("batch", "pt", "npy"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(len(table)):
        torch.save(vectors[i].clone(), folder / "pt" / f"{i}.pt")
        np.save(folder / "npy" / f"{i}.npy", table.embedding[i])
    for i in range(some):
        torch.save(batch[i], folder / "batch" / f"{i}.pt")
    loads: dict[str, tuple[list[Path], Callable[[Path], Any]]] = {
        "one file an id, as the released script saves it": (
            [folder / "batch" / f"{i}.pt" for i in range(some)],
            torch.load,
        ),
        "one .pt an id, of its row alone": ([folder / "pt" / f"{i}.pt" for i in range(len(table))], torch.load),
        "one .npy an id": ([folder / "npy" / f"{i}.npy" for i in range(len(table))], np.load),
        "ours: one Parquet file, every row checked": ([store / "audio.parquet"], read_embeddings),
    }
    ways = {}
    for way, (paths, load) in loads.items():
        times = {}
        for is_cold in (True, False):
            took = []
            for _ in range(runs):
                if is_cold:
                    forget(paths)
                took.append(spent_s(lambda paths=paths, load=load: deque(map(load, paths), maxlen=0))[0])
            times[is_cold] = statistics.median(took) * (len(table) / len(paths) if len(paths) > 1 else 1)
        ways[way] = len(paths), times[False], times[True]
    return len(table), ways


def measure(split: Path, store: Path, scenario: Scenario, runs: int, flops: float) -> dict[str, float]:
    """Time one direction on both sides."""
    indices = read_indices(split)
    path = split / scenario.file
    plain_parse_s, rows = spent_s(lambda: parse_by_row(path))
    parse_s, task = median_s(lambda: read_task(split, scenario, indices), runs)
    sides = []
    for modality in (scenario.query, scenario.target):
        table = read_embeddings(store / f"{modality}.parquet")
        sides.append((table, vectors_of(table, str(table.path), modality, scenario.level)))
    (asking, query), (gallery, target) = sides
    score_s, ranking = median_s(lambda: rank_task(task, query, target, ties="order", missing="error"), runs)
    known = dict(zip(asking.ids, torch.from_numpy(asking.embedding.copy()), strict=True))
    place = {name: i for i, name in enumerate(gallery.ids)}
    rows_of = torch.from_numpy(gallery.embedding.copy())
    plain_s, hits = spent_s(lambda: score_by_query(rows, known, rows_of, place))
    n_pairs = sum(len(ids) for *_, lists in rows for ids in lists)
    ours = ranking.rank[:, None] <= np.array(K)
    return {
        "n": len(task),
        "mb": path.stat().st_size / 1e6,
        "plain_parse_s": plain_parse_s,
        "parse_s": parse_s,
        "plain_s": plain_s,
        "score_s": score_s,
        "limit": 2 * WIDTH * n_pairs / flops / score_s,
        "differ": int((ours != hits).sum()),
        **{f"top{k}": float(share) for k, share in zip(K, ours.mean(axis=0), strict=True)},
    }


def mteb_scores(python: Path, split: Path, store: Path, work: Path, threads: int) -> dict[str, Any]:
    """Let MTEB's scorer do all six directions."""
    arrays = {}
    for modality in MODALITIES:
        table = read_embeddings(store / f"{modality}.parquet")
        key = "text_species" if modality == "text" else modality
        arrays |= {key: table.embedding, f"{key}_ids": np.array(table.ids)}
    np.savez(work / "vectors.npz", **arrays)
    files = [scenario.file for scenario in scenarios("unseen")[:6]]
    words = [python, PEER, split, work / "vectors.npz", work / "answer.json", *files, "--threads", threads]
    subprocess.run([*map(str, words)], check=True, capture_output=True)
    return json.loads((work / "answer.json").read_text())


def whole(work: Path, n_species: int, n_vectors: int, n_queries: int) -> dict[str, float]:
    """Score 36 scenarios of a large dataset in a process of its own: seconds and peak memory."""
    bench, store = work / "bench", work / "store"
    n_media = n_vectors - len(LEVELS) * n_species - UNSEEN_AUDIO - UNSEEN_IMAGE
    unseen = make_index(UNSEEN_SPECIES, {"audio": UNSEEN_AUDIO, "image": UNSEEN_IMAGE})
    seen = make_index(n_species - UNSEEN_SPECIES, {"audio": n_media // 2, "image": n_media // 2}, UNSEEN_SPECIES)
    write_split(bench / "unseen", unseen, LEVELS, n_queries)
    write_split(bench / "seen", seen, LEVELS, n_queries)
    n = write_vectors(store, [unseen, seen], LEVELS)
    words = ["bench", "score", bench, "--embeddings", store, "--out", work / "results.json", "--quiet"]
    done = subprocess.run([sys.executable, "-c", LAUNCH, *map(str, words)], check=True, stdout=subprocess.PIPE)
    took, cpu_s, kilobytes = json.loads(done.stdout)
    results = json.loads((work / "results.json").read_text())
    return {
        "vectors": n,
        "files_gb": sum(path.stat().st_size for path in bench.rglob("*.csv")) / 1e9,
        "queries": sum(row["n_queries"] for row in results["scenarios"]),
        "scenarios": len(results["scenarios"]),
        "s": took,
        "gb": kilobytes * 1024 / 1e9,
        "cpu_s": cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--mteb", type=Path, help="a Python that has mteb")
    for name, default in (
        ("queries", 5000), ("species", 1333), ("runs", 3), ("threads", 1),
        ("all-species", 14_133), ("all-vectors", 200_000),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    retrieval.N_THREADS = args.threads
    split, store = args.work / "split", args.work / "split_store"
    n_items = round(SAMPLES * args.species)
    index = make_index(args.species, {"audio": n_items, "image": n_items})
    write_split(split, index, ("species",), args.queries)
    write_vectors(store, [index], ("species",))
    flops = gemm_flops(args.threads)
    found = {}
    for scenario in scenarios("unseen")[:6]:
        found[scenario] = measure(split, store, scenario, args.runs, flops)
        print(scenario, found[scenario], flush=True)
    n_read, ways = read_ways(args.work / "features", store, args.runs)
    print(ways, flush=True)
    theirs = mteb_scores(args.mteb, split, store, args.work, args.threads) if args.mteb else {}
    everything = whole(args.work / "whole", args.all_species, args.all_vectors, args.queries)
    print(everything, flush=True)

    lines, parse_lines = [], []
    for scenario, one in found.items():
        peer = theirs.get(scenario.file)
        equal = peer and all(abs(peer[f"top{k}"] - one[f"top{k}"]) < 1e-12 for k in K)
        lines.append(
            f"| {scenario.direction} | {1000 * one['score_s'] / one['n']:.3f} | {1000 * one['plain_s'] / one['n']:.2f} "
            f"| {one['plain_s'] / one['score_s']:.0f} | {one['differ']} | {100 * one['limit']:.0f} | "
            + (f"{1000 * peer['s'] / one['n']:.1f} | {peer['s'] / one['score_s']:.0f} | " if peer else ". | . | ")
            + (f"{'yes' if equal else '**no**'} |" if peer else ". |")
        )
        parse_lines.append(
            f"| {scenario.direction} | {one['mb']:.0f} | {one['parse_s']:.2f} | {one['plain_parse_s']:.2f} "
            f"| {one['plain_parse_s'] / one['parse_s']:.1f} |"
        )
    total = {key: sum(one[key] for one in found.values()) for key in ("plain_s", "score_s", "plain_parse_s", "parse_s")}
    *others, (_, (_, *ours_s)) = ways.items()
    media = [one for scenario, one in found.items() if scenario.target != "text"]
    busy = f"**Busy machine** (load {load:.1f} before it began): to be run again on a quiet one.\n\n"
    words = f"--queries {args.queries} --species {args.species} --runs {args.runs} --threads {args.threads}"
    words += f" --all-species {args.all_species} --all-vectors {args.all_vectors}"
    reads = "\n".join(
        f"| {way} | {n:,} | {warm:.3f} | {warm / ours_s[0]:,.0f} | {cold:.3f} | {cold / ours_s[1]:,.0f} |"
        for way, (n, warm, cold) in ways.items()
    )
    goals = [
        ("score, times the loop (each direction)", min(one["plain_s"] / one["score_s"] for one in found.values()), 40),
        ("all six directions together, times the loop", total["plain_s"] / total["score_s"], 40),
        ("share of the product's limit, sounds and pictures, %", 100 * min(one["limit"] for one in media), 15),
        ("read, times one file an id as released, from disk", others[0][1][2] / ours_s[1], 200),
        ("the same, from the system's cache", others[0][1][1] / ours_s[0], 200),
        ("parse, times row by row (sounds and pictures)", min(o["plain_parse_s"] / o["parse_s"] for o in media), 6),
    ]
    PAGE.write_text(
        "# The scorer at full size\n\n"
        + (busy if load > LOAD_NOTED else "")
        + f"    python benchmarks/score.py WORK {'--mteb PYTHON ' if args.mteb else ''}{words}\n\n"
        + f"Made-up vectors of {WIDTH} numbers, {args.queries:,} queries a direction, {POOL} candidates of {SAMPLES} "
        f"samples on the mean\n(text: one). {args.threads} thread(s) on each side, ours the median of {args.runs} "
        f"after a warm run; {os.cpu_count()} cores,\nPython {platform.python_version()}, numpy {np.__version__}, torch "
        f"{torch.__version__}" + (f", MTEB {theirs['mteb']}" if theirs else "") + ".\n\n## Scoring\n\n"
        "The loop: for each query a float32 product with the gallery, then 100 selections, as the reference protocol\n"
        "does. Hits that differ: of all queries at top-1, 5 and 10. Limit: the time of a large float32 product over\n"
        f"only the pairs that are asked for ({flops / 1e9:.0f} GFLOP/s measured); ours sums again in float64\n"
        "what decides. MTEB's time is its evaluation without the look-up of vectors.\n\n"
        "| direction | ours, ms a query | loop, ms | loop / ours | hits that differ | share of the limit, % "
        "| MTEB, ms | MTEB / ours | same top-1, 5, 10 |\n|---|---|---|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\nAll six: {total['score_s']:.1f} s, the loop {total['plain_s']:.0f} s, "
        f"{total['plain_s'] / total['score_s']:.0f} times.\n\n## Parsing the task file\n\n"
        "Ours also proves every row against the indices.\n\n"
        "| direction | MB | ours, s | row by row, s | times |\n|---|---|---|---|---|\n"
        + "\n".join(parse_lines)
        + f"\n\n## Reading {n_read:,} vectors\n\n"
        f"The released script saves rows of a batch, and each file holds all {BATCH}\n"
        f"rows; {ways[next(iter(ways))][0]} such files are read, and scaled to all.\n\n"
        "| how | files read | from the cache, s for all | times ours | from disk, s for all | times ours |\n"
        "|---|---|---|---|---|---|\n" + reads + "\n\n## The whole benchmark\n\n"
        f"`biovita bench score`, {everything['scenarios']} scenarios, {args.all_species:,} species, "
        f"{everything['vectors']:,} vectors, {everything['queries']:,} queries, "
        f"{everything['files_gb']:.1f} GB\nof task files; a genus has {SPECIES_A_GENUS} species and a family "
        f"{GENERA_A_FAMILY} genera, and a candidate stands with all its samples.\n\n"
        "| s | processor, s | peak memory, GB |\n|---|---|---|\n"
        f"| {everything['s']:.0f} | {everything['cpu_s']:.0f} | {everything['gb']:.1f} |\n\n"
        "## Against the goals\n\n| what | found | goal | met |\n|---|---|---|---|\n"
        + "".join(f"| {what} | {x:,.1f} | at least {y} | {'yes' if x >= y else '**no**'} |\n" for what, x, y in goals)
        + "".join(
            f"| {what} | {x:,.1f} | at most {y} | {'yes' if x <= y else '**no**'} |\n"
            for what, x, y in (("whole, s", everything["s"], 120), ("whole, GB", everything["gb"], 4))
        )
    )
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
