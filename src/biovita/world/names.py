"""Latin and English names that carry the lineage and the looks and voice of a species, as real names do.

- A family is named after its type genus (Velora, Veloridae), the other genera of the family share the stem (Neovelora),
  an order is named after its first family; each class has endings of its own.
- An epithet says what sets a species apart in its genus: rubra is red, rauca is hoarse, rubristriata is red-striped.
- An English name says colour, pattern and habitat before the noun of its family: Red-spotted Marsh Trillfrog.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Final

import numpy as np

from biovita.world.colour import colour_name
from biovita.world.tree import CHARACTERS, NAMES, PLANS, Plan, Species, Tree, normal_deviate

Word = tuple[str, str, str]
"""Latin (feminine), its combining form, English."""

KINGDOM: Final = "Animalia"
PHYLUM: Final[dict[Plan, str]] = {
    "bird": "Spinata",
    "mammal": "Spinata",
    "frog": "Spinata",
    "insect": "Segmentia",
    "reptile": "Spinata",
}
CLASS: Final[dict[Plan, str]] = {
    "bird": "Plumata",
    "mammal": "Villosa",
    "frog": "Saltantia",
    "insect": "Hexalata",
    "reptile": "Lacertalia",
}
ORDER_ENDING: Final[dict[Plan, str]] = {
    "bird": "iformes",
    "mammal": "otheria",
    "frog": "anura",
    "insect": "optera",
    "reptile": "osauria",
}
GENUS_ENDINGS: Final[dict[Plan, tuple[str, ...]]] = {
    "bird": ("ornis", "ella", "avis", "ina", "optera"),
    "mammal": ("ictis", "ella", "olutra", "ina", "ocervia"),
    "frog": ("ohyla", "ella", "orana", "ina", "ophryne"),
    "insect": ("ocicada", "ella", "otettix", "ina", "aptera"),
    "reptile": ("osaura", "ella", "olacerta", "ina", "ogekka"),
}
GENUS_PREFIXES: Final[tuple[str, ...]] = ("Neo", "Para", "Eu", "Micro", "Pseudo", "Archi", "Allo", "Melano", "Hemi")
NOUNS: Final[dict[Plan, tuple[str, ...]]] = {
    "bird": ("finch", "thrush", "dove", "rail", "shrike", "tern", "lark", "wren"),
    "mammal": ("hart", "marten", "vole", "hound", "goat", "lemur", "fox", "hare"),
    "frog": ("frog", "toad", "peeper", "hopper", "croaker"),
    "insect": ("cricket", "cicada", "beetle", "fly", "katydid", "moth"),
    "reptile": ("gecko", "lizard", "skink", "dragon", "monitor"),
}

COLOURS: Final[dict[str, Word]] = {
    "red": ("rubra", "rubri", "Red"),
    "orange": ("aurantia", "aurantio", "Orange"),
    "brown": ("brunnea", "brunneo", "Brown"),
    "yellow": ("flava", "flavi", "Yellow"),
    "green": ("viridis", "viridi", "Green"),
    "teal": ("glauca", "glauco", "Teal"),
    "blue": ("caerulea", "caeruleo", "Blue"),
    "violet": ("violacea", "violaceo", "Violet"),
    "pink": ("rosea", "roseo", "Pink"),
    "grey": ("grisea", "griseo", "Grey"),
    "white": ("alba", "albi", "White"),
    "black": ("nigra", "nigri", "Black"),
}
PATTERN_WORDS: Final[dict[str, Word]] = {
    "plain": ("simplex", "simplici", "Plain"),
    "spots": ("maculata", "maculi", "Spotted"),
    "stripes": ("striata", "strii", "Striped"),
    "bands": ("fasciata", "fascii", "Banded"),
    "patches": ("picta", "picti", "Pied"),
}
HABITAT_WORDS: Final[dict[str, Word]] = {
    "forest": ("sylvatica", "sylvi", "Forest"),
    "grassland": ("pratensis", "prati", "Meadow"),
    "wetland": ("palustris", "paludi", "Marsh"),
    "coast": ("litoralis", "litori", "Shore"),
    "desert": ("arenaria", "areni", "Desert"),
    "town": ("urbana", "urbi", "Town"),
}
# What a low and a high value of a character is called; None where it would not strike anyone.
CHARACTER_WORDS: Final[dict[str, tuple[Word | None, Word | None]]] = {
    "size": (("nana", "nani", "Dwarf"), ("gigantea", "giganti", "Giant")),
    "pitch": (("gravis", "gravi", "Booming"), ("acuta", "acuti", "Piping")),
    "tempo": (("lenta", "lenti", "Slow"), ("celeris", "celeri", "Hasty")),
    "trill": (None, ("tremula", "tremuli", "Trilling")),
    "rasp": (("clara", "clari", "Clear-voiced"), ("rauca", "rauci", "Rasping")),
    "notes": (("unisona", "unisoni", "One-note"), ("garrula", "garruli", "Chattering")),
    "sweep": (("cadens", "cadenti", "Sighing"), ("surgens", "surgenti", "Whooping")),
    "vibrato": (None, ("undulata", "unduli", "Warbling")),
    "tail": (("brevicauda", "brevicaudi", "Short-tailed"), ("longicauda", "longicaudi", "Long-tailed")),
    "leg": (("brevipes", "brevipedi", "Short-legged"), ("longipes", "longipedi", "Long-legged")),
    "ornament": (None, ("cristata", "cristi", "Crested")),
    "muzzle": (None, ("rostrata", "rostri", "Long-nosed")),
    "night": (None, ("nocturna", "nocti", "Night")),
    "belly": (None, ("albiventris", "albiventri", "White-bellied")),
}
# Characters that a body plan does not show: frogs have no tails, and an insect's are feelers.
HIDDEN: Final[dict[Plan, tuple[str, ...]]] = {"frog": ("tail",), "insect": ("tail",)}
# The first half of a family's noun, from what its members have in common.
FAMILY_WORDS: Final[dict[str, tuple[str, str]]] = {
    "pitch": ("drum", "pipe"),
    "trill": ("call", "trill"),
    "rasp": ("bell", "rasp"),
    "notes": ("lone", "chatter"),
    "tempo": ("slow", "quick"),
    "size": ("elf", "great"),
    "leg": ("creep", "stilt"),
    "tail": ("bob", "train"),
    "ornament": ("bare", "crown"),
    "night": ("day", "dusk"),
    "vibrato": ("mono", "warble"),
    "muzzle": ("snub", "spear"),
}


def make_names(tree: Tree) -> dict[str, list[str]]:
    """Name every species: the seven ranks and `common_name`, each a list over species."""
    rng = np.random.default_rng([tree.seed, NAMES])
    stems = _stems(tree.n_nodes("family"), rng)
    plan_of_family: list[Plan] = [PLANS[tree.parents["order"][order]] for order in tree.parents["family"]]
    first_family = np.searchsorted(tree.parents["family"], np.arange(tree.n_nodes("order")))
    orders = [stems[family] + ORDER_ENDING[plan_of_family[family]] for family in first_family]
    genera = _genera(tree, stems, plan_of_family, rng)

    species = [tree.species(i) for i in range(tree.n_species)]
    genus = tree.ancestors("genus")
    striking = [_striking_words(own, z) for own, z in zip(species, _contrast(tree), strict=True)]
    epithets = _epithets(striking, genus)
    family = tree.ancestors("family")
    nouns = _family_nouns(tree, plan_of_family, stems)
    return {
        "kingdom": [KINGDOM] * tree.n_species,
        "phylum": [PHYLUM[own.plan] for own in species],
        "class": [CLASS[own.plan] for own in species],
        "order": [orders[node] for node in tree.ancestors("order")],
        "family": [stems[node] + "idae" for node in family],
        "genus": [genera[node] for node in genus],
        "species": [f"{genera[node]} {epithet}" for node, epithet in zip(genus, epithets, strict=True)],
        "common_name": _common_names(species, striking, [nouns[node] for node in family]),
    }


def n_homonyms(names: list[str]) -> int:
    """Count the species that share their name with another."""
    return sum(n for n in Counter(names).values() if n > 1)


def _stems(n: int, rng: np.random.Generator) -> list[str]:
    """Invent stems that sound Latin: two syllables and a closing consonant; three once they run out."""
    onsets = ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "br", "cr", "dr", "gl", "pl", "tr", "st")
    vowels = ("a", "e", "i", "o", "u")
    closings = ("l", "m", "n", "r", "s", "t", "c", "d", "x", "nd", "rn", "st")
    stems: dict[str, None] = {}
    for attempt in count():
        if len(stems) >= n:
            break
        syllables = [str(rng.choice(onsets)) + str(rng.choice(vowels)) for _ in range(2 + attempt // (2 * n + 100))]
        stems["".join(syllables).capitalize() + str(rng.choice(closings))] = None
    return list(stems)


def _genera(tree: Tree, stems: list[str], plan_of_family: list[Plan], rng: np.random.Generator) -> list[str]:
    """Name the genera: the type genus is stem + a, the others add endings and prefixes to the same stem."""
    forms = [_genus_forms(stem, plan, rng) for stem, plan in zip(stems, plan_of_family, strict=True)]
    return [next(forms[family]) for family in tree.parents["genus"]]


def _genus_forms(stem: str, plan: Plan, rng: np.random.Generator) -> Iterator[str]:
    endings = ["a", *(rng.permutation(GENUS_ENDINGS[plan]).tolist())]
    prefixes: list[str] = rng.permutation(GENUS_PREFIXES).tolist()
    twice = [a + b.lower() for a in prefixes for b in prefixes if a != b]
    for prefix in ("", *prefixes, *twice):
        yield from ((prefix + stem.lower() + ending).capitalize() for ending in endings)


def _contrast(tree: Tree) -> np.ndarray:
    """Say how striking each character is: extreme among all species, and apart from the mean of its genus."""
    z = normal_deviate(tree.value)
    genus = tree.ancestors("genus")
    mean = np.zeros((tree.n_nodes("genus"), z.shape[1]))
    np.add.at(mean, genus, z)
    mean /= np.bincount(genus)[:, None]
    return 0.7 * z + 0.8 * (z - mean[genus])


def _striking_words(species: Species, contrast: np.ndarray) -> list[tuple[float, Word]]:
    """List the words for a species, the most striking first; colour, pattern and habitat always have one."""
    words = [
        (1.6, COLOURS[colour_name(species)]),
        (1.4 if species.pattern != "plain" else 0.6, PATTERN_WORDS[species.pattern]),
        (1.0, HABITAT_WORDS[species.habitat]),
    ]
    for name, (low, high) in CHARACTER_WORDS.items():
        if name in HIDDEN.get(species.plan, ()):
            continue
        value, strength = getattr(species, name), float(contrast[CHARACTERS.index(name)])
        if low and value < 0.4 and strength < 0:
            words.append((-strength, low))
        elif high and value > 0.6 and strength > 0:
            words.append((strength, high))
    return sorted(words, key=lambda pair: -pair[0])


def _epithets(striking: list[list[tuple[float, Word]]], genus: np.ndarray) -> list[str]:
    """Give each species the first form that no sister bears.

    One word does where one character stands out, otherwise a compound of two or three.
    """
    taken: set[tuple[int, str]] = set()
    epithets = []
    for words, node in zip(striking, genus.tolist(), strict=True):
        stands_out = words[0][0] > words[1][0] + 0.3
        forms = _epithet_forms([word for _, word in words], stands_out)
        epithet = next(form for form in forms if (node, form) not in taken)
        taken.add((node, epithet))
        epithets.append(epithet)
    return epithets


def _epithet_forms(words: list[Word], stands_out: bool) -> Iterator[str]:
    if stands_out:
        yield words[0][0]
    pairs = [(a, b) for b in range(1, len(words)) for a in range(b)]
    yield from (words[a][1] + words[b][0] for a, b in pairs)
    yield from (words[c][1] + words[a][1] + words[b][0] for a, b in pairs for c in range(len(words)) if c not in (a, b))
    yield from (f"{words[0][1]}{words[1][0]}{'e' * n}" for n in count(1))  # never seen below a million species


def _family_nouns(tree: Tree, plan_of_family: list[Plan], stems: list[str]) -> list[str]:
    """Give each family a noun: what its members share + a noun of its order; the stem where all are taken."""
    z = normal_deviate(tree.value)
    family = tree.ancestors("family")
    mean = np.zeros((tree.n_nodes("family"), z.shape[1]))
    np.add.at(mean, family, z)
    mean /= np.bincount(family)[:, None]
    taken: set[str] = set()
    nouns = []
    for node, order in enumerate(tree.parents["family"]):
        plan = plan_of_family[node]
        order_in_class = order - int(np.searchsorted(tree.parents["order"], tree.parents["order"][order]))
        base = NOUNS[plan][order_in_class % len(NOUNS[plan])]
        shown = [name for name in FAMILY_WORDS if name not in HIDDEN.get(plan, ())]
        striking = sorted(shown, key=lambda name: -abs(mean[node, CHARACTERS.index(name)]))
        forms = [FAMILY_WORDS[name][int(mean[node, CHARACTERS.index(name)] > 0)] + base for name in striking]
        noun = next((form for form in forms if form not in taken), stems[node].lower() + base)
        taken.add(noun)
        nouns.append(noun.replace("lll", "ll").capitalize())
    return nouns


def _common_names(species: list[Species], striking: list[list[tuple[float, Word]]], nouns: list[str]) -> list[str]:
    """Write English names; further adjectives go in front until a name is unique, or words run out."""
    taken: set[str] = set()
    names = []
    for own, words, noun in zip(species, striking, nouns, strict=True):
        colour, pattern = COLOURS[colour_name(own)][2], PATTERN_WORDS[own.pattern][2]
        coat = f"{colour}-{pattern.lower()}" if own.pattern != "plain" else colour
        core = f"{coat} {HABITAT_WORDS[own.habitat][2]} {noun}"
        spoken = {COLOURS[colour_name(own)], PATTERN_WORDS[own.pattern], HABITAT_WORDS[own.habitat]}
        extra = [word[2] for _, word in words if word not in spoken]
        forms = [core, *(f"{a} {core}" for a in extra), *(f"{a} {b} {core}" for a in extra for b in extra if a != b)]
        name = next((form for form in forms if form not in taken), forms[0])
        taken.add(name)
        names.append(name)
    return names
