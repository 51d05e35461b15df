"""Common names in several languages: Darwin Core tables of vernacular names, and BirdNET's label lists."""

import re
from pathlib import Path

import polars as pl

from biovita.errors import TaxonomyError
from biovita.taxonomy import backbone
from biovita.taxonomy.taxon import normal_name

SHORT = {  # languages that tables write out, by their code
    "english": "en",
    "french": "fr",
    "german": "de",
    "spanish": "es",
    "portuguese": "pt",
    "italian": "it",
    "dutch": "nl",
    "russian": "ru",
    "japanese": "ja",
    "chinese": "zh",
    **{"eng": "en", "fra": "fr", "fre": "fr", "deu": "de", "ger": "de", "spa": "es", "por": "pt", "ita": "it"},
    **{"nld": "nl", "dut": "nl", "rus": "ru", "jpn": "ja", "zho": "zh", "chi": "zh"},
}
_LABEL = re.compile(r"[A-Z][^_\t]*_[^_\t]+")  # BirdNET: `Turdus merula_Eurasian Blackbird`
_NAME, _LANGUAGE = "vernacularname", ("language", "languagecode")


def is_labels(path: Path) -> bool:
    """Whether a file is a BirdNET label list."""
    return path.suffix.lower() == ".txt" and bool(_LABEL.fullmatch(backbone.first_line(path).strip()))


def is_vernacular(columns: list[str]) -> bool:
    """Whether columns are those of a Darwin Core table of common names."""
    return _NAME in _plain(columns)


def language_of(path: Path) -> str:
    """Read the language off the name of a file: `en_us.txt` and `VernacularNames-english.csv` are `en`."""
    return short_language(re.split(r"[-.]", path.stem)[-1])


def short_language(language: str) -> str:
    """Bring a language to its two-letter code where it has one; regions are dropped (`en_us`, `pt-BR`)."""
    plain = re.split(r"[_-]", language.strip().lower())[0]
    return SHORT.get(plain, plain)


def read_common_names(path: Path) -> pl.DataFrame:
    """Read a table of common names, or a label list.

    Returns:
        `scientific_name` or `taxon_id`, as the file has it, `language` and `name`, in its order.

    Raises:
        TaxonomyError: it has neither numbers nor scientific names, or is not UTF-8.
    """
    if is_labels(path):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise TaxonomyError(f"{path}: its text is not UTF-8 ({error}); save it as UTF-8") from error
        pairs = [line.split("_", 1) for line in lines if _LABEL.fullmatch(line.strip())]
        table = pl.DataFrame(pairs, {"scientific_name": pl.String, "name": pl.String}, orient="row")
        language = pl.lit(language_of(path)).alias("language")
    else:
        table = backbone.scan(path).collect()
        plain = _plain(table.columns)
        spoken = next((plain[word] for word in _LANGUAGE if word in plain), None)
        key = next((word for word in ("id", "taxonid", "scientificname") if word in plain), None)
        if key is None:
            raise TaxonomyError(f"{path}: common names need a column taxonID or scientificName")
        ours = "scientific_name" if key == "scientificname" else "taxon_id"
        table = table.rename({plain[key]: ours, plain[_NAME]: "name"})
        if spoken is None:
            language = pl.lit(language_of(path)).alias("language")
        else:
            language = pl.col(spoken).fill_null("").map_elements(short_language, return_dtype=pl.String)
            language = language.alias("language")
    key = "scientific_name" if "scientific_name" in table.columns else "taxon_id"
    name = pl.col("name").map_elements(normal_name, return_dtype=pl.String)
    return table.select(key, language, name).filter(pl.col("name") != "", pl.col("language") != "")


def _plain(columns: list[str]) -> dict[str, str]:
    return {name.split(":")[-1].split("/")[-1].lower(): name for name in reversed(columns)}
