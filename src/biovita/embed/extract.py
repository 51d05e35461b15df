"""Files and names to embedding files, with one model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from biovita.embed.store import write_embeddings
from biovita.log import Progress
from biovita.models.encoder import Encoder, Window, in_batches

BLOCK = 256  # items between two signs of progress


class Facts(TypedDict):
    """What made the vectors; two files join only where these agree."""

    model: str
    weights_sha256: str
    preprocess: str


def facts_of(encoder: Encoder, window: Window) -> Facts:
    """Say what makes this encoder's vectors; the window of recordings counts for all files that shall join."""
    preprocess = f"{encoder.processor.fingerprint()}-{window}"
    return Facts(model=encoder.name, weights_sha256=encoder.weights_sha256, preprocess=preprocess)


def embed_media(
    encoder: Encoder, out: Path, *, ids: Sequence[str], paths: Sequence[Path], modality: str, window: Window = "onset"
) -> None:
    """Embed recordings or pictures into one file.

    Raises:
        MediaError: a file does not decode; it is named, and nothing is written.
    """
    if modality == "audio":
        vectors = _in_blocks(paths, lambda block: encoder.embed_audio(block, window=window), "embed recordings")
        write_embeddings(out, ids=ids, modality="audio", embedding=vectors, **facts_of(encoder, window))
    else:
        vectors = _in_blocks(paths, encoder.embed_image, "embed pictures")
        write_embeddings(out, ids=ids, modality="image", embedding=vectors, **facts_of(encoder, window))


def embed_names(
    encoder: Encoder,
    out: Path,
    *,
    ids: Sequence[str],
    texts: Sequence[str],
    levels: Sequence[str | None],
    window: Window = "onset",
) -> None:
    """Embed texts into one file; equal texts are embedded once."""
    unique = sorted(set(texts))
    place = {text: n for n, text in enumerate(unique)}
    vectors = _in_blocks(unique, encoder.embed_text, "embed names")[[place[text] for text in texts]]
    write_embeddings(
        out, ids=ids, modality="text", embedding=vectors, text=texts, level=levels, **facts_of(encoder, window)
    )


def _in_blocks(things: Sequence[Any], embed: Callable[[list[Any]], np.ndarray], label: str) -> np.ndarray:
    parts = []
    with Progress(label, len(things)) as bar:
        for block in in_batches(things, BLOCK):
            parts.append(embed(block))
            bar.advance(len(block))
    return np.concatenate(parts) if parts else embed([])
