"""Naming animals: fusion, calibration and back-off, examples; on made-up worlds, for species seen and unseen.

    python benchmarks/identify.py FOLDER… [--wildlife FOLDER] > docs/results/identify.md

Each FOLDER is a world of benchmarks/study.py (dataset, models/ours-*) or of the demo (dataset, model). Media are
embedded once, into FOLDER/identify. Probabilities are fitted on validation files and half of the withheld species, and
measured on test files of seen species and on the other half; then the halves change places.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from PIL import Image

from biovita.config import commit
from biovita.data.dataset import Dataset
from biovita.embed.extract import How, embed_media
from biovita.embed.store import read_embeddings
from biovita.files import read_json
from biovita.identify.back_off import Tree, deepest
from biovita.identify.calibrate import Calibration, log_linear, softmax
from biovita.identify.examples import by_examples, part_of
from biovita.identify.fitting import draw_species, files_to_fit, fitted
from biovita.identify.fusion import BOTH, Sample, samples_of
from biovita.identify.labels import Labels, name_vectors, read_labels
from biovita.media.audio import SAMPLE_RATE_HZ
from biovita.models.encoder import Encoder
from biovita.models.hub import load_encoder
from biovita.sources.folder import read_manifest_table
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.taxon import Taxon

CONFIDENCES = (0.5, 0.7, 0.8, 0.9)
WITHIN = 0.03  # of the confidence asked
KINDS = {"audio": "sound", "image": "photo", BOTH: "both"}
N_DRAWS = 2000  # of the bootstrap
N_LISTS, N_LISTED = 20, 24  # short lists of a world, and species on each
N_EXAMPLES = (1, 3)
N_NOISE = 120


@dataclass(frozen=True)
class World:
    """One made-up world with a model that was trained on it.

    Attributes:
        name: of its folder.
        labels: the model's species.
        media: what training did not see, one row a file.
        vectors: of these files, in their order.
        is_trained: which of the species the model was trained on.
    """

    name: str
    encoder: Encoder
    dataset: Dataset
    labels: Labels
    media: pl.DataFrame
    vectors: np.ndarray
    is_trained: np.ndarray

    def rows(self, media: pl.DataFrame) -> np.ndarray:
        """Find the places of files."""
        place = {name: n for n, name in enumerate(self.media["media_id"])}
        return np.array([place[name] for name in media["media_id"]], np.intp)

    def samples(self, media: pl.DataFrame) -> dict[str, Sample]:
        """Sort files by what there is of an animal."""
        place = {taxon.species: n for n, taxon in enumerate(self.labels.taxa)}
        truth = [place[name] for name in media["species"]]
        vectors = self.vectors[self.rows(media)]
        return samples_of(vectors, media["modality"].to_list(), truth, media["individual"].to_list())

    def fit(self, drawn: Sequence[str]) -> Calibration:
        """Fit probabilities with the help of some withheld species."""
        media = files_to_fit(self.dataset, drawn, [taxon.species for taxon in self.labels.taxa])
        trained = [taxon.species for taxon, is_ in zip(self.labels.taxa, self.is_trained, strict=True) if is_]
        return fitted(
            self.vectors[self.rows(media)],
            media,
            self.labels,
            weights_sha256=self.encoder.weights_sha256,
            preprocess=self.encoder.fingerprint("windows"),
            trained=trained,
            scale=1.0,
            facts={},
        )


def open_world(folder: Path) -> World:
    """Open a world and embed what training did not see."""
    models = [*(folder / "models").glob("ours-*")]
    model = max(models, key=lambda path: read_json(path / "run.json")["best_mean_top1"]) if models else folder / "model"
    encoder, dataset = load_encoder(model), Dataset.open(folder / "dataset")
    media = dataset.media.filter(pl.col("split") != "train").sort("modality", "media_id")
    vectors = []
    for modality in ("audio", "image"):
        rows = media.filter(modality=modality)
        out = folder / "identify" / f"{modality}.parquet"
        if not out.is_file():
            paths = [dataset.path(path) for path in rows["path"]]
            how = How(window="windows")
            embed_media(encoder, out, ids=rows["media_id"].to_list(), paths=paths, modality=modality, how=how)
        table = read_embeddings(out)
        assert table.ids == rows["media_id"].to_list()
        assert table.meta["weights_sha256"] == encoder.weights_sha256
        vectors.append(table.embedding)
    labels = read_labels(encoder)
    withheld = set(dataset.taxa.filter("withheld")["species"])
    is_trained = np.array([taxon.species not in withheld for taxon in labels.taxa])
    return World(folder.name, encoder, dataset, labels, media, np.concatenate(vectors), is_trained)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One half of the withheld species helps to fit, the other is measured."""

    world: World
    calibration: Calibration
    seen_only: Calibration
    measured: dict[str, dict[str, Sample]]  # by seen and unseen, and by what there is

    def probabilities(
        self, sample: Sample, key: str, *, how: str = "ours", pick: np.ndarray | None = None
    ) -> np.ndarray:
        """Name the animals of a sample, perhaps from a part of the list."""
        pick = np.arange(len(self.world.labels)) if pick is None else pick
        scores = sample.scores(self.world.labels.vectors[pick])
        if how == "training's scale":
            scale = self.world.encoder.model.logit_scale.exp().item()
            return softmax(scale * np.mean([scores[m] for m in key.split("+")], axis=0))
        calibration = self.calibration if how == "ours" else self.seen_only
        own = {m: scores[m] for m in key.split("+")}
        return log_linear(calibration.weights[key], own, self.world.is_trained[pick])


def turns_of(world: World) -> Iterator[Turn]:
    """Let the halves of the withheld species change places."""
    first = draw_species(world.dataset.taxa, share=0.5, seed=1)
    withheld = world.dataset.taxa.filter("withheld")["species"].to_list()
    second = sorted(set(withheld) - set(first))
    seen_only = world.fit([])
    for drawn, others in ((first, second), (second, first)):
        unseen = world.media.filter(split="test_unseen").filter(pl.col("species").is_in(others))
        measured = {
            "seen": world.samples(world.media.filter(split="test_seen")),
            "unseen": world.samples(unseen),
        }
        yield Turn(world=world, calibration=world.fit(drawn), seen_only=seen_only, measured=measured)


class Tally:
    """Counts by species, for shares with an interval: species are drawn again, with all that is of them."""

    def __init__(self) -> None:
        self._of: dict[object, np.ndarray] = {}

    def add(self, species: Sequence[object], *values: np.ndarray) -> None:
        """Add rows: the species of each, and numbers to sum up."""
        for name, *row in zip(species, *values, strict=True):
            self._of[name] = self._of.get(name, 0.0) + np.array(row, np.float64)

    def share(self, of: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float, float]:
        """Return a figure of the sums, (draws, numbers) to (draws,), with its 95 % interval."""
        table = np.stack([*self._of.values()])
        rng = np.random.default_rng([len(table), 5])
        weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=N_DRAWS)
        with np.errstate(invalid="ignore"):
            low, high = np.nanquantile(of(weights @ table), [0.025, 0.975])
        return float(of(table.sum(0)[None])[0]), float(low), float(high)


def percent(figure: tuple[float, float, float], *, sign: str = "") -> str:
    """Write a share with its interval."""
    return f"{100 * figure[0]:{sign}.1f} ({100 * figure[1]:.1f} to {100 * figure[2]:.1f})"


def ranks_of(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank the true species, from 1; a tie counts against it."""
    return (probs >= probs[np.arange(len(probs)), truth][:, None]).sum(1)


def species_of(turn: Turn, sample: Sample) -> list[tuple[str, int]]:
    """Name the species of animals, so that those of two worlds differ."""
    return [(turn.world.name, n) for n in sample.truth.tolist()]


def fusion(turns: Sequence[Turn]) -> None:
    """Compare a sound and a photo of one animal with both together."""
    print("## A sound and a photo of one animal\n")
    print(
        "Percent of animals of which there is both; intervals of 95 %, species drawn again; better: the better one of"
    )
    print("sound and photo by what is measured here, which is kind to them.\n")
    print("| species | animals | at | sound | photo | both | both less the better |\n|---|---|---|---|---|---|---|")
    for group in ("seen", "unseen"):
        for title, most in (("species, first", 1), ("species, among five", 5)):
            tally, animals = Tally(), set()
            for turn in turns:
                sample = turn.measured[group][BOTH]
                right = [ranks_of(turn.probabilities(sample, key), sample.truth) <= most for key in KINDS]
                tally.add(species_of(turn, sample), np.ones(len(sample.truth)), *right)
                animals |= {(turn.world.name, row.tobytes()) for row in sample.vectors["audio"]}
            shares = [tally.share(lambda sums, n=n: sums[:, n] / sums[:, 0]) for n in (1, 2, 3)]
            better = 1 if shares[0][0] >= shares[1][0] else 2
            gain = tally.share(lambda sums, n=better: (sums[:, 3] - sums[:, n]) / sums[:, 0])
            cells = " | ".join(percent(share) for share in shares)
            print(f"| {group} | {len(animals):,} | {title} | {cells} | **{percent(gain, sign='+')}** |")
    print()


class Given(NamedTuple):
    """One answer; an empty rank: unknown."""

    rank: str
    stated: float
    is_right: bool


def members(taxa: Sequence[Taxon], rank: str) -> list[tuple[str, ...]]:
    """Name the taxon of every species at a rank, with all above it."""
    return [tuple(taxon.at(r) for r in RANKS[: RANKS.index(rank) + 1]) for taxon in taxa]


def judged(taxa: Sequence[Taxon], probs: np.ndarray, truth: np.ndarray, confidence: float) -> list[Given]:
    """Back off, and compare with the truth."""
    tree = Tree(taxa)
    of = {rank: members(taxa, rank) for rank in RANKS}
    sums = {rank: tree.sums(rank, probs) for rank in RANKS}
    found = []
    for row, (sure, true) in enumerate(zip(deepest(tree, probs, confidence), truth, strict=True)):
        if sure is None:
            found.append(Given("", 0.0, False))
        else:
            rank, n = sure
            found.append(Given(rank, float(sums[rank][row, n]), of[rank][tree.first[rank][n]] == of[rank][true]))
    return found


def count(tally: Tally, species: Sequence[object], answers: Sequence[Given]) -> None:
    """Count answers: all, given, right, what was stated, and those at each rank."""
    at = [np.array([one.rank == rank for one in answers], float) for rank in RANKS]
    given = np.array([one.rank != "" for one in answers], float)
    right = np.array([one.is_right for one in answers], float)
    tally.add(species, np.ones(len(answers)), given, right, np.array([one.stated for one in answers]), *at)


@dataclass(frozen=True)
class Cell:
    """One row of a back-off table, as shares of one.

    Attributes:
        right: of the answers given, with its interval.
        stated: mean probability of these answers.
        unknown: of all animals.
        at: of all animals, answers at each rank from species up to phylum.
    """

    right: tuple[float, float, float]
    stated: float
    unknown: float
    at: list[float]

    def row(self) -> str:
        """Write the columns of `HEAD`."""
        shares = " | ".join(f"{100 * share:.0f}" if share else "" for share in self.at)
        return f"{percent(self.right)} | {100 * self.stated:.1f} | {100 * self.unknown:.0f} | {shares} |"


HEAD = "right, of the answers given | stated | unknown | " + " | ".join(RANKS[:0:-1]) + " |"


def cell_of(tally: Tally) -> Cell:
    """Turn counts into shares."""

    def part(n: int, of: int) -> tuple[float, float, float]:
        return tally.share(lambda sums: sums[:, n] / sums[:, of])

    at = [part(4 + n, 0)[0] for n in range(len(RANKS))]
    return Cell(right=part(2, 1), stated=part(3, 1)[0], unknown=1 - part(1, 0)[0], at=at[:0:-1])


def back_off(turns: Sequence[Turn]) -> None:
    """Compare the share right with the confidence asked and with what was stated."""
    print("## Back-off\n")
    print("The answer is the deepest rank whose best taxon is as probable as asked, else unknown; percent of animals.")
    print("Stated: the mean probability of the answers, which is above what was asked.\n")
    table_of(lambda group, key, confidence: whole(turns, group, key, confidence))
    print(f"### Short lists: {N_LISTS} draws of {N_LISTED} measured species in each world and half\n")
    table_of(lambda group, key, confidence: short(turns, group, key, confidence))


def table_of(tally_of: Callable[[str, str, float], Tally]) -> None:
    """Print a row for every group, kind and confidence, and how many of them keep the promise."""
    print(f"| species | of | asked | {HEAD}\n|---|---|---|{'---|' * (3 + len(RANKS[1:]))}")
    found = []
    for group in ("seen", "unseen"):
        for key, kind in KINDS.items():
            for confidence in CONFIDENCES:
                cell = cell_of(tally_of(group, key, confidence))
                found.append((cell, confidence))
                print(f"| {group} | {kind} | {100 * confidence:.0f} | {cell.row()}")
    reached = sum(cell.right[0] >= confidence - WITHIN for cell, confidence in found)
    near = sum(abs(cell.right[0] - cell.stated) <= WITHIN for cell, _ in found)
    lowest = 100 * min(cell.right[0] - confidence for cell, confidence in found)
    apart = [100 * (cell.right[0] - cell.stated) for cell, _ in found]
    span = f"{min(apart):+.1f} to {max(apart):+.1f}"
    print(f"\n{reached} of {len(found)} rows reach what was asked, less 3 points; the lowest is {lowest:+.1f} from it.")
    print(f"{near} are within 3 points of what was stated; right less stated goes from {span}.\n")


def whole(turns: Sequence[Turn], group: str, key: str, confidence: float, how: str = "ours") -> Tally:
    """Back off on the whole list."""
    tally = Tally()
    for turn in turns:
        sample = turn.measured[group][key]
        probs = turn.probabilities(sample, key, how=how)
        count(tally, species_of(turn, sample), judged(turn.world.labels.taxa, probs, sample.truth, confidence))
    return tally


def short(turns: Sequence[Turn], group: str, key: str, confidence: float) -> Tally:
    """Back off on short lists of species, half of them seen."""
    tally = Tally()
    for turn in turns:
        rng = np.random.default_rng([N_LISTED, 6])
        there = [np.unique(turn.measured[one][key].truth) for one in ("seen", "unseen")]
        for _ in range(N_LISTS):
            pick = np.sort(np.concatenate([rng.choice(one, N_LISTED // 2, replace=False) for one in there]))
            sample = turn.measured[group][key]
            some = np.isin(sample.truth, pick)
            part = Sample(vectors={m: v[some] for m, v in sample.vectors.items()}, truth=sample.truth[some])
            probs = turn.probabilities(part, key, pick=pick)
            taxa = [turn.world.labels.taxa[n] for n in pick]
            count(tally, species_of(turn, part), judged(taxa, probs, np.searchsorted(pick, part.truth), confidence))
    return tally


def margins(turns: Sequence[Turn]) -> None:
    """Compare ways of finding probabilities by the worst of all confidences and kinds."""
    print("## What the fit is worth\n")
    print("Points by which the share right is above the confidence asked, and above what was stated, at the")
    print(
        "worst of 12 rows (four confidences, three kinds). True species: its probability, geometric mean, in percent."
    )
    print("Seen / unseen.\n")
    print(
        "| probabilities | right less asked, lowest | right less stated, farthest | true species |\n|---|---|---|---|"
    )
    for how in ("training's scale", "validation files only", "ours"):
        lowest, farthest, chances = [], [], []
        for group in ("seen", "unseen"):
            cells = [(cell_of(whole(turns, group, key, c, how)), c) for key in KINDS for c in CONFIDENCES]
            logs = []
            for turn in turns:
                for key in KINDS:
                    sample = turn.measured[group][key]
                    probs = turn.probabilities(sample, key, how=how)
                    logs.append(np.log(probs[np.arange(len(probs)), sample.truth]))
            lowest.append(f"{100 * min(cell.right[0] - c for cell, c in cells):+.1f}")
            apart = [cell.right[0] - cell.stated for cell, _ in cells]
            farthest.append(f"{100 * max(apart, key=abs):+.1f}")
            chances.append(f"{100 * np.exp(np.concatenate(logs).mean()):.2f}")
        title = "with half of the withheld species (ours)" if how == "ours" else how
        print(f"| {title} | {' | '.join(' / '.join(one) for one in (lowest, farthest, chances))} |")
    weights = [turn.calibration.weights for turn in turns]
    offsets = ", ".join(f"{np.mean([one[key]['trained'] for one in weights]):+.2f} ({KINDS[key]})" for key in KINDS)
    print(f"\nThe offset for species that the model was trained on, mean of {len(turns)} fits: {offsets}.\n")


def examples(worlds: Sequence[World]) -> None:
    """Give examples of all withheld species, and name their other files and those of seen species."""
    print("## Examples\n")
    fits = {world.name: world.fit([]) for world in worlds}
    print("Some files of every withheld species are given as examples; the others are named, and so are seen species,")
    print(
        "from the whole list. First answer right, in percent. Last: with examples, share right of the answers given at"
    )
    print("a confidence of 80 (probabilities fitted on validation files, by names): withheld / seen.\n")
    print("| given each | of | withheld, by name | by example | seen, before | after | right at 80 |")
    print("|---|---|---|---|---|---|---|")
    for n_given in N_EXAMPLES:
        for modality in ("audio", "image"):
            own, others = Tally(), Tally()
            for world in worlds:
                media = world.media.filter(modality=modality)
                place = {taxon.species: n for n, taxon in enumerate(world.labels.taxa)}
                truth = np.array([place[name] for name in media["species"]])
                vectors = world.vectors[world.rows(media)]
                rng = np.random.default_rng([n_given, 7])
                is_given = np.zeros(len(media), bool)
                is_asked = np.zeros(len(media), bool)
                for n in np.unique(truth[~world.is_trained[truth]]):
                    files = rng.permutation(np.flatnonzero(truth == n))
                    if len(files) > n_given:
                        is_given[files[:n_given]] = is_asked[files[n_given:]] = True
                names = world.labels.vectors
                part = part_of(vectors[(media["split"] == "val").to_numpy()], names)
                with_examples = by_examples(names, truth[is_given], vectors[is_given], part)
                is_seen = (media["split"] == "test_seen").to_numpy()
                for tally, some in ((own, is_asked), (others, is_seen)):
                    ranks = [ranks_of(vectors[some] @ labels.T, truth[some]) == 1 for labels in (names, with_examples)]
                    probs = log_linear(
                        fits[world.name].weights[modality],
                        {modality: vectors[some] @ with_examples.T},
                        np.zeros(len(names)),
                    )
                    answers = judged(world.labels.taxa, probs, truth[some], 0.8)
                    given = np.array([one.rank != "" for one in answers])
                    right = np.array([one.is_right for one in answers])
                    species = [(world.name, n) for n in truth[some].tolist()]
                    tally.add(species, np.ones(some.sum()), *ranks, given, right)
            at_80 = [f"{100 * t.share(lambda sums: sums[:, 4] / sums[:, 3])[0]:.1f}" for t in (own, others)]
            cells = [percent(t.share(lambda sums, n=n: sums[:, n] / sums[:, 0])) for t in (own, others) for n in (1, 2)]
            print(f"| {n_given} | {KINDS[modality]} | {' | '.join(cells)} | {' / '.join(at_80)} |")
    print()


def no_animals(world: World, turn: Turn) -> None:
    """Name noise and empty pictures."""
    rng = np.random.default_rng([N_NOISE, 8])
    sounds, pictures = [], []
    for n in range(N_NOISE):
        time_s = np.arange(5 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
        white = rng.normal(size=len(time_s))
        rumble = np.convolve(white, np.ones(200) / 200, "same")
        hum = np.sin(2 * np.pi * rng.uniform(50, 300) * time_s) + 0.05 * white
        wave = (white, rumble, hum)[n % 3]
        sounds.append(((0.5 * wave / np.abs(wave).max()).astype(np.float32), SAMPLE_RATE_HZ))
        colour = np.broadcast_to(rng.integers(0, 256, 3), (200, 300, 3))
        slope = colour * np.linspace(0, 1, 300)[None, :, None]
        pixels = (colour, slope, rng.integers(0, 256, (200, 300, 3)))[n % 3]
        pictures.append(Image.fromarray(pixels.astype(np.uint8)))
    print("## What is no animal\n")
    print(f"{N_NOISE} sounds (white noise, rumble, hum) and {N_NOISE} pictures (one colour, a slope, random pixels):")
    print("with the model and the probabilities of the first world, answers given at a confidence of 80, in percent.\n")
    print("| | answers to noise | answers to animals | noise that scores below 99 % of animals |\n|---|---|---|---|")
    noise = {"audio": world.encoder.embed_audio(sounds, window="windows"), "image": world.encoder.embed_image(pictures)}
    tree = Tree(world.labels.taxa)
    for modality, vectors in noise.items():
        shares, best = [], []
        animals = turn.measured["seen"][modality]
        for sample in (Sample(vectors={modality: vectors}, truth=np.zeros(N_NOISE, np.intp)), animals):
            sure = deepest(tree, turn.probabilities(sample, modality), 0.8)
            shares.append(f"{100 * np.mean([one is not None for one in sure]):.0f}")
            best.append(sample.scores(world.labels.vectors)[modality].max(1))
        shares.append(f"{100 * (best[0] < np.quantile(best[1], 0.01)).mean():.0f}")
        print(f"| {KINDS[modality]} | {' | '.join(shares)} |")
    print()


def wildlife(world: World, turn: Turn, folder: Path) -> None:
    """Name real animals with a model that knows made-up ones."""
    rows = read_manifest_table(folder / "manifest.tsv")
    taxa = [Taxon(species=name) for name in rows["scientific_name"].unique().sort()]
    names = name_vectors(world.encoder, taxa)
    place = {taxon.species: n for n, taxon in enumerate(taxa)}
    print("## Real files\n")
    print(f"Real animals of `{folder}`, with the model of the first world, which knows made-up ones only,")
    print("and with its probabilities.\n")
    for modality in ("audio", "image"):
        some = rows.filter(modality=modality)
        paths = [Path(file) for file in some["file"]]
        encoder = world.encoder
        vectors = encoder.embed_audio(paths, window="windows") if modality == "audio" else encoder.embed_image(paths)
        truth = np.array([place[name] for name in some["scientific_name"]])
        probs = log_linear(turn.calibration.weights[modality], {modality: vectors @ names.T}, np.zeros(len(taxa)))
        first = 100 * (ranks_of(probs, truth) == 1).mean()
        sure = (probs.max(1) >= 0.5).sum()
        print(
            f"- {len(paths)} real {KINDS[modality]}s among {len(taxa)} species: {first:.1f} % first (chance "
            f"{100 / len(taxa):.1f}), stated {100 * probs.max(1).mean():.1f} %; {sure} of them stated as 50 % or more."
        )
    print()


def main() -> None:
    """Open all worlds, then print the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--wildlife", type=Path)
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        worlds = [open_world(folder) for folder in args.folders]
        turns = [turn for world in worlds for turn in turns_of(world)]
    print("# Naming animals: fusion, back-off, examples\n")
    print("Made-up animals and tiny towers: these numbers test the method and say nothing about real species.\n")
    command = " ".join(["python benchmarks/identify.py", *map(str, args.folders)])
    print(f"    {command}{f' --wildlife {args.wildlife}' if args.wildlife else ''}\n")
    sizes = ", ".join(f"{len(world.labels)} ({(~world.is_trained).sum()} withheld)" for world in worlds)
    print(f"{len(worlds)} worlds, species in each: {sizes}; the model is that of")
    print(f"`runs/study/ours.toml`; commit {commit()}.\n")
    print(
        "Every species of a world is on the list. Probabilities are fitted on validation files and half of the withheld"
    )
    print("species, and measured on test files of seen species and on the other half; then the halves change places.")
    print("What was chosen by hand was chosen on another world, of the demo, which is not scored here.\n")
    fusion(turns)
    back_off(turns)
    margins(turns)
    examples(worlds)
    no_animals(worlds[0], turns[0])
    if args.wildlife:
        wildlife(worlds[0], turns[0], args.wildlife)


if __name__ == "__main__":
    main()
