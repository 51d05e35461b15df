"""MTEB, from both sides: any encoder of ours as a model there, and its BioVITA tasks fed from a folder.

1. `BioVita` wraps an encoder as MTEB 2.26 calls one. Its cosine is the scorer's own (summed in float64, rounded to
   float32), so equal vectors tie there as here.
2. `tasks_of` gives MTEB's own six task classes, scoring and all, whose data come from a benchmark folder: no hub is
   asked, and genus, family and seen species are further subsets.
3. `check` lays MTEB's top-k beside the scorer's.

The door to MTEB and to `datasets`, its table library.
"""

# pyright: reportMissingImports=false
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from biovita.bench.official import Bench, read_indices, read_task
from biovita.bench.tasks import DIRECTIONS, LEVELS, MODALITIES, Modality, Scenario, Task
from biovita.embed.store import Facts, write_embeddings
from biovita.errors import BenchError
from biovita.log import progress
from biovita.media.audio import read_native
from biovita.media.check import check_files
from biovita.media.image import read_image

try:
    import mteb
    from datasets import Dataset, disable_progress_bars
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.tasks.reranking.eng import biovita as published
except ImportError as error:
    raise BenchError(f"MTEB cannot be used ({error}); pip install 'biovita[mteb]'") from error

K: Final = (1, 5, 10)  # what MTEB's tasks report
SPLIT: Final = "test"  # as MTEB calls all of it
BATCH_SIZE: Final = 32

logging.getLogger("mteb").setLevel(logging.ERROR)
disable_progress_bars()


class Embeds(Protocol):
    """What MTEB needs of a model; `biovita.load` gives one."""

    @property
    def name(self) -> str: ...
    @property
    def weights_sha256(self) -> str: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...

    def embed_audio(self, sounds: Sequence[tuple[np.ndarray, int]], /) -> np.ndarray:
        """Embed pairs of wave and rate: unit rows."""
        ...

    def embed_image(self, pictures: Sequence[Any], /) -> np.ndarray:
        """Embed PIL images: unit rows."""
        ...

    def embed_text(self, texts: Sequence[str], /) -> np.ndarray:
        """Embed names or prompts: unit rows."""
        ...


def meta_of(encoder: Embeds, *, n_parameters: int | None = None) -> ModelMeta:
    """Describe a model to MTEB; what we do not know of it is None."""
    name = encoder.name if "/" in encoder.name else f"biovita/{encoder.name}"
    return ModelMeta(
        loader=None,
        name=name,
        revision=encoder.weights_sha256 or "untrained",
        release_date=None,
        languages=["eng-Latn"],
        modalities=list(encoder.modalities),  # pyright: ignore[reportArgumentType]
        n_parameters=n_parameters,
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=int(encoder.embed_text(["owl"]).shape[1]),
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
    )


class BioVita(AbsEncoder):
    """An encoder as MTEB calls it.

    A row that names its `item`, as those of `tasks_of` do, is embedded once and remembered.

    Args:
        encoder: what embeds.
        meta: what MTEB shall know of it; by default `meta_of` the encoder.

    Attributes:
        width: of its vectors.
        kept: the vector of each (modality, item); a text is its own item.
    """

    def __init__(self, encoder: Embeds, meta: ModelMeta | None = None) -> None:
        self.encoder = encoder
        self.mteb_model_meta = meta or meta_of(encoder)
        self.width = int(encoder.embed_text(["owl"]).shape[1])
        self.kept: dict[tuple[str, str], np.ndarray] = {}

    def leave_out(self, items: Collection[tuple[str, str]]) -> None:
        """Give zeros for files that cannot be used, as the reference script does."""
        self.kept.update(dict.fromkeys(items, np.zeros(self.width, np.float32)))

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **_: Any
    ) -> np.ndarray:
        """Embed what a loader of MTEB gives: float32, shape (n, width); of several modalities the mean direction."""
        label = " ".join([task_metadata.name, hf_subset, *([prompt_type.value] if prompt_type else [])])
        blocks = [self._batch(batch) for batch in progress(inputs, label, unit="batches")]
        return np.concatenate(blocks).astype(np.float32)

    def _batch(self, batch: dict[str, Any]) -> np.ndarray:
        there: list[Modality] = [modality for modality in MODALITIES if modality in batch]
        if not there:
            raise BenchError(f"MTEB asks for {', '.join(batch)}; {self.encoder.name} embeds {', '.join(MODALITIES)}")
        parts = [self._vectors(modality, batch[modality], batch.get("item")) for modality in there]
        return parts[0] if len(parts) == 1 else _unit(np.sum(parts, axis=0))

    def _vectors(self, modality: Modality, things: list[Any], items: list[str] | None) -> np.ndarray:
        if modality == "text":
            items = things
        if items is None:
            return self._embed(modality, things)
        new = {item: thing for item, thing in zip(items, things, strict=True) if (modality, item) not in self.kept}
        if new:
            vectors = self._embed(modality, list(new.values()))
            self.kept |= {(modality, item): vector for item, vector in zip(new, vectors, strict=True)}
        return np.stack([self.kept[modality, item] for item in items])

    def _embed(self, modality: Modality, things: list[Any]) -> np.ndarray:
        if modality == "audio":
            waves = [(_mono(sound["array"]), int(sound["sampling_rate"])) for sound in things]
            return self.encoder.embed_audio(waves)
        return self.encoder.embed_image(things) if modality == "image" else self.encoder.embed_text(things)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the scorer's cosine: float32, shape (n, m)."""
        one, other = (_unit(np.asarray(vectors, np.float64)) for vectors in (embeddings1, embeddings2))
        return (one @ other.T).astype(np.float32)


def _mono(array: Any) -> np.ndarray:
    wave = np.asarray(array, np.float32)
    return wave.mean(axis=0) if wave.ndim == 2 else wave


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Give every vector the length 1; zeros stay."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return vectors / np.where(length > 0, length, 1)


def unusable(bench: Bench, *, workers: int) -> dict[tuple[str, str], str]:
    """Check the files of an official folder, which are strangers': why each bad one, by modality and id, is refused."""
    found = {}
    for modality in ("audio", "image"):
        files = {item: path.resolve() for item, path in bench.files(modality).items()} if bench.media else {}
        for item, verdict in zip(files, check_files(list(files.values()), workers=workers), strict=True):
            if not verdict.ok or verdict.modality != modality:
                found[modality, item] = f"{files[item]}: {verdict.reason or 'other_modality'}"
    return found


def tasks_of(bench: Bench, left_out: Collection[tuple[str, str]] = ()) -> list[Any]:
    """Give MTEB's BioVITA tasks over the scenarios of a folder, one task a direction, one subset a split and level.

    Args:
        bench: an opened folder.
        left_out: modality and id of files that are not opened; a model meets None in their place.

    Raises:
        BenchError: later, when a task loads: a task file is broken, or lists a sample under two taxa.
    """
    tasks = []
    for direction in DIRECTIONS:
        theirs = getattr(published, f"BioVITA{direction.upper()}Reranking")
        subsets = {f"{one.split}_{one.level}": one for one in bench.present if one.direction == direction}
        if not subsets:
            continue
        metadata = theirs.metadata.model_copy(
            update={
                "eval_langs": {name: ["eng-Latn"] for name in subsets},
                "dataset": {"path": str(bench.folder.resolve()), "revision": bench.sha256},
                "is_beta": False,  # MTEB warns that its own data may change; a folder is pinned by its hash
            }
        )
        ours = type(theirs.__name__, (_FromFolder, theirs), {"metadata": metadata})
        task = ours()
        task.bench, task.subsets, task.left_out = bench, subsets, frozenset(left_out)
        tasks.append(task)
    return tasks


class _FromFolder:
    """Where the data of a task come from: mixed into MTEB's class."""

    bench: Bench
    subsets: dict[str, Scenario]
    left_out: Collection[tuple[str, str]]

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Fill `dataset` as MTEB's loader would."""
        if not getattr(self, "data_loaded", False):
            self.dataset = {
                name: {SPLIT: split_data(self.bench, one, self.left_out)} for name, one in self.subsets.items()
            }
            # all samples of a pool are ranked, so that none of its taxa goes without a score
            self._top_k = max(len(data[SPLIT]["corpus"]) for data in self.dataset.values())
            self.data_loaded = True


def split_data(bench: Bench, scenario: Scenario, left_out: Collection[tuple[str, str]] = ()) -> dict[str, Any]:
    """Turn one scenario into MTEB's tables: corpus, queries, relevant documents, and the documents to rank.

    Raises:
        BenchError: a sample stands under two taxa, which MTEB cannot score.
    """
    indices = read_indices(bench.splits[scenario.split])
    task = read_task(bench.splits[scenario.split], scenario, indices)
    content = {
        kind: _content(bench, scenario, indices[kind], kind) | {item: "" for lost, item in left_out if lost == kind}
        for kind in (scenario.query, scenario.target)
    }
    taxon_of: dict[str, str] = {}
    ranked: list[list[str]] = []
    pools: list[list[str]] = []
    for taxa, groups in zip(task.taxon, task.group, strict=True):
        pools.append([task.taxa[taxon] for taxon in taxa if taxon >= 0])
        samples = [_samples(task, group) for group in groups[: len(pools[-1])]]
        ranked.append([item for items in samples for item in items])
        for taxon, items in zip(pools[-1], samples, strict=True):
            for item in items:
                if taxon_of.setdefault(item, taxon) != taxon:
                    raise BenchError(
                        f"{scenario}: {item!r} stands under {taxon_of[item]!r} and {taxon!r}; MTEB wants one"
                    )
    width = max(map(len, pools))
    ids = [f"{row}-{name}" for row, name in enumerate(task.query_id)]  # theirs must be unique
    correct = [task.taxa[taxon] for taxon in task.correct]
    queries = {
        "id": ids,
        "item": task.payload_id,
        "correct_taxon": correct,
        "candidate_taxa": [[*pool, *[""] * (width - len(pool))] for pool in pools],  # their loader wants equal lengths
    }
    corpus = {"id": list(taxon_of), "item": list(taxon_of), "taxon": list(taxon_of.values())}
    return {
        "queries": _table(queries, scenario.query, content[scenario.query]),
        "corpus": _table(corpus, scenario.target, content[scenario.target]),
        "relevant_docs": {
            name: {item: 1 for item in items if taxon_of[item] == right}
            for name, items, right in zip(ids, ranked, correct, strict=True)
        },
        "top_ranked": dict(zip(ids, ranked, strict=True)),
    }


def _samples(task: Task, group: int) -> list[str]:
    return [task.items[i] for i in task.group_item[task.group_start[group] : task.group_start[group + 1]]]


def _content(bench: Bench, scenario: Scenario, index: Any, modality: Modality) -> dict[str, str]:
    """Say for each id what is embedded: the path of a file, or the name at the scenario's level."""
    if modality == "text":
        return dict(zip(index["id"], index[scenario.level], strict=True))
    return {name: str(path.resolve()) for name, path in bench.files(modality).items()}


def _table(columns: dict[str, Any], modality: Modality, content: dict[str, str]) -> Dataset:
    """Make a table whose sounds and pictures are read when a batch asks for them."""
    table = Dataset.from_dict({**columns, modality: [content[item] for item in columns["item"]]})
    if modality == "text":
        return table
    read = READERS[modality]

    def decode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        return {name: [read(Path(path)) if path else None for path in batch[name]] for name in batch}

    return table.with_transform(decode, columns=[modality], output_all_columns=True)


def _read_sound(path: Path) -> dict[str, Any]:
    wave, sample_rate_hz = read_native(path)
    return {"array": wave, "sampling_rate": sample_rate_hz}


READERS: Final[dict[str, Callable[[Path], Any]]] = {"audio": _read_sound, "image": read_image}


def evaluate(model: BioVita, tasks: list[Any], out: Path, *, batch_size: int = BATCH_SIZE) -> dict[str, dict[str, Any]]:
    """Run tasks; MTEB writes its own files under OUT/results/MODEL/REVISION.

    Returns:
        the scores of each scenario, by its name (unseen/species/a2t): `top1`, `top5`, `top10`.
    """
    found = mteb.evaluate(
        model,  # pyright: ignore[reportArgumentType] - the protocol names arguments of a constructor that is not called
        tasks,
        co2_tracker=False,
        cache=mteb.ResultCache(out),
        overwrite_strategy="always",
        encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
        show_progress_bar=False,
    )
    scores = {}
    for task, result in zip(tasks, found.task_results, strict=True):
        for row in result.scores[SPLIT]:
            scores[str(task.subsets[row["hf_subset"]])] = {f"top{k}": row[f"taxon_top_{k}_accuracy"] for k in K}
    return scores


def write_kept(model: BioVita, bench: Bench, out: Path, facts: Facts) -> None:
    """Write the vectors that MTEB was given as embedding files, for the scorer; what was left out has none."""
    indices = [read_indices(folder) for folder in bench.splits.values()]
    for modality in MODALITIES:
        rows: dict[tuple[str, str | None], np.ndarray] = {}
        for index in indices:
            for row in index[modality].iter_rows(named=True):
                forms = [(level, row[level]) for level in LEVELS] if modality == "text" else [(None, row["id"])]
                for level, item in forms:
                    vector = model.kept.get((modality, item))
                    if vector is not None and vector.any():
                        rows[row["id"], level] = vector
        if not rows:
            continue
        write_embeddings(
            out / f"{modality}.parquet",
            ids=[name for name, _ in rows],
            modality=modality,
            embedding=np.stack(list(rows.values())),
            level=[level for _, level in rows],
            **facts,
        )


def differences(theirs: dict[str, dict[str, Any]], results: dict[str, Any]) -> list[str]:
    """Name the scenarios where MTEB and the scorer disagree in any top-k."""
    ours = {f"{row['split']}/{row['level']}/{row['direction']}": row for row in results["scenarios"]}
    return [name for name, row in theirs.items() if any(abs(row[key] - ours[name][key]) > 1e-12 for key in row)]
