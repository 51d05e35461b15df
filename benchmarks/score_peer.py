"""What `benchmarks/score.py` and `tests/bench/test_oracle.py` run in a Python that has mteb, without biovita.

    python benchmarks/score_peer.py SPLIT VECTORS.npz ANSWER.json species/test_audio_to_image.csv ...

SPLIT is a folder in the official layout. VECTORS holds `audio`, `image`, `text_species`, `text_genus`, `text_family`,
and the ids of each under the same name with `_ids`; an id without a vector gets zeros. Each task file goes through
MTEB's own BioVITA task of its direction: its search, its evaluation and its scores by taxon. Only the payload is
another: a text that holds the id, so that the model can look its vector up. A query whose taxon has no samples is
dropped by MTEB.
"""

import argparse
import csv
import importlib.metadata
import json
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import torch
from datasets import Dataset
from mteb.models import ModelMeta
from mteb.similarity_functions import cos_sim
from mteb.types import PromptType

csv.field_size_limit(sys.maxsize)


class Bank:
    """An MTEB encoder that knows its vectors by id, and how long it was asked for them."""

    def __init__(self, query: dict[str, np.ndarray], target: dict[str, np.ndarray], dim: int) -> None:
        self.mteb_model_meta = ModelMeta.create_empty()
        self.vectors = {PromptType.query: query, PromptType.document: target}
        self.nothing = np.zeros(dim, np.float32)
        self.spent_s = 0.0

    def encode(self, inputs: Iterable[dict[str, Any]], *, prompt_type: PromptType, **_: object) -> np.ndarray:
        began, known = time.perf_counter(), self.vectors[prompt_type]
        found = np.stack([known.get(name, self.nothing) for batch in inputs for name in batch["text"]])
        self.spent_s += time.perf_counter() - began
        return found

    def similarity(self, one: Any, other: Any) -> torch.Tensor:
        return cos_sim(one, other)

    def similarity_pairwise(self, one: Any, other: Any) -> torch.Tensor:
        raise NotImplementedError("MTEB's reranking does not ask for it")


def feed(split: Path, file: str, arrays: Any) -> tuple[mteb.AbsTask, Bank]:
    """Put one task file into MTEB's task of its direction, and its vectors into a model."""
    level, name = file.split("/")
    asking, answering = name.removeprefix("test_").removesuffix(".csv").split("_to_")
    with (split / file).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    pools = [json.loads(row["candidates_taxa"]) for row in rows]
    lists = [[[str(item) for item in ids] for ids in json.loads(row["candidates_target_ids"])] for row in rows]
    taxon, listed, relevant = {}, {}, {}
    for row, pool, groups in zip(rows, pools, lists, strict=True):
        taxon |= {item: name for name, ids in zip(pool, groups, strict=True) for item in ids}
        listed[row["query_id"]] = [item for ids in groups for item in ids]
        relevant[row["query_id"]] = dict.fromkeys(groups[pool.index(row["correct_taxon"])], 1)
    width = max(map(len, pools))  # its loader wants lists of one length; a name without samples comes last
    task = mteb.get_task(f"BioVITA{asking[0].upper()}2{answering[0].upper()}Reranking")
    task.metadata = task.metadata.model_copy(update={"category": "t2t", "modalities": ["text"]})
    subset, part = task.hf_subsets[0], task.metadata.eval_splits[0]
    task.dataset = {
        subset: {
            part: {
                "corpus": Dataset.from_dict({"id": [*taxon], "text": [*taxon], "taxon": [*taxon.values()]}),
                "queries": Dataset.from_dict(
                    {
                        "id": [row["query_id"] for row in rows],
                        "text": [row["query_payload_id"] for row in rows],
                        "correct_taxon": [row["correct_taxon"] for row in rows],
                        "candidate_taxa": [pool + [""] * (width - len(pool)) for pool in pools],
                    }
                ),
                "relevant_docs": relevant,
                "top_ranked": listed,
            }
        }
    }
    task.data_loaded = True
    sides = []
    for modality in (asking, answering):
        key = f"text_{level}" if modality == "text" else modality
        sides.append(dict(zip(arrays[f"{key}_ids"].tolist(), arrays[key], strict=True)))
    return task, Bank(*sides, dim=arrays["audio"].shape[1])


def score(split: Path, file: str, arrays: Any) -> dict[str, Any]:
    """Let MTEB score one task file; `s` leaves out the time in which it asks for vectors."""
    task, bank = feed(split, file, arrays)
    subset = task.hf_subsets[0]
    began = time.perf_counter()
    found = task.evaluate(bank, subsets_to_run=[subset], encode_kwargs={"show_progress_bar": False})
    return {
        "n": len(task.dataset[subset]["test"]["relevant_docs"]),
        "s": time.perf_counter() - began - bank.spent_s,
        **{f"top{k}": found[subset][f"taxon_top_{k}_accuracy"] for k in (1, 5, 10)},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("split", "vectors", "answer"):
        parser.add_argument(name, type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    with np.load(args.vectors) as stored:
        arrays = dict(stored)
    answer: dict[str, Any] = {"mteb": importlib.metadata.version("mteb")}
    answer |= {file: score(args.split, file, arrays) for file in args.files}
    args.answer.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
