"""A small scored run, fabricated: two classes, a few relatives, names that try to break out of HTML."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from biovita.data.dataset import MEDIA_SCHEMA, QUARANTINE_SCHEMA, TAXA_SCHEMA
from biovita.embed.store import write_embeddings
from biovita.files import sha256_file, write_json, write_manifest
from biovita.media.audio import write_audio
from biovita.taxonomy.traits import TRAITS

EVIL_SPECIES = "Malus <script>alert('x')</script>"
EVIL_COMMON = "\"><img src=x onerror=alert(1)> & 'co'"
EVIL_STAGE = "</svg><script>$x_2$</script>"
# species: genus, family, order, class
TREE = {
    "Aa prima": ("Aa", "Aidae", "Aiformes", "Birds"),
    "Aa secunda": ("Aa", "Aidae", "Aiformes", "Birds"),
    EVIL_SPECIES: ("Malus", "Aidae", "Aiformes", "Birds"),
    "Bo prima": ("Bo", "Boidae", "Aiformes", "Birds"),
    "Cy prima": ("Cy", "Cyidae", "Cyiformes", "Birds"),
    "Da prima": ("Da", "Daidae", "Daura", "Frogs"),
    "Da secunda": ("Da", "Daidae", "Daura", "Frogs"),
    "Ee prima": ("Ee", "Eeidae", "Daura", "Frogs"),
    "Fu prima": ("Fu", "Fuidae", "Daura", "Frogs"),
}
WITHHELD = ("Aa secunda", "Cy prima", "Da secunda", "Ee prima")
DIMENSION = 12


@dataclass(frozen=True)
class Run:
    """Where the parts of the fabricated run lie."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def folders(self) -> dict[str, Path]:
        names = ("model", "dataset", "bench", "embeddings")
        return {f"{name}_folder": self.folder / name for name in names}

    def content(self) -> dict:
        return json.loads(self.results.read_text())


def make_dataset(folder: Path, rng: np.random.Generator) -> pl.DataFrame:
    (folder / "media").mkdir(parents=True)
    rows = []
    for species, (genus, family, order, class_) in TREE.items():
        for modality in ("audio", "image"):
            for n in range(3):
                number = len(rows)
                path = f"media/{number}.{'wav' if modality == 'audio' else 'png'}"
                if modality == "audio":
                    write_audio(folder / path, 0.1 * rng.standard_normal(12_000), 24_000)
                else:
                    Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / path)
                rows.append(
                    {
                        "media_id": f"test:{number}",
                        "modality": modality,
                        "source": "test",
                        "species": species,
                        **{"genus": genus, "family": family, "order": order, "class": class_},
                        "common_name": EVIL_COMMON if species == EVIL_SPECIES else f"Plain {species.split()[0]}",
                        "licence": "CC-BY-4.0",
                        "rights_holder": "Nobody & <i>Sons</i>",
                        "path": path,
                        "split": "test_unseen" if species in WITHHELD else ("train", "test_seen", "test_seen")[n],
                        "duration_s": 0.5 if modality == "audio" else None,
                    }
                )
    media = fill(rows, MEDIA_SCHEMA)
    media.write_parquet(folder / "media.parquet")
    taxa = [
        {
            "species": species,
            **dict(zip(("genus", "family", "order", "class"), lineage, strict=True)),
            "common_name": EVIL_COMMON if species == EVIL_SPECIES else f"Plain {species.split()[0]}",
            "withheld": species in WITHHELD,
            **dict.fromkeys(TRAITS[:20], True),
        }
        for species, lineage in TREE.items()
    ]
    fill(taxa, TAXA_SCHEMA).write_parquet(folder / "taxa.parquet")
    refused = [{"media_id": "test:x", "reason": "silent", "detail": "peak 0"}]
    pl.DataFrame(refused, schema=QUARANTINE_SCHEMA).write_parquet(folder / "quarantine.parquet")
    counts = {"ok": len(media), "quarantined": 1, "species": len(taxa)}
    write_manifest(folder, ["media.parquet", "taxa.parquet"], schema=1, made_up=True, counts=counts)
    argv = ["data", "build", "--manifest", "a file.tsv"]
    write_json(folder / "run.json", {"argv": argv, "version": "0.1.0", "commit": None, "machine": {}, "python": "3"})
    return media


def fill(rows: list[dict], schema: dict) -> pl.DataFrame:
    columns = {name: pl.Series(name, [row.get(name) for row in rows], dtype=kind) for name, kind in schema.items()}
    return pl.DataFrame(columns)


def make_vectors(folder: Path, media: pl.DataFrame, model: Path, rng: np.random.Generator) -> None:
    folder.mkdir()
    centre = {species: rng.standard_normal(DIMENSION) for species in TREE}
    meta = {"model": "fabricated", "weights_sha256": sha256_file(model / "model.safetensors"), "preprocess": "none"}

    def unit(species: list[str]) -> np.ndarray:
        x = np.stack([centre[name] for name in species]) + 0.8 * rng.standard_normal((len(species), DIMENSION))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    for modality in ("audio", "image"):
        rows = media.filter((pl.col("modality") == modality) & pl.col("split").str.starts_with("test"))
        ids, species = rows["media_id"].to_list(), rows["species"].to_list()
        write_embeddings(folder / f"{modality}.parquet", ids=ids, modality=modality, embedding=unit(species), **meta)
    ids, levels, texts, species = [], [], [], []
    for split in ("seen", "unseen"):
        index = pl.read_csv(folder.parent / "bench" / split / "text_index.csv", infer_schema=False)
        for row in index.iter_rows(named=True):
            for level in ("species", "genus", "family"):
                ids.append(row["id"])
                levels.append(level)
                texts.append(row[level])
                species.append(row["species"])
    write_embeddings(
        folder / "text.parquet", ids=ids, modality="text", text=texts, level=levels, embedding=unit(species), **meta
    )


def make_model(folder: Path) -> None:
    folder.mkdir()
    header = json.dumps({"audio_model.w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    lines = []
    for stage in ("stage1", EVIL_STAGE):
        for step in range(1, 31):
            losses = {"loss_at": 3 / step} | ({"loss_ai": 4 / step} if stage != "stage1" else {})
            facts = {"lambda": 1.0, "logit_scale": 14.3, "lr": 1e-3, "grad_norm": 1.0, "samples_per_s": 9.0}
            lines.append(
                {"stage": stage, "step": step, "epoch": step / 10, "loss": sum(losses.values())} | losses | facts
            )
        lines.append({"stage": stage, "step": 30, "val": {"a2t": 0.5, "t2a": 0.25}})
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"from_": "tiny", "recipe": {"stage": EVIL_STAGE, "seed": 1, "trained": ["a", "b"]}}
    write_json(folder / "run.json", {"config": config, "argv": ["train", "<x>"], "version": "0.1.0", "seconds": 12.0})
