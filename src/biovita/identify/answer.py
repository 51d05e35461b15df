"""A photo or a recording to ranked taxa."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biovita.embed.extract import text_vectors
from biovita.errors import ModelError
from biovita.models.encoder import Encoder, Window
from biovita.taxonomy.prompts import training_prompts
from biovita.taxonomy.taxon import Taxon


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One taxon and how near it is; `score` is a cosine in [-1, 1], not a probability."""

    taxon: Taxon
    score: float


class Identifier:
    """Ranks a fixed list of species for any file.

    A species' vector is the mean of its five training texts, brought back to unit length, so scientific and common
    name count alike.
    """

    def __init__(self, encoder: Encoder, taxa: Sequence[Taxon]) -> None:
        if not taxa:
            raise ModelError(f"{encoder.name}: no species to choose from; give --labels TABLE")
        self.encoder, self.taxa = encoder, list(taxa)
        texts = [training_prompts(taxon) for taxon in self.taxa]
        vectors = text_vectors(encoder, [text for forms in texts for text in forms])
        mean = vectors.reshape(len(texts), len(texts[0]), -1).mean(1)
        self.vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def rank(self, path: Path, modality: str, *, k: int, window: Window = "windows") -> list[Candidate]:
        """Rank the species for one file; the first of equal scores is the first in the list.

        Raises:
            MediaError: the file does not decode.
        """
        if modality == "audio":
            vector = self.encoder.embed_audio([path], window=window)[0]
        else:
            vector = self.encoder.embed_image([path])[0]
        scores = self.vectors @ vector
        order = np.argsort(-scores, kind="stable")[:k]
        return [Candidate(taxon=self.taxa[n], score=float(scores[n])) for n in order]
