"""A model's probabilities, fitted on files that training did not see: by maximum likelihood, which has one answer here.

Validation files are all of species that the model was trained on. Some of the withheld species help, since what the
model does not know is named worse, and with validation files alone its probabilities would be too high.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from biovita.data.dataset import Dataset
from biovita.embed.extract import How, stream
from biovita.errors import DatasetError, MediaError
from biovita.identify.calibrate import TRAINED, Calibration, log_linear, softmax
from biovita.identify.examples import part_of
from biovita.identify.fusion import BOTH, MEDIA, Sample, samples_of
from biovita.identify.labels import FEWEST_SPECIES, Labels
from biovita.log import Progress, warn
from biovita.models.encoder import Encoder

CALIBRATE = 71  # purpose of the random stream
MOST = 1000  # animals of species with and without training; more change nothing and take memory
N_BINS = 10  # of probability, for the calibration error
RIDGE = 1e-6  # keeps weights finite where a few files are all named right
SETTLED = 1e-12  # of what a step of Newton's method would gain
MOST_STEPS = 50  # it takes about ten
SHORTEST = 1e-9  # step; one that goes too far is halved
BLOCK = 128  # rows at a time


def draw_species(taxa: pl.DataFrame, *, share: float, seed: int) -> list[str]:
    """Draw the withheld species that help to fit.

    Args:
        taxa: of a dataset.
        share: of its withheld species.
        seed: of the draw.
    """
    withheld = taxa.filter("withheld")["species"].sort().to_list()
    order = np.random.default_rng([seed, CALIBRATE]).permutation(len(withheld))
    return sorted(withheld[n] for n in order[: round(share * len(withheld))])


def calibrate(
    encoder: Encoder, labels: Labels, dataset: Dataset, drawn: Sequence[str], *, run: dict[str, Any] | None = None
) -> Calibration:
    """Fit a model's probabilities on a dataset's validation files and on files of some withheld species.

    Args:
        encoder: the model.
        labels: the species to choose from.
        dataset: that the model was trained on.
        drawn: withheld species whose files help.
        run: what to remember of the command.

    Raises:
        DatasetError: there are no such files.
    """
    species = [taxon.species for taxon in labels.taxa]
    if left_out := set(dataset.media["species"]) - {*species}:
        warn(f"{dataset.folder}: {len(left_out):,} of its species are not among the model's; their files are left out")
    media = files_to_fit(dataset, drawn, species)
    paths = [dataset.path(path) for path in media["path"]]
    things = iter(zip(media["modality"], paths, strict=True))
    vectors = []
    with Progress("embed validation files", len(media), "files") as bar:
        for block in stream(encoder, things, How(window="windows")):
            bar.advance(len(block))
            for result, path in zip(block, paths[len(vectors) :], strict=False):
                if isinstance(result, MediaError):
                    raise DatasetError(f"{path}: {result}; `biovita data verify` tells what else changed")
                vectors.append(result.vectors[0])
    return fitted(
        np.stack(vectors),
        media,
        labels,
        weights_sha256=encoder.weights_sha256,
        preprocess=encoder.fingerprint("windows"),
        trained=dataset.media.filter(split="train")["species"].unique().sort().to_list(),
        scale=encoder.model.logit_scale.exp().item(),
        facts={"withheld_species": list(drawn), "run": run},
    )


def files_to_fit(dataset: Dataset, drawn: Sequence[str], species: Sequence[str]) -> pl.DataFrame:
    """List the validation files and those of drawn species, at most `MOST` animals of each of the two.

    Raises:
        DatasetError: there are none.
    """
    media = dataset.media.filter(pl.col("species").is_in(species))
    is_drawn = (pl.col("split") == "test_unseen") & pl.col("species").is_in(drawn)
    groups = []
    for rows in (media.filter(split="val"), media.filter(is_drawn)):
        animals = rows.select(pl.coalesce("individual", "media_id").alias("animal"))["animal"]
        if (n := animals.n_unique()) > MOST:
            kept = animals.unique().sort().gather(np.random.default_rng([n, CALIBRATE]).permutation(n)[:MOST])
            rows = rows.filter(animals.is_in(kept.implode()))
        groups.append(rows)
    found = pl.concat(groups).sort("media_id")
    if not len(found):
        raise DatasetError(f"{dataset.folder}: no validation files of the model's species; probabilities need some")
    return found


def fitted(
    vectors: np.ndarray,
    media: pl.DataFrame,
    labels: Labels,
    *,
    weights_sha256: str,
    preprocess: str,
    trained: Sequence[str],
    scale: float,
    facts: dict[str, Any],
) -> Calibration:
    """Fit a calibration on files that are embedded already.

    Args:
        vectors: of the files, shape (n, width), unit rows.
        media: modality, species and individual of each.
        labels: the species to choose from, which have those of the files.
        weights_sha256: of the model.
        preprocess: of the vectors.
        trained: species that the model was trained on.
        scale: factor on scores with which it was trained.
        facts: to remember besides.
    """
    place = {taxon.species: n for n, taxon in enumerate(labels.taxa)}
    truth = [place[name] for name in media["species"]]
    samples = samples_of(vectors, media["modality"].to_list(), truth, media["individual"].to_list())
    known = set(trained)
    is_trained = np.array([taxon.species in known for taxon in labels.taxa], bool)
    told = [m for m in MEDIA if m in samples and len(np.unique(samples[m].truth)) >= FEWEST_SPECIES]
    parts = {m: part_of(samples[m].vectors[m], labels.vectors) for m in told}
    return Calibration(
        weights_sha256=weights_sha256,
        preprocess=preprocess,
        weights=fit(samples, labels.vectors, is_trained),
        trained=sorted(trained),
        centre={m: part.centre.astype(np.float64).round(5).tolist() for m, part in parts.items()},
        reach={m: part.reach for m, part in parts.items()},
        fitted_on={
            "error": errors_of(samples, labels.vectors, is_trained, scale),
            "paired_by": samples[BOTH].paired_by if BOTH in samples else "",
            **facts,
        },
    )


def fit(samples: Mapping[str, Sample], labels: np.ndarray, is_trained: np.ndarray) -> dict[str, dict[str, float]]:
    """Fit the weights of everything that there is a sample of.

    Every species of the list counts as equally likely to be met, however many files there are: files of species that
    the model was trained on weigh together as much as such species are many, and so do those of the others. Without
    files of one of the two there is no offset.

    Args:
        samples: by `audio`, `image` and `audio+image`.
        labels: shape (species, width), unit rows.
        is_trained: shape (species,).

    Returns:
        weights, as `Calibration` files them. A modality that tells nothing has weight 0, never less.
    """
    found = {}
    for key, sample in samples.items():
        counts = _counts(sample.truth, is_trained)
        features: dict[str, np.ndarray] = dict(sample.scores(labels))
        if len(np.unique(is_trained[sample.truth])) == 2:
            features[TRAINED] = is_trained.astype(np.float64)
        weights = dict.fromkeys((*sample.vectors, TRAINED), 0.0)
        while features:
            fitted = dict(zip(features, fit_weights([*features.values()], sample.truth, counts).tolist(), strict=True))
            senseless = [name for name in sample.vectors if fitted.get(name, 0.0) < 0]
            if not senseless:
                weights |= fitted
                break
            features = {name: values for name, values in features.items() if name not in senseless}
        found[key] = weights
    return found


def _counts(truth: np.ndarray, is_trained: np.ndarray) -> np.ndarray:
    """Let each file count so that all species of the list are equally likely, those with and without training."""
    of_trained = is_trained[truth]
    n_species = np.where(of_trained, is_trained.sum(), (~is_trained).sum())
    n_files = np.where(of_trained, of_trained.sum(), (~of_trained).sum())
    return n_species / n_files


def errors_of(
    samples: Mapping[str, Sample], labels: np.ndarray, is_trained: np.ndarray, scale: float
) -> dict[str, dict[str, Any]]:
    """Measure calibration on species that the weights were not fitted on: two halves of the species, turn about.

    Args:
        samples: as for `fit`.
        labels: as for `fit`.
        is_trained: as for `fit`.
        scale: factor on scores with which the model was trained; what probabilities would be without calibration.

    Returns:
        for each sample and for `seen` and `unseen` species in it: the number of animals, and the expected calibration
        error `before` and `after`.
    """
    found = {}
    for key, sample in samples.items():
        scores = sample.scores(labels)
        before = softmax(scale * np.mean([*scores.values()], axis=0))
        after = np.empty_like(before)
        half = np.unique(sample.truth, return_inverse=True)[1] % 2 == 1
        for judged in (half, ~half):
            part = replace(
                sample, vectors={m: v[~judged] for m, v in sample.vectors.items()}, truth=sample.truth[~judged]
            )
            if judged.any() and len(part.truth):
                own = {m: values[judged] for m, values in scores.items()}
                after[judged] = log_linear(fit({key: part}, labels, is_trained)[key], own, is_trained)
            else:
                after[judged] = before[judged]
        of_trained = is_trained[sample.truth]
        for name, some in (("seen", of_trained), ("unseen", ~of_trained)):
            if some.any():
                truth = sample.truth[some]
                found[f"{key}, {name}"] = {
                    "n": int(some.sum()),
                    "before": calibration_error(before[some], truth),
                    "after": calibration_error(after[some], truth),
                }
    return found


def calibration_error(probs: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error of the best species.

    It is the mean distance, over ten bins of probability, between what was stated and how often it was right.

    Args:
        probs: shape (n, species).
        truth: shape (n,).
    """
    stated, right = probs.max(1), probs.argmax(1) == truth
    place = np.minimum((stated * N_BINS).astype(int), N_BINS - 1)
    bins = [place == n for n in range(N_BINS)]
    return float(sum(abs(stated[some].sum() - right[some].sum()) for some in bins) / len(truth))


def fit_weights(features: Sequence[np.ndarray], truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Find the weights of a log-linear model under which the true species are likeliest, by Newton's method.

    The logit of a species is the sum of its features, each times its weight.

    Args:
        features: each of shape (n, species) or, where it is the same for all, (species,).
        truth: place of the true species, shape (n,).
        counts: how much each row counts, shape (n,).

    Returns:
        float64, one weight a feature.
    """
    share = counts / counts.sum()
    weights = np.zeros(len(features))
    loss, slope, bend = _likelihood(weights, features, truth, share)
    for _ in range(MOST_STEPS):
        step = np.linalg.solve(bend, slope)
        if slope @ step < SETTLED:
            break
        tried = _likelihood(weights - step, features, truth, share)
        while tried[0] > loss and np.abs(step).max() > SHORTEST:
            step = step / 2
            tried = _likelihood(weights - step, features, truth, share)
        weights = weights - step
        loss, slope, bend = tried
    return weights


def _likelihood(
    weights: np.ndarray, features: Sequence[np.ndarray], truth: np.ndarray, share: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the loss with its first and second derivatives; some rows at a time, for lists of many species."""
    loss = RIDGE * float(weights @ weights)
    slope = 2 * RIDGE * weights
    bend = 2 * RIDGE * np.eye(len(weights))
    for start in range(0, len(truth), BLOCK):
        rows = slice(start, start + BLOCK)
        n_rows = len(truth[rows])
        values = np.stack(
            [np.broadcast_to(one[rows] if one.ndim > 1 else one, (n_rows, one.shape[-1])) for one in features]
        )
        values = values.astype(np.float64)
        own = values[:, np.arange(n_rows), truth[rows]]
        logits = np.tensordot(weights, values, 1)
        odds = softmax(logits)
        top = logits.max(1)
        spread = np.log(np.exp(logits - top[:, None]).sum(1))
        loss -= float(share[rows] @ (weights @ own - top - spread))
        mean = (odds * values).sum(2)
        slope = slope - (own - mean) @ share[rows]
        centred = values - mean[:, :, None]
        bend = bend + np.einsum("ns,ans,bns->ab", odds * share[rows, None], centred, centred)
    return loss, slope, bend
