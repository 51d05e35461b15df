"""A look at the validation split while training runs."""

from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from biovita.models.encoder import Encoder, in_batches
from biovita.train.source import Source

MOST = 2_000  # recordings, and pictures: a fixed slice of a larger validation split
BATCH = 32
DIRECTIONS = ("at", "ta", "ai", "ia", "it", "ti")


def look(encoder: Encoder, source: Source) -> dict[str, float]:
    """Measure top-1 of the six directions on the validation split, among all its species.

    A taxon scores as its best sample, as in the benchmark; species without the query or target modality sit out. Of a
    larger split every k-th item is taken, so that each look sees the same ones.
    """
    towers: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "a": encoder.model.audio_vectors,
        "i": lambda squares: encoder.model.image_vectors(encoder.processor.pixels(squares)),
    }
    labels, vectors = {}, {}
    for letter, modality in (("a", "audio"), ("i", "image")):
        rows = slice_of(source, modality)
        labels[letter] = rows["label"].to_numpy()
        parts = [np.empty((0, encoder.model.config.width), np.float32)]
        for batch in in_batches(rows["row"], BATCH):
            read = [source.mel(row, 0.0) if letter == "a" else source.square(row) for row in batch]
            with torch.inference_mode():
                found = towers[letter](torch.from_numpy(np.stack(read)).to(encoder.device))
            parts.append(found.float().cpu().numpy())
        vectors[letter] = np.concatenate(parts)
    labels["t"] = np.unique(np.concatenate([labels["a"], labels["i"]]))
    vectors["t"] = encoder.embed_text([source.species[label] for label in labels["t"]])
    top1 = {}
    for query, target in DIRECTIONS:
        asked = np.isin(labels[query], labels[target])
        if asked.any():
            scores = vectors[query][asked] @ vectors[target].T
            top1[f"{query}2{target}"] = float((labels[target][scores.argmax(1)] == labels[query][asked]).mean())
    return top1


def slice_of(source: Source, modality: str) -> pl.DataFrame:
    """Take the items of the validation split that every look sees."""
    rows = source.rows(modality, "val").sort("row")
    return rows.gather_every(-(-len(rows) // MOST) or 1)


def odds(source: Source) -> dict[str, dict[str, float]]:
    """Say what the looks ask: `n_queries` of each direction, and `chance`, one over the species to choose from."""
    labels = {letter: slice_of(source, name)["label"].to_numpy() for letter, name in (("a", "audio"), ("i", "image"))}
    labels["t"] = np.unique(np.concatenate([labels["a"], labels["i"]]))
    n_queries, chance = {}, {}
    for query, target in DIRECTIONS:
        if n := int(np.isin(labels[query], labels[target]).sum()):
            n_queries[f"{query}2{target}"] = n
            chance[f"{query}2{target}"] = 1 / len(np.unique(labels[target]))
    return {"n_queries": n_queries, "chance": chance}
