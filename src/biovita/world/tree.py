"""A made-up tree of life along which hidden characters drift. Nothing in it is biology.

1. Branch: species are dealt to genera, genera to families, and so on, unevenly, as in life.
2. Drift: at every rank each node takes a random step in every character. Deep characters (size, build) move mostly at
   order and family; shallow ones (hue, tempo) mostly at genus and species. So relatives look and sound alike.
3. Mix: what is heard follows in part from what is seen (large animals have low voices), so a model can learn to pair
   the sound and the picture of a species it never met.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from biovita.errors import WorldError

Plan = Literal["bird", "mammal", "frog", "insect", "reptile"]
Habitat = Literal["forest", "grassland", "wetland", "coast", "desert", "town"]
Pattern = Literal["plain", "spots", "stripes", "bands", "patches"]
PLANS: Final[tuple[Plan, ...]] = ("bird", "mammal", "frog", "insect", "reptile")
HABITATS: Final[tuple[Habitat, ...]] = ("forest", "grassland", "wetland", "coast", "desert", "town")
PATTERNS: Final[tuple[Pattern, ...]] = ("plain", "spots", "stripes", "bands", "patches")

# Where a body plan likes to live, added to the drifting taste for each habitat (in HABITATS order).
HABITAT_BIAS: Final[dict[Plan, tuple[float, ...]]] = {
    "bird": (0.4, 0.1, 0.0, 0.3, -0.4, 0.1),
    "mammal": (0.3, 0.5, -0.5, -0.2, 0.1, 0.1),
    "frog": (0.4, -0.2, 1.2, -0.7, -0.9, -0.3),
    "insect": (0.2, 0.5, 0.2, -0.5, 0.0, 0.2),
    "reptile": (0.0, 0.1, -0.2, 0.1, 0.9, 0.0),
}

# How the variance of a character is spread over class, order, family, genus, species.
PACES: Final[dict[str, tuple[float, ...]]] = {
    "deep": (0.10, 0.42, 0.26, 0.14, 0.08),
    "middle": (0.05, 0.22, 0.31, 0.24, 0.18),
    "shallow": (0.03, 0.12, 0.22, 0.28, 0.35),
}

# Spread of the logarithm of the number of children, by rank of the children: a few large genera, many of one species.
UNEVENNESS: Final[dict[str, float]] = {"order": 0.3, "family": 0.4, "genus": 0.5, "species": 0.8}

# The logistic function of 1.702 z is within 0.01 of the normal distribution function.
LOGISTIC: Final = 1.702

# Purposes of the random streams, numpy.random.default_rng([seed, purpose, ...]).
BRANCHES, STEPS, NAMES, ECOLOGY, RECORDS, INDIVIDUAL, VOICE, LOOK = range(8)


def _drifts(pace: str, *, after: str = "", share: float = 0.0) -> Any:
    """Declare a character: how it drifts, and which other one it follows with what correlation."""
    return dataclasses.field(metadata={"pace": pace, "after": after, "share": share})


@dataclass(frozen=True, kw_only=True)
class Species:
    """The hidden characters of one species; every float lies in (0, 1), its median over all species is near 0.5."""

    plan: Plan
    habitat: Habitat
    second_habitat: Habitat
    pattern: Pattern
    hue: float
    """Place on the colour circle; 0 and 1 are red."""

    # Seen.
    size: float = _drifts("deep")
    build: float = _drifts("deep")
    head: float = _drifts("deep")
    muzzle: float = _drifts("deep")
    leg: float = _drifts("deep")
    tail: float = _drifts("middle")
    ornament: float = _drifts("middle")
    wing: float = _drifts("middle")
    night: float = _drifts("middle")
    saturation: float = _drifts("middle")
    lightness: float = _drifts("shallow")
    accent: float = _drifts("shallow")
    grain: float = _drifts("shallow")
    belly: float = _drifts("shallow")

    # Heard.
    pitch: float = _drifts("middle", after="size", share=-0.8)
    rasp: float = _drifts("deep", after="build", share=0.6)
    timbre: float = _drifts("middle", after="muzzle", share=0.6)
    notes: float = _drifts("middle", after="ornament", share=0.75)
    tempo: float = _drifts("shallow", after="leg", share=-0.55)
    trill: float = _drifts("middle", after="grain", share=0.6)
    sweep: float = _drifts("shallow", after="lightness", share=0.65)
    arch: float = _drifts("middle", after="accent", share=0.5)
    melody: float = _drifts("shallow", after="tail", share=0.6)
    vibrato: float = _drifts("middle", after="saturation", share=0.6)
    rhythm: float = _drifts("shallow")
    pause: float = _drifts("middle")

    # Neither seen nor heard, but hinted at: from the tropics to the poles, from plants to meat, from lone to in flocks.
    climate: float = _drifts("middle", after="saturation", share=-0.5)
    meat: float = _drifts("deep", after="muzzle", share=0.6)
    flock: float = _drifts("middle", after="notes", share=0.5)


CHARACTERS: Final[tuple[str, ...]] = tuple(f.name for f in dataclasses.fields(Species) if f.metadata)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A branching and the characters at its leaves; node numbers count from 0 at each rank, leaves of a node adjoin.

    Attributes:
        parents: for order, family, genus and species, the parent of each node, one rank up.
        value: (n_species, len(CHARACTERS)) characters in (0, 1).
        taste: (n_species, len(HABITATS)) liking of each habitat; the two highest are the species' own.
        pattern: (n_species,) index into PATTERNS.
        hue: (n_species,) in [0, 1).
    """

    seed: int
    parents: dict[str, np.ndarray]
    value: np.ndarray
    taste: np.ndarray
    pattern: np.ndarray
    hue: np.ndarray

    @property
    def n_species(self) -> int:
        """Count the leaves."""
        return len(self.hue)

    def n_nodes(self, rank: str) -> int:
        """Count the nodes of a rank, from class to species."""
        return int(self.parents["order"].max()) + 1 if rank == "class" else len(self.parents[rank])

    def ancestors(self, rank: str) -> np.ndarray:
        """Return the node of each species at a rank, (n_species,)."""
        node = np.arange(self.n_species)
        for lower in ("species", "genus", "family", "order"):
            if rank == lower:
                return node
            node = self.parents[lower][node]
        return node

    def character(self, name: str) -> np.ndarray:
        """Return one character of all species, (n_species,)."""
        return self.value[:, CHARACTERS.index(name)]

    def normal(self, name: str) -> np.ndarray:
        """Return one character of all species as normal deviates, (n_species,)."""
        return normal_deviate(self.character(name))

    def plans(self) -> np.ndarray:
        """Return the index into PLANS of each species, (n_species,)."""
        return self.ancestors("class")

    def species(self, index: int) -> Species:
        """Return the characters of one species."""
        first, second = np.argsort(-self.taste[index])[:2]
        return Species(
            plan=PLANS[self.plans()[index]],
            habitat=HABITATS[first],
            second_habitat=HABITATS[second],
            pattern=PATTERNS[self.pattern[index]],
            hue=float(self.hue[index]),
            **dict(zip(CHARACTERS, self.value[index].tolist(), strict=True)),
        )


def normal_deviate(value: np.ndarray) -> np.ndarray:
    """Turn characters in (0, 1) back into normal deviates."""
    return np.log(value / (1 - value)) / LOGISTIC


def make_tree(n_species: int, seed: int) -> Tree:
    """Grow a tree of life: the same numbers give the same tree.

    Raises:
        WorldError: fewer than 5 species, which is fewer than there are body plans.
    """
    if n_species < len(PLANS):
        raise WorldError(f"--species {n_species}: a world needs at least {len(PLANS)}, one for each class")
    parents = _branch(n_species, np.random.default_rng([seed, BRANCHES]))
    empty = np.zeros(n_species)
    tree = Tree(seed=seed, parents=parents, value=empty, taste=empty, pattern=empty, hue=empty)
    rng = np.random.default_rng([seed, STEPS])
    fields = {f.name: f.metadata for f in dataclasses.fields(Species) if f.metadata}
    z = _drift(tree, [fields[name]["pace"] for name in CHARACTERS], rng)
    for i, name in enumerate(CHARACTERS):
        if share := fields[name]["share"]:
            z[:, i] = share * z[:, CHARACTERS.index(fields[name]["after"])] + math.sqrt(1 - share**2) * z[:, i]
    taste = _drift(tree, ["middle"] * len(HABITATS), rng) + np.array([HABITAT_BIAS[p] for p in PLANS])[tree.plans()]
    pattern = _drift(tree, ["shallow"] * len(PATTERNS), rng).argmax(axis=1)
    x, y = _drift(tree, ["shallow"] * 2, rng).T
    return dataclasses.replace(
        tree,
        value=1 / (1 + np.exp(-LOGISTIC * z)),
        taste=taste,
        pattern=pattern,
        hue=np.arctan2(y, x) / (2 * math.pi) % 1.0,
    )


def _branch(n_species: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Deal species to genera, and so on up; the number of nodes at a rank grows as that of the animals with voices."""
    n_classes = len(PLANS)
    n_genera = max(n_classes, round(n_species / 3.1))
    n_families = min(n_genera, max(n_classes, round(1.35 * n_species**0.58)))
    n_orders = min(n_families, max(n_classes, round(1.3 * n_species**0.4)))
    counts = {"order": (n_orders, n_classes), "family": (n_families, n_orders), "genus": (n_genera, n_families)}
    counts["species"] = (n_species, n_genera)
    return {
        rank: np.repeat(np.arange(n), _deal(total, n, UNEVENNESS[rank], rng)) for rank, (total, n) in counts.items()
    }


def _deal(total: int, n_parts: int, unevenness: float, rng: np.random.Generator) -> np.ndarray:
    """Split a total into parts of at least one: few large, many small."""
    weight = rng.lognormal(sigma=unevenness, size=n_parts)
    return 1 + rng.multinomial(total - n_parts, weight / weight.sum())


def _drift(tree: Tree, paces: list[str], rng: np.random.Generator) -> np.ndarray:
    """Let characters walk down the tree; return (n_species, len(paces)), each of variance near one."""
    share = np.array([PACES[pace] for pace in paces])
    z = np.zeros((tree.n_species, len(paces)))
    for i, rank in enumerate(("class", "order", "family", "genus", "species")):
        steps = rng.standard_normal((tree.n_nodes(rank), len(paces)))
        z += np.sqrt(share[:, i]) * steps[tree.ancestors(rank)]
    return z
