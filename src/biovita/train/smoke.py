"""A stage in seconds: the same switches on a few files, to see whether a run would get through."""

from dataclasses import replace

import polars as pl

from biovita.train.recipe import Recipe

N_STEPS = 4
N_SPECIES = 8  # of a split
N_FILES = 4  # of a species, modality and split
BATCH = 8


def smoke(recipe: Recipe) -> Recipe:
    """Shorten a stage to one epoch of at most 4 steps of at most 8 items.

    What begins, ends or repeats after so many steps does so within them, so that every switch is met.
    """
    batch = min(recipe.batch_size, N_SPECIES // 2 if recipe.distinct_species else BATCH)
    accumulate = min(recipe.accumulate, 2)
    draws = N_STEPS * batch * accumulate // N_SPECIES
    micro = -(-recipe.micro_batch * batch // recipe.batch_size)
    return replace(
        recipe,
        epochs=1,
        batch_size=batch,
        accumulate=accumulate,
        micro_batch=micro,
        ramp_epochs=min(recipe.ramp_epochs, 0.5),
        ramp_steps=tuple(min(steps, 2) for steps in recipe.ramp_steps),
        gate=replace(recipe.gate, patience=min(recipe.gate.patience, 2)),
        from_steps={pattern: min(step, 2) for pattern, step in recipe.from_steps.items()},
        warmup_steps=min(recipe.warmup_steps, 2),
        ema=min(recipe.ema, 0.5),
        min_per_species=min(recipe.min_per_species, draws),
        max_per_species=min(recipe.max_per_species, draws),
        hard_group=min(recipe.hard_group, batch),
        validate_every=min(recipe.validate_every, 1.0),
    )


def few(media: pl.DataFrame) -> pl.DataFrame:
    """Keep a few files of a few species of every split: at most 8 species, 4 recordings and 4 pictures of each.

    Species with both sounds and pictures come first, then those of the train split, then by name, which keeps
    relatives together.

    Args:
        media: rows of media.parquet; their order does not matter.
    """
    trained = media.filter(pl.col("split") == "train")["species"].unique()
    species = media.group_by("split", "species").agg(pl.col("modality").n_unique().alias("n_modalities"))
    species = species.with_columns(pl.col("species").is_in(trained.implode()).alias("is_trained"))
    species = species.sort("n_modalities", "is_trained", "species", descending=[True, True, False])
    chosen = species.filter(pl.int_range(pl.len()).over("split") < N_SPECIES)
    kept = media.join(chosen, on=("split", "species"), how="semi").sort("media_id")
    return kept.filter(pl.int_range(pl.len()).over("split", "species", "modality") < N_FILES)
