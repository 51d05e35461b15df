"""Lists that know the same animals: what is merged in columns equals what a plain loop merges name by name."""

import random
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from biovita.taxonomy.backbone import Backbone, of_species
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.decide import agreement
from biovita.taxonomy.rank import LEVELS

HAWK = ("Animalia", "Chordata", "Aves", "Accipitriformes", "Accipitridae")
THRUSH = ("Animalia", "Chordata", "Aves", "Passeriformes", "Turdidae")
FLY = ("Animalia", "Arthropoda", "Insecta", "Diptera", "Syrphidae")
NAMES = [f"{genus} {epithet}" for genus in ("Aus", "Bus", "Cus") for epithet in ("bus", "dus", "fus")]


class Loop:
    """The lists, merged by plain loops."""

    def __init__(self) -> None:
        self.species: list[Mapping[str, str]] = []
        self.rows: dict[str, list[int]] = {}
        self.doubted: dict[str, str] = {}

    def add(self, given: Backbone, source: str, complete: dict[str, str]) -> None:
        earlier = {name: list(rows) for name, rows in self.rows.items()}
        theirs = given.species.rows(named=True)
        same: list[set[int]] = [set() for _ in theirs]
        by_own_name: dict[int, int] = {}
        for name, there in given.names.iter_rows():
            here = [row for row in earlier.get(name, ()) if agreement(theirs[there], self.species[row])[0] is not None]
            same[there].update(here)
            if name == theirs[there]["species"] and len(here) == 1:
                by_own_name[there] = here[0]
        place: dict[int, int] = {}
        new: set[int] = set()
        why: dict[int, str] = {}
        for there, species in enumerate(theirs):
            apart = ", ".join(sorted(self.species[row]["species"] for row in same[there]))
            why[there] = f"{source} has it for what earlier lists tell apart: {apart}"
            if there in by_own_name or len(same[there]) == 1:
                place[there] = by_own_name[there] if there in by_own_name else min(same[there])
            elif not same[there] and species["class"] in complete:
                why[there] = f"unknown to {complete[species['class']]}, which lists all {species['class']}"
            elif not same[there]:
                place[there] = len(self.species)
                new.add(there)
                self.species.append({level: species[level] for level in LEVELS} | {"list": source})
        for name, there in given.names.iter_rows():
            is_own = there in new and name == theirs[there]["species"]
            if there not in place or (name not in self.rows and len(same[there]) > 1):
                self.doubted.setdefault(name, why[there])
            elif name not in self.rows:
                self.rows[name] = [place[there]]
            elif place[there] not in self.rows[name] and (name not in earlier or is_own):
                self.rows[name].append(place[there])
        for name, reason in given.doubted.iter_rows():
            self.doubted.setdefault(name, reason)


def backbone(rng: random.Random) -> Backbone:
    """A small list full of homonyms and synonyms."""
    rows = [(*rng.choice((HAWK, HAWK, THRUSH, FLY)), name) for name in rng.choices(NAMES, k=rng.randint(1, 5))]
    lineages = [dict(zip(LEVELS[:-1], (*row[:5], row[5].split(" ")[0], row[5]), strict=True)) for row in rows]
    given = of_species(pl.DataFrame(lineages))
    others = [(rng.choice(NAMES), rng.randrange(len(given.species))) for _ in range(rng.randint(0, 6))]
    synonyms = pl.DataFrame(others, given.names.schema, orient="row").filter(
        ~pl.col("name").is_in(given.names["name"].implode())
    )
    doubted = pl.DataFrame({"name": rng.sample(NAMES, 1), "why": ["for no reason"]})
    return Backbone(
        species=given.species, names=pl.concat([given.names, synonyms.unique(maintain_order=True)]), doubted=doubted
    )


def test_merged_lists_equal_those_of_a_plain_loop() -> None:
    n_lumped = n_homonyms = 0
    for seed in range(300):
        rng = random.Random(seed)
        checklist, loop = Checklist(), Loop()
        for n in range(rng.randint(1, 4)):
            given = backbone(rng)
            loop.add(given, f"{n}.tsv", checklist._complete)
            checklist.add_backbone(given, Path(f"{n}.tsv"))
            if rng.random() < 0.2:
                checklist._complete.setdefault("Aves", f"{n}.tsv")
        assert checklist._species.rows(named=True) == loop.species
        merged = checklist._names.group_by("name").agg("row")
        assert dict(merged.iter_rows()) == loop.rows
        assert dict(checklist._doubted.iter_rows()) == loop.doubted
        n_lumped += sum("tell apart" in reason for reason in loop.doubted.values())
        n_homonyms += sum(len(rows) > 1 for rows in loop.rows.values())
    assert n_lumped > 50
    assert n_homonyms > 50
