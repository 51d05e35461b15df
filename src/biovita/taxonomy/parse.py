"""Scientific names as people write them: a binomial with what hangs on it, or a refusal that says why.

The GBIF name parser reads the name. It is a tolerant reader: it takes `A b/c` for an author and swaps Cyrillic letters
for Latin ones. What must not be guessed is therefore refused before it is asked, and its doubts are refused after it.
"""

import html
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import nameparser

from biovita.errors import TaxonomyError
from biovita.taxonomy.taxon import normal_name

MAX_CHARS: Final = 250
TIMES: Final = "\u00d7"  # the multiplication sign marks a hybrid
PLACEHOLDERS: Final = ("Mystery mystery", "Sonus naturalis")  # Xeno-canto's unidentified birds and soundscapes
_AUTHOR = r"[A-Z\u00c0-\u00d6\u00d8-\u00de][a-z\u00df-\u00f6\u00f8-\u00ff]{2,23}"
_AUTHORS = rf"(?:{_AUTHOR}(?:, {_AUTHOR}){{0,2}} & )?{_AUTHOR}, (?:175[89]|17[6-9]\d|1[89]\d\d|20[01]\d)"
# a name as publishers write it, shorter than MAX_CHARS; and words that say something of the name in an author's place
PLAIN: Final = rf"^([A-Z][a-z-]{{1,60}} [a-z-]{{1,60}})(?: {_AUTHORS}| \({_AUTHORS}\))?$"
NO_AUTHOR: Final = (
    r"[ (](?:Auct|Bacterio|Bphage|Clade|Delete|Ichno|Incert|Indet|Npv|Particle|Phage|Prion|Replicon|Rna|Satellite|Sero"
    r"|Tobe|Un[acdikp]|Vector|Vir[io]|Virus)"
)
BELOW_SPECIES: Final = {"SUBSPECIES", "VARIETY", "FORM", "MORPH", "INFRASPECIFIC_NAME", "INFRASUBSPECIFIC_NAME"}

_PLAIN, _NO_AUTHOR = re.compile(PLAIN), re.compile(NO_AUTHOR)
_LATIN = re.compile(r"[A-Z][a-z]{3,}(?:[aiosx]|um|on) [a-z]{3,}(?:us|um|is|[ai])")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*>")
_NOTE = re.compile(r"\[[^\]\d]*\]")  # `[merula Group]` and other remarks, but not the year `[1851]`
_GENUS = re.compile(r"[A-Z][a-z\u00df-\u00f6\u00f8-\u00ff-]+")
_EPITHET = re.compile(r"[a-z\u00df-\u00f6\u00f8-\u00ff-]{2,}")
_AUTHOR_END = re.compile(r"[a-z-]{4,}")  # authors end in a capital word or in `f.`, `al.`; `pilaris` is a second name
_WORD_ENDS = re.compile(r"[\s(),\[\]]+")
_WIDE_SENSE = re.compile(r"(auct|s\.? ?l|sensu lat)")  # a mistaken or a broad sense may be another species
_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they show a name in another order
_UNSURE = {"sp", "spp", "spec", "species", "cf", "aff", "nr", "gr", "indet", "ined", "new", "complex", "undescribed"}
_HYBRID = {"hybr", "hybrid", "hybrids", "kl", "klepton"}
_JOIN = {"or", "and", "und", "et", "oder", "ou", "y", "vs"}
_PARTICLES = {"de", "del", "della", "den", "der", "di", "dos", "du", "da", "la", "le", "van", "von", "zu", "al", "in"}
_NO_EPITHET = _UNSURE | _HYBRID | _JOIN | {"juv", "adult", "male", "female", "egg", "larva", "nest", "virus"}
_NO_NAME = {  # words of such endings that the parser takes for no part of a name
    *("candidatus", "dalla", "degli", "della", "delli", "genus", "ichnotaxa", "ichnotaxon", "incertaesedis", "mihi"),
    *("phylum", "phytoplasma", "section", "series", "serious", "subgenus", "subphylum", "subsection", "subseries"),
}
_KINDS = {
    "IDENTIFIER": "an identifier, not a name",
    "PLACEHOLDER": "a placeholder, not a name",
    "FORMULA": "a hybrid",
}


@dataclass(frozen=True, kw_only=True)
class ParsedName:
    """One name, read.

    Attributes:
        given: as the source writes it.
        species: genus and epithet; empty where the name is refused.
        below: the epithet below species, which is folded away.
        recased: the epithet stood in capitals, so that it may be an author: only a listed species is meant.
        reason: why the name is refused; empty where it is not.
    """

    given: str
    species: str = ""
    below: str = ""
    recased: bool = False
    reason: str = ""


def parse_names(names: Iterable[str]) -> list[ParsedName]:
    """Read names in bulk; nothing raises, a name that means no single species carries the reason.

    The parser takes 50 us a name, so it is not asked for what it would only repeat: two Latin words, perhaps with
    authors and a year. A plain name of other words goes to it without the authors, and with them if it objects.
    """
    given = list(names)
    bare = {name: plain[1] for name in given if (plain := _PLAIN.match(name)) and not _NO_AUTHOR.search(name)}
    read = {text: ParsedName(given=text, species=text) for text in bare.values() if _is_latin(text)}
    read |= _read({text for name in given if (text := bare.get(name, name)) not in read})
    read |= _read({name for name, text in bare.items() if name != text and read[text].reason})
    return [read[name] if name in read else ParsedName(given=name, species=read[bare[name]].species) for name in given]


def binomial(name: str) -> str:
    """Reduce a scientific name to genus and epithet.

    Raises:
        TaxonomyError: it is empty, of a higher rank, a hybrid, or leaves the species open.
    """
    (parsed,) = parse_names([name])
    if parsed.reason:
        raise TaxonomyError(parsed.reason)
    return parsed.species


def shown(name: str) -> str:
    """Quote a name for a message: short, and with everything that does not print written out."""
    short = name if len(name) <= 80 else f"{name[:77]}..."
    if not short.isprintable():
        short = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
    return f"'{short}'"


def _is_latin(text: str) -> bool:
    if not _LATIN.fullmatch(text) or text in PLACEHOLDERS:
        return False
    genus, epithet = text.lower().split(" ")
    return not {genus, epithet} & _NO_NAME and epithet not in _NO_EPITHET


def _read(names: Iterable[str]) -> dict[str, ParsedName]:
    cleaned = {name: _clean(name) for name in names}
    asked = [text for text, _, reason in cleaned.values() if not reason]
    answers = iter(nameparser.parse_all(asked, None, None, "ZOOLOGICAL"))
    return {
        name: ParsedName(given=name, reason=reason) if reason else _judge(name, text, recased, next(answers))
        for name, (text, recased, reason) in cleaned.items()
    }


def _clean(name: str) -> tuple[str, bool, str]:
    """Undo what transport did to a name; return it, whether the case of its epithet changed, and why it is refused."""
    text = _TAG.sub("", html.unescape(name))
    if not (text.isascii() and text.isprintable()) and (hidden := next(filter(_is_hostile, text), None)):
        return "", False, f"{shown(name)}: holds the control character U+{ord(hidden):04X}"
    text = normal_name(text.replace("_", " "))
    if not text:
        return "", False, "no scientific name is given" if not name.strip() else f"{shown(name)}: holds no name"
    if reason := _why_not(text, text.split()):
        return "", False, f"{shown(name)}: {reason}"
    words = _NOTE.sub(" ", text).split() or [text]
    words[0] = words[0].capitalize()
    second = words[1] if len(words) > 1 and words[1].isalpha() else ""
    recased = bool(second) and (second.isupper() or (len(words) == 2 and second.istitle()))
    if recased:
        words[1] = second.lower()
        words[2:] = [word.lower() if word.isupper() and word.isalpha() else word for word in words[2:]]
    return " ".join(words), recased, ""


def _why_not(text: str, words: list[str]) -> str:
    """Say what in a text the parser would guess at; empty if it may be asked."""
    if len(text) > MAX_CHARS:
        return f"{len(text)} characters are no name"
    foreign = "" if text.isascii() else next(filter(_is_foreign, text), "")
    if foreign:
        return f"holds {foreign}, U+{ord(foreign):04X} {unicodedata.name(foreign, 'unnamed')}, which is not Latin"
    bare = [word.strip("[](),;.&") for word in words]
    small = {word.lower() for word in bare[1:] if word.islower() or word.isupper()}
    if TIMES in text or "x" in {word.lower().strip("[]()") for word in words} or small & _HYBRID:
        return "a hybrid"
    joined = (bare[i + 1] for i, word in enumerate(bare[:-1]) if i > 1 and word in _JOIN)
    again = bare[0] in bare[2:] and any(mark in text for mark in ",&")
    if (
        re.search(r"[/|;+]", text)
        or again
        or any(w == bare[0] or (w.islower() and w not in _PARTICLES) for w in joined)
    ):
        return "names more than one species"
    if " ".join(words[:2]).capitalize() in PLACEHOLDERS:
        return "a placeholder of Xeno-canto, not a species"
    return "not identified to species" if "undescribed" in small else ""


def _judge(
    name: str, text: str, recased: bool, answer: nameparser.ParsedName | nameparser.Informal | None
) -> ParsedName:
    """Take what the parser read, unless it leaves the species open."""

    def refuse(reason: str) -> ParsedName:
        return ParsedName(given=name, reason=f"{shown(name)}: {reason}")

    if answer is None:
        return refuse(_no_name(text))
    if isinstance(answer, nameparser.Informal):
        return refuse("not identified to species")
    genus, epithet, below = answer.genus or "", answer.specific_epithet or "", answer.infraspecific_epithet or ""
    if answer.notho:
        return refuse("a hybrid")
    if answer.candidatus:
        return refuse("a bacterium")
    if not epithet:
        if answer.uninomial and " " not in text:
            return refuse("one word names a genus or a higher rank, not a species")
        return refuse("names a genus or a higher rank, not a species")
    if answer.type == "INFORMAL" or {epithet, below} & _UNSURE or answer.epithet_qualifier:
        return refuse("not identified to species")
    if answer.rank != "SPECIES" and answer.rank not in BELOW_SPECIES:
        return refuse(f"not identified to species, but as {answer.rank.lower().replace('_', ' ')}")
    if answer.doubtful or answer.unparsed or answer.state != "COMPLETE":
        return refuse(
            f"not a binomial name of one species{f': {answer.unparsed} is left over' * bool(answer.unparsed)}"
        )
    if _WIDE_SENSE.match(answer.taxonomic_note or ""):
        return refuse(f"meant in another sense ({answer.taxonomic_note})")
    whole = {genus, epithet} <= set(_WORD_ENDS.split(text))  # or the parser cut a word at a letter it did not like
    if not whole or not _GENUS.fullmatch(genus) or not _EPITHET.fullmatch(epithet) or {epithet, below} & _NO_EPITHET:
        return refuse("not a binomial name of one species")
    last = answer.combination_authorship.authors[-1:]
    if last and _AUTHOR_END.fullmatch(last[0].split()[-1]):
        return refuse("names more than one species" if " " in last[0] else "not a binomial name of one species")
    return ParsedName(given=name, species=f"{genus} {epithet}", below=below, recased=recased)


def _no_name(text: str) -> str:
    """Ask the parser what a text is that it cannot read."""
    try:
        nameparser.parse(text, None, None, "ZOOLOGICAL")
    except nameparser.UnparsableNameError as error:
        if error.code == "VIRUS":
            return "a virus"
        return _KINDS.get(error.name_type, "not a binomial name of one species")
    return "not a binomial name of one species"


def _is_foreign(char: str) -> bool:
    return char.isalpha() and not unicodedata.name(char, "").startswith("LATIN ")


def _is_hostile(char: str) -> bool:
    """Whether a character controls the terminal or the reading direction; spaces and the zero-width ones do not."""
    if char.isspace():
        return False
    return unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn") or unicodedata.bidirectional(char) in _BIDI
