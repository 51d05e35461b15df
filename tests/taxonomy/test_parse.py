"""Names as people and machines write them: a binomial, or a refusal with a reason."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biovita.errors import TaxonomyError
from biovita.taxonomy.parse import MAX_CHARS, ParsedName, _is_latin, _read, binomial, parse_names

TIMES = "\u00d7"


def read(name: str) -> ParsedName:
    (parsed,) = parse_names([name])
    return parsed


@pytest.mark.parametrize(
    ("name", "species", "below"),
    [
        ("Turdus merula", "Turdus merula", ""),
        ("turdus_merula", "Turdus merula", ""),
        ("TURDUS MERULA", "Turdus merula", ""),
        ("Turdus\tmerula\n", "Turdus merula", ""),
        ("Turdus\u00a0merula", "Turdus merula", ""),
        ("\ufeffTurdus\u200b merula", "Turdus merula", ""),
        ("<i>Turdus merula</i>", "Turdus merula", ""),
        ("Turdus merula Linnaeus, 1758", "Turdus merula", ""),
        ("Turdus merula(Linnaeus, 1758)", "Turdus merula", ""),
        ("Turdus merula (Linnaeus, [1758])", "Turdus merula", ""),
        ("Hyla arborea M&uuml;ller &amp; Smith, 1901", "Hyla arborea", ""),
        ("Aus bus Smith et Jones, 1900", "Aus bus", ""),
        ("Aus bus X. Smith, 1900", "Aus bus", ""),
        ("Turdus merula van den Berg", "Turdus merula", ""),
        ("Turdus (Merula) merula", "Turdus merula", ""),
        ("Turdus merula azorensis Hartert, 1905", "Turdus merula", "azorensis"),
        ("Gallus gallus var. domesticus", "Gallus gallus", "domesticus"),
        ("Turdus merula [merula Group]", "Turdus merula", ""),
        ("Polygonia c-album", "Polygonia c-album", ""),
        ("Io io", "Io io", ""),
        (unicodedata.normalize("NFD", "M\u00fcllerius minor"), "M\u00fcllerius minor", ""),
    ],
)
def test_a_name_is_read_with_what_hangs_on_it(name: str, species: str, below: str) -> None:
    parsed = read(name)
    assert (parsed.species, parsed.below, parsed.reason) == (species, below, "")
    assert parsed.given == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no scientific name is given"),
        (" \u200b\t", "holds no name"),
        ("Turdus", "one word names a genus or a higher rank"),
        ("Turdus Linnaeus, 1758", "names a genus or a higher rank"),
        ("Turdus (Merula)", "names a genus or a higher rank"),
        ("Turdus sp.", "not identified to species"),
        ("Turdus sp. 3", "not identified to species"),
        ("Turdus cf. merula", "not identified to species"),
        ("Turdus aff. merula", "not identified to species"),
        ("Turdus gr. merula", "not identified to species"),
        ("Turdus merula?", "not identified to species"),
        ("T. merula", "not identified to species"),
        ("Tachyeres pteneres [undescribed form]", "not identified to species"),
        ("Turdus merula complex", "species aggregate"),
        ("Turdus merula auct. non Linnaeus", "meant in another sense"),
        ("Turdus merula s.l.", "meant in another sense"),
        ("Turdus merula/mandarinus", "names more than one species"),
        ("Microtus (Microtus) arvalis / agrestis", "names more than one species"),
        ("Turdus merula or pilaris", "names more than one species"),
        ("Turdus merula & Turdus pilaris", "names more than one species"),
        ("Turdus merula, Turdus pilaris", "names more than one species"),
        ("Turdus merula|pilaris", "names more than one species"),
        ("Hyla arborea x Hyla orientalis", "a hybrid"),
        ("Hyla arborea [x orientalis]", "a hybrid"),
        (f"{TIMES}Hyla arborea", "a hybrid"),
        ("Pelophylax &times; esculentus", "a hybrid"),
        ("Pelophylax kl. esculentus", "a hybrid"),
        ("Larus argentatus hybrid", "a hybrid"),
        ("Tobacco mosaic virus", "a virus"),
        ("Candidatus Phytoplasma mali", "a bacterium"),
        ("BOLD:AAA0003", "an identifier"),
        ("incertae sedis", "a placeholder"),
        ("Mystery mystery", "a placeholder of Xeno-canto"),
        ("sonus NATURALIS", "a placeholder of Xeno-canto"),
        ("\u0422urdus merula", r"U\+0422 CYRILLIC CAPITAL LETTER TE, which is not Latin"),
        ("Turdus m\u0435rula", r"U\+0435 CYRILLIC SMALL LETTER IE, which is not Latin"),
        ("\uff34urdus merula", "FULLWIDTH"),
        ("Turdus merula\x00", r"'Turdus merula\\x00': holds the control character U\+0000"),
        ("Turdus \u202ealurem", r"holds the control character U\+202E"),
        ("Turdus &#x202e;alurem", r"holds the control character U\+202E"),
        ("Coccinella 7-punctata", "not a binomial"),
        ("Turdus mer\u22a6ula", "not a binomial"),  # the parser alone reads Turdus mer
        ("Turdus me\u1dcala", "not a binomial"),
        ("../../etc/passwd", "names more than one species"),
        ("Turdus merula" * 100, "1300 characters are no name"),
    ],
)
def test_a_name_that_leaves_the_species_open_is_refused(name: str, why: str) -> None:
    with pytest.raises(TaxonomyError, match=why):
        binomial(name)
    assert read(name).species == ""


def test_an_epithet_in_capitals_is_marked_since_it_may_be_an_author() -> None:
    assert [read(name).recased for name in ("Hyla Arborea", "HYLA ARBOREA", "Hyla arborea", "HYLA arborea")] == [
        True,
        True,
        False,
        False,
    ]


def test_folding_is_stable() -> None:
    assert binomial(binomial("turdus merula L.")) == "Turdus merula"


def test_bulk_reading_equals_one_by_one() -> None:
    names = ["Turdus merula", "", "Turdus sp.", "BOLD:AAA0003", "Hyla arborea L.", "Turdus merula/pilaris"]
    assert parse_names(names) == [read(name) for name in names]
    assert parse_names([]) == []


# what the parser, a publisher or a person may put where a genus, an epithet or an author stands; and words of names
STOP_WORDS = """about aggregate anon are auct beta bis candidatus clade class complex dalla degli del della delli
description dos emend ex family female fide form genus group hello hybrid ichnotaxa ichnotaxon in incertaesedis indet
ined kingdom larva lineage male mihi missing morph mosaic naturalis nest nom nomen non nudum null others phylum
phytoplasma plus possible section sedis sensu series serious since sonus species subgenus subphylum subsection subseries
subspecies symbiont tous type unaccepted unassigned uncultured undescribed undetermined unidentified unknown unpublished
vide viroid virus vous whereas xxxus"""
WORDS = "turdus merula parus major xenopus laevis io bufo rana c-album aculeatissima ba"
AUTHORS = "Linnaeus M\u00fcller \u00c5ngstr\u00f6m Gray Unger Auct Anon Indet Undescribed Virus"


def test_names_that_need_no_parser_are_read_as_it_reads_them() -> None:
    words = [*STOP_WORDS.split(), *WORDS.split()]
    names = [f"{genus.capitalize()} {epithet}" for genus in words for epithet in words]
    needless = [name for name in names if _is_latin(name)]
    assert len(needless) > 100
    assert {name.given: name for name in parse_names(needless)} == _read(needless)
    assert parse_names(["Sonus naturalis"])[0].reason


def test_authors_change_nothing_of_a_plain_name() -> None:
    genera, epithets, authors = WORDS.split(), [*WORDS.split(), "complex", "sensu", "unassigned"], AUTHORS.split()
    rng = random.Random(5)
    given = []
    for genus in genera:
        for epithet in epithets:
            for _ in range(10):
                a, b = rng.choice(authors), rng.choice(authors)
                cite = rng.choice((f"{a}, 1758", f"{a} & {b}, 1899", f"{a}, {b} & {a}, 2019"))
                given += [f"{genus.capitalize()} {epithet} {cite}", f"{genus.capitalize()} {epithet} ({cite})"]
    read, whole = parse_names(given), _read(given)
    assert sum(bool(name.species) for name in read) > 1_000
    assert sum(bool(name.reason) for name in read) > 1_000
    assert read == [whole[name] for name in given]


def hostile_names(n: int) -> list[str]:
    """Good names, spoiled by what transport, people and attackers do to them."""
    rng = random.Random(7)
    parts = [
        *("Turdus", "merula", "TURDUS", "azorensis", "Linnaeus, 1758", "(Gmelin, 1789)", "sp.", "cf.", "x", TIMES, "/"),
        *("\x00", "\x1b[2J", "\u202e", "\u2066", "\u200b", "\u0301", "\u0430", "\ud800", "\U0001f426", "&amp;", "&#0;"),
        *("<script>", "</i>", "../", "..\\", "C:\\", "http://10.0.0.1/", "%00", "%2e%2e", "'; --", "{0}", "$(id)", "|"),
        *("\n", "\r\n", "\t", "  ", "_", "-", ".", "?", '"', "'", "(", ")", "[", "]", "[1851]", "\u00df", "\uff21"),
        *("BOLD:AAA0003", "virus", "incertae sedis", "NULL", "nan", "-1", "1e9", "a" * 400, "(" * 60, "subsp.", "f."),
    ]
    starts = ["", "Turdus merula", "Turdus", "Turdus (Merula) merula"]
    return [
        rng.choice(starts) + "".join(rng.choice(("", " ")) + rng.choice(parts) for _ in range(rng.randint(1, 6)))
        for _ in range(n)
    ]


def test_2000_hostile_names_are_read_or_refused_with_a_reason() -> None:
    names = hostile_names(2_000)
    parsed = parse_names(names)
    assert [name.given for name in parsed] == names
    for name in parsed:
        check(name)
    assert sum(bool(name.species) for name in parsed) > 100  # not everything is refused


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{1,8}[ _\u00a0]\(?[a-z]{1,8}\)?( .{0,12})?", fullmatch=True))
def test_any_text_is_read_or_refused(name: str) -> None:
    check(read(name))


def check(parsed: ParsedName) -> None:
    """A name is either a clean binomial or has a printable reason in one line."""
    assert bool(parsed.species) != bool(parsed.reason)
    if parsed.species:
        genus, epithet = parsed.species.split(" ")
        assert genus[0].isupper()
        assert (genus[1:] + epithet).replace("-", "").isalpha()
        assert (genus[1:] + epithet).islower()
        assert all(unicodedata.name(c).startswith(("LATIN ", "HYPHEN")) for c in genus + epithet)
        assert binomial(parsed.species) == parsed.species
    else:
        assert parsed.reason.isprintable()
        assert len(parsed.reason) < 1_200
        assert len(parsed.given) <= MAX_CHARS or parsed.reason
