"""The 34 traits of real species: the page of rules, and how much the published tables tell.

    .venv/bin/python benchmarks/traits.py rules > docs/traits.md
    .venv/bin/python benchmarks/traits.py coverage ../shared/data > docs/results/traits.md

The folder holds `traits` (the published tables), `names` (eBird taxonomy, genus JSON) and `wildlife` (a manifest).
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.trait_tables import LINEAGE, TraitTable, read_traits, trait_sources
from biovita.taxonomy.traits import TRAIT_GROUPS, TRAITS

CLASSES = ("Aves", "Mammalia", "Amphibia")
LIST_FILES = ("eBird_taxonomy_v2025.csv", "birdnetgo_genus_taxonomy.json")

RULES_TOP = """# Traits

34 labels in nine groups, from published tables. A label is true, false or null. **Null means that no source says
anything**: it is unknown, and never to be read as false. What nobody has measured stays null: insects, fish and
reptiles have no traits at all here, and no table tells which birds are active at dusk or live in groups.

Written by `python benchmarks/traits.py rules` from `src/biovita/taxonomy/trait_rules.toml`; a test compares. How much
is known, and which values surprise: `docs/results/traits.md`.

- Labels of one group may be true together: a bullfrog is `terrestrial` and `aquatic`, a partial migrant `resident` and
  `migratory`. Only the three trophic levels exclude each other.
- A rule has two conditions. True is tried first, then false; where neither holds, or a blank leaves both open, the
  label is null. Conditions are SQL on one row; `Diet-Inv` is written `Diet_Inv`, and `source_family` is the family as
  the table has it. A number outside what its column may hold (such as -9) is a blank, and counted.
- The sources stand below in the order in which they are trusted. Where two disagree, the first one is right, and
  `traits_conflict` keeps what each said. `traits_source` names all that agree with the value.
- A name means the species of that name, or the one to which the checklist resolves it. An accepted species that a table
  lacks takes the one row of its family with the same epithet whose own name is no accepted species (`Grus canadensis`
  for `Antigone canadensis`); `traits_source` then says `eltontraits_birds (as Grus canadensis)`. If the table lacks the
  family, its order serves; a genus that the checklist has only in other families is left out. Splits are not guessed.
- Several rows of one species: the one under the accepted name speaks first; what it leaves open, the others say if they
  agree.
"""
RULES_END = """
## Columns that look useful and are not used

| column | why not |
|---|---|
| COMBINE `biogeographical_realm` | no climate: the Neotropics reach to Patagonia, the Palearctic into the Sahara |
| COMBINE `habitat_breadth_n` | counts habitats without naming them |
| COMBINE `dispersal_km` | dispersal of the young is no migration |
| AmphiBIO `Wet_warm` `Wet_cold` `Dry_warm` `Dry_cold` | the season in which a species is active, not its climate |
| AmphiBIO `Fos` | none of the labels means life in the soil |
| AVONET `Hand-Wing.Index` | does not tell who flies: steamer ducks have 43, wrens 16 |
| AVONET `Centroid.Latitude` | the extent of the range says more |
| AnAge `Temperature (K)` and all others | none of the labels |

Licences are as their publishers state them, as far as we know; the files themselves carry none. None of these tables is
part of this project.
"""


def rules_page() -> str:
    """Write docs/traits.md."""
    parts = [RULES_TOP, "## Labels\n", "| group | labels | sources, by rank |", "|---|---|---|"]
    for group, labels in TRAIT_GROUPS.items():
        for label in labels:
            known = [name for name, source in trait_sources().items() if label in {rule.label for rule in source.rules}]
            parts.append(f"| {group.replace('_', ' ')} | `{label}` | {', '.join(known)} |")
    for name, source in trait_sources().items():
        class_ = f" Class {source.class_}." if source.class_ else ""
        parts += [f"\n## {name}\n", f"{source.title}.{class_} {source.citation}. {source.licence}.\n\n{source.about}\n"]
        if source.derived:
            parts += ["| short for | condition or sum |", "|---|---|"]
            parts += [f"| `{word}` | `{sql}` |" for word, sql in source.derived.items()] + [""]
        if source.rules:
            parts += ["| label | true if | false if | null for | note |", "|---|---|---|---|---|"]
        for rule in source.rules:
            true, false = (f"`{condition}`" if condition else "never" for condition in (rule.true, rule.false))
            parts.append(f"| `{rule.label}` | {true} | {false} | {rule.null or 'blanks'} | {rule.note} |")
    return "\n".join(parts) + "\n" + RULES_END


def wildlife(shared: Path) -> dict[str, Any]:
    """Say how many of the resolved birds, mammals and amphibians of the wildlife set have traits, and who has none."""
    checklist = Checklist.open([shared / "names" / name for name in LIST_FILES])
    names = pl.read_csv(shared / "wildlife" / "manifest.tsv", separator="\t", infer_schema=False).select(
        "scientific_name"
    )
    log = checklist.decide_all(names)
    refused = log.filter(pl.col("species").is_null())["scientific_name"].to_list()
    species = log.filter(pl.col("class").is_in(CLASSES)).unique("species").sort("species")
    traits = read_traits(shared / "traits", checklist, species.select(*LINEAGE))
    known = species.select("species").join(traits.table, on="species", how="left", maintain_order="left")
    n_known = known.select("species", n=pl.sum_horizontal(pl.col(TRAITS).is_not_null()))
    return {
        "n_names": len(log),
        "refused": refused,
        "n_resolved": len(species),
        "n_with_traits": len(n_known.filter(pl.col("n") > 0)),
        "without": n_known.filter(pl.col("n") == 0)["species"].to_list(),
        "median_labels": n_known["n"].median(),
        "moved": traits.matches.filter(
            (pl.col("name_match") != "same") & pl.col("species").is_in(species["species"].implode())
        ).select("source", "source_name", "species", "name_match").rows(),
    }  # fmt: skip


def coverage_table(traits: TraitTable) -> list[str]:
    """One row a label: how many percent of the species of each class are known, and how many of those are true."""
    lines = [
        f"| label | {' | '.join(f'{name}: known | true' for name in CLASSES)} |",
        f"|---|{'---|---|' * len(CLASSES)}",
    ]
    for label in TRAITS:
        cells = []
        for class_ in CLASSES:
            row = traits.coverage.filter((pl.col("class") == class_) & (pl.col("label") == label)).row(0, named=True)
            cells += [f"{100 * row['n_known'] / row['n_species']:.0f} %"]
            cells += [f"{100 * row['n_true'] / row['n_known']:.0f} %" if row["n_known"] else ""]
        lines.append(f"| `{label}` | {' | '.join(cells)} |")
    return lines


HAND_CHECK = {
    "Bubo virginianus": "",
    "Haliaeetus leucocephalus": "no lifestyle: AVONET has Generalist",
    "Branta canadensis": "terrestrial and not aquatic: AVONET has grazing geese on the ground, in grassland",
    "Archilochus colubris": "neither aerial nor perching is known (Generalist); tropical null, for it winters there",
    "Passer domesticus": "herbivore: 90 % seeds and plants, although its young eat insects",
    "Corvus corax": "forest is its one main habitat in AVONET; coast, rock and tundra are lost",
    "Lithobates catesbeianus": "eats_plants: leaves swallowed with prey; so no trophic level but not herbivore",
    "Hyla versicolor": "",
    "Myotis lucifugus": "",
    "Ursus americanus": "nocturnal and not diurnal, in both tables: wrong for most of its range",
    "Canis lupus": "lives_in_groups is null: COMBINE has no figure for the wolf",
    "Castor canadensis": "",
    "Phoca vitulina": "not terrestrial, although it hauls out; wetland, for COMBINE has it in fresh water too",
    "Bison bison": "",
}  # species and what surprises


def hand_check_table(traits: TraitTable) -> list[str]:
    """Well-known species with all that is said of them."""
    lines = ["| species | true | false | what surprises |", "|---|---|---|---|"]
    for species, remark in HAND_CHECK.items():
        row = traits.table.filter(pl.col("species") == species).row(0, named=True)
        true, false = (" ".join(label for label in TRAITS if row[label] is said) for said in (True, False))
        lines.append(f"| *{species}* | {true} | {false} | {remark} |")
    return lines


def dispute_table(traits: TraitTable) -> list[str]:
    """Count the disagreements by label and by what was said."""
    said = Counter()
    for text in traits.table["traits_conflict"].drop_nulls():
        said.update(json.loads(text).items())
    lines = ["| label | disagreement | species |", "|---|---|---|"]
    most = sorted(said.items(), key=lambda item: (-item[1], item[0]))
    return [*lines, *(f"| `{label}` | {text} | {n} |" for (label, text), n in most[:25])]


def moved_by_name(traits: TraitTable, shared: Path) -> tuple[int, int]:
    """Count EltonTraits birds that were matched by a moved genus, and those whose English name ends in another word.

    The matching never sees the English names, so they are evidence about it.
    """
    last_word = r"([a-z]+)\W*$"
    lists = (("names/eBird_taxonomy_v2025.csv", ",", "SCI_NAME", "PRIMARY_COM_NAME", "species"),
             ("traits/EltonTraitsBirds.txt", "\t", "Scientific", "English", "source_name"))  # fmt: skip
    moved = traits.matches.filter((pl.col("source") == "eltontraits_birds") & (pl.col("name_match") == "moved genus"))
    for path, separator, name, english, key in lists:
        table = pl.read_csv(shared / path, separator=separator, infer_schema=False, encoding="utf8-lossy")
        word = pl.col(english).str.to_lowercase().str.extract(last_word).alias(f"word_{key}")
        moved = moved.join(table.select(pl.col(name).alias(key), word), on=key)
    return len(moved), len(moved.filter(pl.col("word_species") != pl.col("word_source_name")))


def coverage_page(shared: Path) -> str:
    """Write docs/results/traits.md."""
    started = time.process_time()
    traits = read_traits(shared / "traits")
    seconds = time.process_time() - started
    figures = wildlife(shared)
    checklist = Checklist.open([shared / "names" / name for name in LIST_FILES])
    started = time.process_time()
    matched = read_traits(shared / "traits", checklist)
    seconds_matched = time.process_time() - started
    n_of = dict(traits.coverage.select("class", "n_species").unique().iter_rows())
    n_moved, n_other_word = moved_by_name(matched, shared)
    share = 100 * figures["n_with_traits"] / figures["n_resolved"]
    counts = [
        "| source | rows | blank | no species name | unreadable values | same | synonym | moved genus | not accepted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    counts += [f"| {' | '.join(str(cell) for cell in row)} |" for row in matched.counts.iter_rows()]
    return "\n".join(
        [
            "# Traits of real species\n",
            "Command: `python benchmarks/traits.py coverage ../shared/data`. The tables are no part of this project.",
            "The rules are in `docs/traits.md`.\n",
            "## The wildlife set\n",
            f"{figures['n_names']} names; refused: {', '.join(figures['refused']) or 'none'}.",
            f"Of {figures['n_resolved']} resolved birds, mammals and amphibians {figures['n_with_traits']} have traits "
            f"({share:.1f} %; at least 90 % are wanted);",
            f"without: {', '.join(figures['without']) or 'none'}.",
            f"The median species has {figures['median_labels']:.0f} of the 34 labels.\n",
            "Found under another name:\n",
            *(f"- {species}: {source} has it as {name} ({how})" for source, name, species, how in figures["moved"]),
            "\n## All species of the tables\n",
            f"Without a checklist: {', '.join(f'{n_of[name]:,} {name}' for name in CLASSES)}. Known: of all species of "
            "the class. True: of those known.\n",
            *coverage_table(traits),
            "\n## Names\n",
            "With the eBird taxonomy and the genus JSON as checklist. It lists 3,720 genera, so most mammals and many",
            "amphibians of the tables are no accepted species there; nothing is wrong with their rows.\n",
            *counts,
            f"\nOf {n_moved:,} birds of EltonTraits whose genus has moved {n_moved - n_other_word:,} have the same",
            f"last word in their English names in both lists, {n_other_word} another one. Read by eye, those are",
            "the same birds (francolins that are spurfowl now, and so on) but for one: *Hemignathus munroi* is not",
            "*Dysmorodrepanis munroi*.\n",
            "AVONET's rows without an accepted species are mostly species that eBird has as subspecies.",
            "\n## By hand\n",
            "What the tables come to for species that everybody knows; the rest of the 34 labels is null.\n",
            *hand_check_table(traits),
            "\n## Disagreements\n",
            f"{traits.table['traits_conflict'].count():,} of {len(traits.table):,} species have at least one. The most "
            "frequent:\n",
            *dispute_table(traits),
            "\n## Time\n",
            f"CPU seconds: {seconds:.1f} for all six tables, {seconds_matched:.1f} with the checklist.\n",
        ]
    )


def main() -> None:
    if sys.argv[1:2] == ["rules"]:
        print(rules_page(), end="")
    elif sys.argv[1:2] == ["coverage"] and len(sys.argv) == 3:
        print(coverage_page(Path(sys.argv[2])), end="")
    else:
        print(__doc__, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
