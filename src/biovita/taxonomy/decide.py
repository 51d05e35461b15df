"""The rules by which a name becomes one species, or is refused with the reason (docs/decisions/0009-names.md)."""

import difflib
import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from biovita.taxonomy.parse import ParsedName, shown
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.spelling import one_less, spoken, stem
from biovita.taxonomy.taxon import Taxon, normal_name

How = Literal["accepted", "synonym", "subspecies", "genus known", "moved genus", "refused"]
Lineage = Mapping[str, str]  # a species: `LEVELS`, and `list`, the name list that has it

SAME_NAME = {  # of kingdoms and classes that lists name by more than one system
    "Metazoa": "Animalia",
    **dict.fromkeys(("Squamata", "Testudines", "Crocodylia", "Sphenodontia"), "Reptilia"),
    **dict.fromkeys(("Teleostei", "Holostei", "Chondrostei", "Cladistii"), "Actinopterygii"),
    **dict.fromkeys(("Elasmobranchii", "Holocephali"), "Chondrichthyes"),
}
COMPARED: Final = RANKS[:5]  # ranks at which lists and sources speak of the same things, from kingdom to family
ALMOST_ALIKE = 0.9  # difflib ratio of two names of a genus from which a new one is taken for a slip
BINOMIAL: Final = re.compile(r"[A-Z][a-z-]+ [a-z-]+")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What came of one name.

    Attributes:
        given: as the source writes it.
        parsed: the binomial in it; empty where there is none.
        below: the epithet below species, which is folded away.
        how: by which rule the species was found, or `refused`.
        lineage: the species; None where the name is refused.
        source: the list that decided.
        differs: ranks at which the source and the list disagree, although they mean the same animal.
        reason: why it is refused; empty where it is not.
    """

    given: str
    parsed: str = ""
    below: str = ""
    how: How = "refused"
    lineage: Lineage | None = None
    source: str = ""
    differs: str = ""
    reason: str = ""

    @property
    def species(self) -> str | None:
        """The accepted species; None where the name is refused."""
        return self.lineage["species"] if self.lineage else None

    @property
    def taxon(self) -> Taxon | None:
        """The accepted species with its lineage; None where the name is refused."""
        return Taxon.from_row(self.lineage) if self.lineage else None


@dataclass(frozen=True, kw_only=True)
class Genus:
    """A genus of the genus JSON: its lineage (`LEVELS` without species), the names in it, and the list that has it."""

    lineage: Mapping[str, str]
    listed: set[str]
    source: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the lists know that bears on the names at hand.

    Attributes:
        meanings: a listed name, and the species that it means, one but for homonyms.
        doubted: a name, and why it means no species for certain.
        older: a name in another genus, and what the genus JSON has it under.
        complete: a class, and the list that holds all of it.
        english: a species, and its English name.
        genera: the genera of the genus JSON.
        genus_names: every genus that a list has; this and what follows only where a name is not listed.
        in_genus: a genus of such a name, and the listed names in it.
        genera_alike: such a genus, and the known genera that are spelled alike, sorted.
        in_alike: the listed names with the epithet of such a name, in a genus that is spelled alike.
        of_stem: the stem of an epithet, and the species that have it.
    """

    meanings: Mapping[str, list[Lineage]]
    doubted: Mapping[str, str]
    older: Mapping[str, set[str]]
    complete: Mapping[str, str]
    english: Mapping[str, str]
    genera: Mapping[str, Genus]
    genus_names: set[str] = field(default_factory=set)
    in_genus: Mapping[str, set[str]] = field(default_factory=dict)
    genera_alike: Mapping[str, list[str]] = field(default_factory=dict)
    in_alike: set[str] = field(default_factory=set)
    of_stem: Mapping[str, list[Lineage]] = field(default_factory=dict)


def names_to_look_up(parsed: ParsedName, older: Mapping[str, set[str]]) -> set[str]:
    """Name what `decide` may look up in the lists for a name."""
    if parsed.reason:
        return set(BINOMIAL.findall(normal_name(parsed.given)))
    if not parsed.below:
        return {parsed.species, *older.get(parsed.species, ())}
    genus = parsed.species.split(" ")[0]
    whole, sister = f"{parsed.species} {parsed.below}", f"{genus} {parsed.below}"
    return {parsed.species, whole, sister, *older.get(parsed.species, ())}


def decide(parsed: ParsedName, given: Mapping[str, str], known: Known) -> Decision:
    """Decide what a name means.

    Args:
        parsed: the name.
        given: what the source says besides, at levels, in normal form.
        known: what the lists know of it.
    """
    listed = normal_name(parsed.given) if parsed.reason else ""
    if listed in known.meanings and BINOMIAL.fullmatch(listed):  # Oedipina complex, a salamander, is no aggregate
        parsed = ParsedName(given=parsed.given, species=listed)
    elif parsed.reason:
        return Decision(given=parsed.given, reason=parsed.reason)
    whole = f"{parsed.species} {parsed.below}"
    name = whole if parsed.below and (whole in known.meanings or whole in known.doubted) else parsed.species
    genus, epithet = parsed.species.split(" ")
    if name not in known.meanings and name in known.doubted:
        return _refuse(parsed, known.doubted[name])
    if name == parsed.species and parsed.below not in ("", epithet):
        sister = f"{genus} {parsed.below}"
        if [species["species"] for species in known.meanings.get(sister, ())] == [sister]:
            return _refuse(parsed, f"its subspecies is a species of its own here; is {sister} meant?")
    if name in known.meanings:
        return _choose(parsed, name, given, known)
    if parsed.recased:
        return _refuse(parsed, f"no name list has {name}; the second word may be its author")
    if (moved := _moved(name, given, known)) is not None:
        return _found(parsed, "moved genus", moved, given)
    if name in known.older:
        return _by_older_name(parsed, given, known)
    if genus not in known.genus_names:
        return _refuse(parsed, f"no name list knows the genus {genus}{_is_meant(_meant(name, known))}")
    entry = known.genera.get(genus)
    if entry is None or entry.lineage["class"] in known.complete:
        return _refuse(parsed, f"no such species in {genus}{_is_meant(_meant(name, known))}")
    if name in entry.listed:
        return _found(parsed, "accepted", _of_genus(name, entry, known), given)
    if near := _almost_alike(name, known.in_genus.get(genus, set()) | entry.listed):
        return _refuse(parsed, f"no such species in {genus}{_is_meant(near)}")
    return _found(parsed, "genus known", _of_genus(name, entry, known), given)


def _choose(parsed: ParsedName, name: str, given: Mapping[str, str], known: Known) -> Decision:
    """Tell the species of one name apart by what the source says of its lineage."""
    meanings = known.meanings[name]
    depths = [agreement(given, species)[0] for species in meanings]
    deepest = max((depth for depth in depths if depth is not None), default=None)
    best = [species for species, depth in zip(meanings, depths, strict=True) if depth == deepest]
    if len(best) > 1 and deepest is not None:
        several = "; ".join(sorted(_described(species) for species in best))
        return _refuse(parsed, f"one name of several animals: {several}; only their higher ranks tell them apart")
    if best[0]["species"] != name:
        return _found(parsed, "subspecies" if parsed.below == name else "synonym", best[0], given)
    return _found(parsed, "subspecies" if parsed.below else "accepted", best[0], given)


def _by_older_name(parsed: ParsedName, given: Mapping[str, str], known: Known) -> Decision:
    accepted = known.older[parsed.species]
    species = next(iter(accepted))
    entry = known.genera.get(species.split(" ")[0])
    if len(accepted) > 1 or entry is None or entry.lineage["class"] in known.complete:
        return _refuse(parsed, f"an older name; is {' or '.join(sorted(accepted))} meant?")
    lineage = known.meanings[species][0] if species in known.meanings else _of_genus(species, entry, known)
    return _found(parsed, "synonym", lineage, given)


def _found(parsed: ParsedName, how: How, species: Lineage, given: Mapping[str, str]) -> Decision:
    """Take a species, unless the source speaks of another animal."""
    depth, differs = agreement(given, species)
    if depth is None:
        return _refuse(parsed, f"the source means another animal by it: {differs}")
    return Decision(
        given=parsed.given,
        parsed=parsed.species,
        below=parsed.below,
        how=how,
        lineage=species,
        source=species["list"],
        differs=differs,
    )


def _refuse(parsed: ParsedName, reason: str) -> Decision:
    return Decision(
        given=parsed.given, parsed=parsed.species, below=parsed.below, reason=f"{shown(parsed.given)}: {reason}"
    )


def _moved(name: str, given: Mapping[str, str], known: Known) -> Lineage | None:
    """Find the one species with this epithet and with the common name that the source gives."""
    if not (called := spoken(given.get("common_name", ""))):
        return None
    found = [species for species in known.of_stem.get(stem(name), ()) if spoken(species["common_name"]) == called]
    return found[0] if len(found) == 1 else None


def _of_genus(name: str, entry: Genus, known: Known) -> Lineage:
    return {**entry.lineage, "species": name, "common_name": known.english.get(name, ""), "list": entry.source}


def agreement(given: Mapping[str, str], species: Mapping[str, str]) -> tuple[int | None, str]:
    """Compare two lineages.

    Returns:
        The depth of the deepest rank, from kingdom (1) to family (5), at which they agree; 0 if none is known; None
        where they cannot be of one animal: kingdom or phylum differ, or all of class, order and family that are known
        on both sides. And the ranks at which they differ, in words.
    """
    if not given:
        return 0, ""
    return _compare(tuple(given.get(rank, "") for rank in COMPARED), tuple(species[rank] for rank in COMPARED))


@functools.lru_cache(maxsize=100_000)
def _compare(given: tuple[str, ...], here: tuple[str, ...]) -> tuple[int | None, str]:
    both = [(rank, a, b) for rank, a, b in zip(COMPARED, given, here, strict=True) if a and b]
    same = {rank: SAME_NAME.get(a, a) == SAME_NAME.get(b, b) for rank, a, b in both}
    differs = ", ".join(f"{rank} {a} is {b} here" for rank, a, b in both if not same[rank])
    lower = [same[rank] for rank in ("class", "order", "family") if rank in same]
    if not all(same.get(rank, True) for rank in ("kingdom", "phylum")) or (lower and not any(lower)):
        return None, differs
    return max((COMPARED.index(rank) + 1 for rank, agrees in same.items() if agrees), default=0), differs


def _described(species: Lineage) -> str:
    ranks = ", ".join(filter(None, (species["class"], species["order"], species["family"])))
    return f"{species['species']} ({ranks})"


def _is_meant(name: str) -> str:
    return f"; is {name} meant?" if name else ""


def _meant(name: str, known: Known) -> str:
    """Guess which listed name is meant: in this genus, with this epithet elsewhere, or in a genus spelled alike."""
    genus, epithet = name.split(" ")
    own_stem, letters = stem(name), one_less(epithet)
    alike, same_stem = [], []
    for other in known.in_genus.get(genus, ()):
        word = other[len(genus) + 1 :]
        if word.startswith(own_stem) and stem(other) == own_stem:
            same_stem.append(other)
        elif abs(len(word) - len(epithet)) < 2 and (word[0] == epithet[0] or word[-1] == epithet[-1]):
            alike += [other] * bool(letters & one_less(word))
    if alike or same_stem:
        return min(same_stem or alike)
    if len({species["species"] for species in known.of_stem.get(own_stem, ())}) == 1:
        return known.of_stem[own_stem][0]["species"]
    genera = known.genera_alike.get(genus, [])
    corrected = [respelled for other in genera if (respelled := f"{other} {epithet}") in known.in_alike]
    if corrected or genus not in known.genus_names:
        return next(iter(corrected or genera), "")
    return ""


def _almost_alike(name: str, others: set[str]) -> str:
    """Find the name in its genus that is spelled most like another, if they are almost alike; empty if none is."""
    letters = Counter(name)
    possible = [  # difflib's ratio is at most this: twice the letters in common by the letters of both
        other
        for other in others
        if 2 * sum((letters & Counter(other)).values()) / (len(name) + len(other)) >= ALMOST_ALIKE
    ]
    return next(iter(difflib.get_close_matches(name, possible, n=1, cutoff=ALMOST_ALIKE)), "")
