"""The 34 traits of made-up species, as functions of their hidden characters with some noise.

A label holds where its score is above zero: a base value, what the body plan and the habitat add, weighted characters
(as normal deviates) and noise. The threshold moves, as little as needed, so that 5 to 70 % of the species bear a label.
"""

from typing import Final, NamedTuple

import numpy as np

from biovita.taxonomy.traits import TRAITS
from biovita.world.tree import ECOLOGY, HABITATS, PLANS, Tree

NOISE: Final = 0.35
SHARE_UNKNOWN: Final = 0.05
RATES: Final = (0.05, 0.70)


class Rule(NamedTuple):
    """How a label's score comes about."""

    base: float
    characters: dict[str, float] = {}
    plans: dict[str, float] = {}
    habitats: dict[str, float] = {}


RULES: Final[dict[str, Rule]] = {
    "eats_invertebrates": Rule(0.0, {"meat": 0.8, "size": -0.9}, {"frog": 0.6, "reptile": 0.3, "bird": 0.3}),
    "eats_vertebrates": Rule(-1.0, {"meat": 1.0, "size": 0.7}, {"insect": -1.5, "mammal": 0.3}),
    "eats_fish": Rule(-1.8, {"meat": 0.8, "muzzle": 0.5}, {"insect": -1.5}, {"coast": 1.6, "wetland": 1.3}),
    "eats_carrion": Rule(-1.4, {"meat": 0.9, "build": 0.7}, {"insect": 0.4}, {"desert": 0.5, "town": 0.5}),
    "eats_fruit": Rule(-0.8, {"meat": -0.9, "saturation": 0.6}, {"frog": -1.2}, {"forest": 1.0}),
    "eats_nectar": Rule(
        -1.4, {"muzzle": 0.7, "size": -0.8, "saturation": 0.5}, {"insect": 1.2, "bird": 0.4, "frog": -1.0}
    ),
    "eats_seeds": Rule(
        -0.9, {"meat": -0.8, "muzzle": -0.7}, {"bird": 0.8, "frog": -1.5}, {"grassland": 0.8, "town": 0.3}
    ),
    "eats_plants": Rule(-0.6, {"meat": -1.2, "build": 0.4}, {"mammal": 0.6, "insect": 0.4, "frog": -1.2}),
    "flies": Rule(-2.0, {"wing": 0.6, "build": -0.4}, {"bird": 3.0, "insect": 2.6}),
    "climbs": Rule(-0.8, {"leg": -0.6, "tail": 0.7}, {"reptile": 0.5}, {"forest": 1.1, "town": 0.4}),
    "walks": Rule(-0.5, {"leg": 0.9}, {"mammal": 1.2, "reptile": 0.6, "bird": -0.5, "insect": -0.6}),
    "swims": Rule(-1.4, {"leg": -0.6, "build": 0.4}, {"frog": 1.4}, {"wetland": 1.3, "coast": 1.2, "desert": -1.5}),
    "aerial": Rule(-2.2, {"wing": 0.8, "size": -0.4}, {"bird": 2.0, "insect": 1.6}),
    "terrestrial": Rule(
        -0.3, {"leg": 0.6, "wing": -0.4}, {"mammal": 0.9}, {"desert": 0.7, "grassland": 0.6, "wetland": -0.6}
    ),
    "perching": Rule(-1.2, {"size": -0.7, "leg": -0.4}, {"bird": 1.2, "insect": 0.3}, {"forest": 0.9, "town": 0.4}),
    "aquatic": Rule(-2.0, {"leg": -0.5}, {"frog": 1.2}, {"wetland": 1.6, "coast": 1.3}),
    "human_modified": Rule(-1.6, {"flock": 0.5}, {}, {"town": 3.0}),
    "tropical": Rule(0.0, {"climate": -1.3}),
    "polar": Rule(-1.1, {"climate": 1.3}),
    "lives_in_groups": Rule(-0.2, {"flock": 1.2}),
    "migratory": Rule(-0.8, {"climate": 0.8, "wing": 0.8}, {"bird": 0.8, "frog": -0.6}),
}
# The habitat labels and the world's habitats; taste is how well a species likes each.
HABITAT_LABELS: Final[dict[str, str]] = {
    "forest": "forest",
    "shrub_or_grassland": "grassland",
    "wetland": "wetland",
    "coast_or_sea": "coast",
    "desert_or_rock": "desert",
}


def make_traits(tree: Tree) -> dict[str, np.ma.MaskedArray]:
    """Give every species its 34 labels: booleans over species, masked where nobody knows."""
    rng = np.random.default_rng([tree.seed, ECOLOGY])
    habitat = tree.taste.argmax(axis=1)

    def noise() -> np.ndarray:
        return rng.normal(0, NOISE, tree.n_species)

    labels: dict[str, np.ndarray] = {}
    for label, rule in RULES.items():
        score = rule.base + noise()
        score += np.array([rule.plans.get(plan, 0.0) for plan in PLANS])[tree.plans()]
        score += np.array([rule.habitats.get(name, 0.0) for name in HABITATS])[habitat]
        labels[label] = _above(score + sum(w * tree.normal(name) for name, w in rule.characters.items()))
    near_best = tree.taste - tree.taste.max(axis=1, keepdims=True) + 0.35
    for label, name in HABITAT_LABELS.items():
        labels[label] = _above(near_best[:, HABITATS.index(name)] + noise() / 3)

    labels |= _thirds(("herbivore", "omnivore", "carnivore"), (0.32, 0.60), tree.normal("meat") + noise())
    labels |= _thirds(("diurnal", "crepuscular", "nocturnal"), (0.55, 0.70), tree.normal("night") + noise())
    labels["temperate"] = _above(1.0 - np.abs(1.3 * tree.normal("climate") - 0.6) + noise())
    labels["resident"] = ~labels["migratory"] ^ (rng.random(tree.n_species) < 0.08)  # some populations stay, some leave
    labels["resident"] = _above(np.where(labels["resident"], 1.0, -1.0) + noise() / 3)
    unknown = rng.random((len(TRAITS), tree.n_species)) < SHARE_UNKNOWN
    return {label: np.ma.masked_array(labels[label], unknown[i]) for i, label in enumerate(TRAITS)}


def _above(score: np.ndarray) -> np.ndarray:
    """Cut at zero, or as near to it as keeps the share of true inside RATES."""
    low, high = np.quantile(score, [1 - RATES[1], 1 - RATES[0]])
    return score > min(max(0.0, low), high)


def _thirds(names: tuple[str, str, str], cuts: tuple[float, float], score: np.ndarray) -> dict[str, np.ndarray]:
    """Split the species by score into three labels that exclude each other."""
    low, high = np.quantile(score, cuts)
    return {names[0]: score <= low, names[1]: (score > low) & (score <= high), names[2]: score > high}
