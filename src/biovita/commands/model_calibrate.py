"""`biovita model calibrate`: make a model's scores probabilities, from files that training did not see."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from biovita.config import describe_run
from biovita.errors import ConfigError
from biovita.log import SETTINGS, emit, say, warn

FEWEST_ANIMALS = 30  # of a kind; with fewer, one animal more or less changes what is stated by several percent


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fit probabilities for a model, and write calibration.json into its folder."""

    model: Positional[Path]
    """Model folder; `biovita identify` finds calibration.json in it."""
    data: Path
    """Dataset folder that the model was trained on: its validation files are embedded, and files of withheld
    species."""
    withheld_share: float = 0.5
    """Share of the withheld species that help to fit: without them, probabilities of species that the model never met
    are too high. They are listed in calibration.json; measure on the others."""
    seed: int = 1
    """Of the draw of withheld species."""


def run_calibrate(config: Calibrate) -> None:
    """Embed, fit, write, and say what was done."""
    if not config.model.is_dir():
        raise ConfigError(f"{config.model}: no such model folder; a hub model is calibrated in a copy of its folder")
    if not 0 <= config.withheld_share <= 1:
        raise ConfigError(f"--withheld-share {config.withheld_share}: give 0 to 1")
    from biovita.data.dataset import Dataset
    from biovita.identify.calibrate import FILE, write_calibration
    from biovita.identify.fitting import calibrate, draw_species
    from biovita.identify.labels import read_labels
    from biovita.models.hub import load_encoder

    dataset = Dataset.open(config.data)
    encoder = load_encoder(config.model)
    labels = read_labels(encoder)
    drawn = draw_species(dataset.taxa, share=config.withheld_share, seed=config.seed)
    calibration = calibrate(encoder, labels, dataset, drawn, run=describe_run(config))
    write_calibration(config.model, calibration)
    if not drawn:
        warn("no withheld species helped to fit: probabilities of species that the model never met may be too high")
    if SETTINGS.json:
        emit({"out": str(config.model), "weights": calibration.weights, **calibration.fitted_on})
    counts: Counter[str] = Counter()
    for key, error in calibration.fitted_on["error"].items():
        counts[key.split(",")[0]] += error["n"]
        say(
            f"{key}: {error['n']:,} animals, calibration error {error['before']:.3f} before, {error['after']:.3f} after"
        )
    for kind, n in counts.items():
        if n < FEWEST_ANIMALS:
            warn(f"{kind}: fitted on {n} animals; from fewer than {FEWEST_ANIMALS}, probabilities are rough guesses")
    say(f"{config.model / FILE}: written")
