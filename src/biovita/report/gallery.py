"""Queries with their ranked answers, drawn by a rule that leaves no room for taste.

For each direction and split the queries at species level are shuffled with a fixed seed; shown are the first that was
answered rightly, the first answered wrongly within the right family, and the first answered wrongly outside it. Beside
them stand the best, whose right answer leads the second by the widest margin, and the worst, whose right answer is
ranked lowest; the shuffled order decides between equals.
"""

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biovita.errors import MediaError
from biovita.log import warn
from biovita.media.audio import SAMPLE_RATE_HZ, read_audio, resample, write_audio
from biovita.media.image import read_image, write_image
from biovita.media.window import fit, onset_s
from biovita.report.inputs import DIRECTIONS, LETTERS, RELATIONS, Catalogue, Inputs
from biovita.report.plots import spectrogram
from biovita.report.tables import (
    DIRECTION_NAMES,
    OTHER,
    RELATION_NAMES,
    cosine_text,
    count_text,
    share_text,
    split_name,
)

PURPOSE_GALLERY = 82
KINDS = {"right": "Right", "near": "Wrong, in the right family", "far": "Wrong, in another family"}
EXTREMES = {"best": "Best: right by the widest margin", "worst": "Worst: the right answer ranked lowest"}
SEARCHED_S = 60.0  # of a long recording, for its onset


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a medium is shown; sounds are shortened and thinned to keep the page small."""

    picture_px: int
    sonagram_px: tuple[int, int]
    clip_s: float
    clip_hz: int


QUERY = Size(picture_px=420, sonagram_px=(400, 150), clip_s=4.0, clip_hz=32_000)
ANSWER = Size(picture_px=200, sonagram_px=(220, 100), clip_s=3.0, clip_hz=24_000)


def choose(inputs: Inputs, *, seed: int) -> list[dict[str, Any]]:
    """Choose the queries to show: a group a direction and split, with the share of each kind and one query a kind."""
    assert inputs.predictions is not None
    assert inputs.catalogue is not None
    lineages = inputs.catalogue.lineages
    answered = inputs.predictions.filter((pl.col("level") == "species") & (pl.col("top_taxa").list.len() > 0))
    groups = []
    for d, direction in enumerate(DIRECTIONS):
        for s, split in enumerate(inputs.splits):
            rows = answered.filter((pl.col("direction") == direction) & (pl.col("split") == split))
            if len(rows) == 0:
                continue
            relation = lineages.relation(
                lineages.places(rows["correct_taxon"]), lineages.places(rows["top_taxa"].list.first())
            )
            kind = np.where(rows["rank"].to_numpy() == 1, 0, np.where(relation < 2, 1, 2))
            order = np.random.default_rng([seed, PURPOSE_GALLERY, d, s]).permutation(len(rows))
            picks = [(name, row) for k, name in enumerate(KINDS) for row in order[kind[order] == k][:1]]
            score = rows["top_scores"].list
            margin = (score.get(0) - score.get(1, null_on_oob=True)).fill_null(-np.inf).to_numpy()
            lead, rank = np.where(kind == 0, margin, -np.inf), np.where(kind == 0, 0, rows["rank"].to_numpy())
            for name, height in (("best", lead), ("worst", rank)):
                row = order[height[order].argmax()]
                picks += [(name, row)] if height[row] > 0 and row not in [one for _, one in picks] else []
            groups.append(
                {
                    "direction": direction,
                    "split": split,
                    "shares": [(KINDS[name], share_text(float((kind == k).mean()))) for k, name in enumerate(KINDS)],
                    "rows": [(name, rows.row(int(row), named=True)) for name, row in picks],
                }
            )
    return groups


def make_gallery(inputs: Inputs, *, seed: int) -> list[dict[str, Any]]:
    """Make the cards, grouped by direction and split, with all media inlined."""
    groups = choose(inputs, seed=seed)
    assert inputs.catalogue is not None
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(inputs.catalogue, groups, Path(folder))
        return [
            {
                "direction": group["direction"],
                "direction_name": DIRECTION_NAMES[group["direction"]],
                "split": group["split"],
                "split_name": split_name(group["split"]),
                "shares": group["shares"],
                "cards": [_card(inputs, shelf, kind, row) for kind, row in group["rows"]],
            }
            for group in groups
        ]


def _card(inputs: Inputs, shelf: "Shelf", kind: str, row: dict[str, Any]) -> dict[str, Any]:
    query, target = (LETTERS[row["direction"][i]] for i in (0, 2))
    assert inputs.catalogue is not None
    lineages = inputs.catalogue.lineages
    truth = row["correct_taxon"]
    scenario = inputs.scenario(row["split"], row["level"], row["direction"]) or {}
    answers = []
    best = zip(row["top_taxa"], row["top_scores"], row["top_ids"], strict=True)
    for place, (taxon, score, item) in enumerate(best, 1):
        code = int(lineages.relation(lineages.places([truth]), lineages.places([taxon]))[0])
        relation = "right" if taxon == truth else RELATIONS[code] if code < len(RELATIONS) else "other"
        answers.append(
            {
                "place": place,
                "name": taxon,
                "common": inputs.catalogue.species.get(taxon, {}).get("common_name", ""),
                "score": cosine_text(score),
                "relation": relation,
                "relation_name": "right answer" if relation == "right" else RELATION_NAMES.get(relation, OTHER),
                "exhibit": shelf.show(item, target, ANSWER),
            }
        )
    lineage = inputs.catalogue.species.get(truth, {})
    return {
        "kind": kind,
        "kind_name": (KINDS | EXTREMES)[kind],
        "query": shelf.show(row["query_payload_id"], query, QUERY),
        "truth": truth,
        "common": lineage.get("common_name", ""),
        "lineage": " · ".join(lineage[rank] for rank in ("class", "order", "family") if lineage.get(rank)),
        "rank": row["rank"],
        "n_shown": len(answers),
        "n_candidates": count_text(scenario.get("n_candidates") or 0),
        "answers": answers,
    }


class Shelf:
    """Media made ready for the page; each is read once a size."""

    def __init__(self, catalogue: Catalogue, groups: list[dict[str, Any]], folder: Path) -> None:
        cards = [row for group in groups for _, row in group["rows"]]
        self.rows = catalogue.rows({i for row in cards for i in (row["query_payload_id"], *row["top_ids"])})
        self.folder = folder
        self.shown: dict[tuple[str, int], dict[str, Any]] = {}

    def show(self, item: str, modality: str, size: Size) -> dict[str, Any]:
        """Return what the page needs to show one item: `kind`, `alt`, `credit`, and the media as data URIs."""
        if modality == "text":
            return {"kind": "name"}
        key = (item, size.picture_px)
        if key not in self.shown:
            row = self.rows.get(item)
            try:
                if row is None:
                    raise MediaError("unreadable", f"{item}: no such medium in the dataset")
                shown = (self._sound if modality == "audio" else self._picture)(Path(row["file"]), row["species"], size)
            except MediaError as error:
                warn(f"{item} is not shown: {error}")
                shown = {"kind": "missing", "alt": f"{item}: the file could not be read ({error.reason})"}
            self.shown[key] = {**shown, "id": item, "credit": credit(row or {})}
        return self.shown[key]

    def _sound(self, path: Path, species: str, size: Size) -> dict[str, Any]:
        start_s = onset_s(read_audio(path, duration_s=SEARCHED_S))
        wave = read_audio(path, start_s=start_s, duration_s=size.clip_s)
        seconds = len(wave) / SAMPLE_RATE_HZ
        sheet = fit(wave, round(size.clip_s * SAMPLE_RATE_HZ))  # the same scale of time in every spectrogram
        clip = self.folder / "clip.mp3"
        peak = max(float(np.abs(wave).max(initial=0)), 1e-6)
        write_audio(clip, _thinned(wave, size.clip_hz) * (0.7 / peak), size.clip_hz)
        width, height = size.sonagram_px
        return {
            "kind": "sound",
            "image": data_uri("image/jpeg", spectrogram(sheet, SAMPLE_RATE_HZ, width, height)),
            "audio": data_uri("audio/mpeg", clip.read_bytes()),
            "width": width,
            "height": height,
            "seconds": size.clip_s,
            "alt": f"Spectrogram of a recording of {species}: {seconds:.1f} seconds, 0 to 14 kilohertz",
        }

    def _picture(self, path: Path, species: str, size: Size) -> dict[str, Any]:
        image = read_image(path)
        image.thumbnail((size.picture_px, size.picture_px))
        small = self.folder / "small.jpg"
        write_image(small, image, quality=82)
        return {
            "kind": "picture",
            "image": data_uri("image/jpeg", small.read_bytes()),
            "width": image.width,
            "height": image.height,
            "alt": f"Photo of {species}",
        }


def _thinned(wave: np.ndarray, rate_hz: int) -> np.ndarray:
    """Bring 48 kHz samples to a lower rate: to `resample` they pose as a sound that is faster by the same ratio."""
    return resample(wave, round(SAMPLE_RATE_HZ * SAMPLE_RATE_HZ / rate_hz))


def credit(row: dict[str, Any]) -> str:
    """Write holder and licence of a medium; "" where neither is known."""
    holder, licence = row.get("rights_holder"), row.get("licence")
    return ", ".join([f"By {holder}"] * bool(holder) + [str(licence)] * bool(licence))


def data_uri(kind: str, content: bytes) -> str:
    """Inline a file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
