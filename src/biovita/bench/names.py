"""The texts that may stand for a species (the paper's fourth question): scientific, common, mixed, other languages.

A form is a `level` of text.parquet. Genus and family have their own name alone. A species has its scientific name
(`species`), its common name, the forms of training, and `common_name_de` and so on where the text index has such a
column. As in training, a missing common name becomes the scientific one; a missing name of another language is no text,
and scoring says so.
"""

from collections.abc import Sequence

import polars as pl

from biovita.errors import BenchError
from biovita.taxonomy.prompts import PROMPTS, training_prompts
from biovita.taxonomy.taxon import Taxon

OF_PROMPT = {"common": "common_name", "scientific": "species"}  # prompts that are called otherwise as a form
FORMS = tuple(OF_PROMPT.get(prompt, prompt) for prompt in PROMPTS)
USUAL = ("species", "common_name")
COMMON = ("common_name", "com_canon", "text")  # columns of the release and of ours that hold a common name
LANGUAGE = "common_name_"  # followed by the language's code


def forms_of(index: pl.DataFrame, asked: Sequence[str] = ()) -> list[str]:
    """Choose the forms: those asked for, else the usual ones as far as the index has names.

    Args:
        index: a text index.
        asked: forms by name.

    Raises:
        BenchError: a form that there is not.
    """
    languages = [column for column in index.columns if column.startswith(LANGUAGE)]
    has_common = any(column in index.columns for column in COMMON)
    known = [form for form in FORMS if has_common or "common" not in form] + languages
    for form in asked:
        if form not in known:
            raise BenchError(
                f"--names {form}: no such name form here; this benchmark has {', '.join(known)}"
                + ("" if languages or not has_common else "; `bench make` adds languages that the dataset has")
            )
    return list(dict.fromkeys(asked)) or [form for form in USUAL if form in known]


def texts_of(index: pl.DataFrame, forms: Sequence[str]) -> pl.DataFrame:
    """List the texts of a text index: `id`, `level`, `text`, sorted; the names of genus and family come with them.

    Args:
        index: ids, all different, with the ranks and common names of the release or of ours.
        forms: see `forms_of`; the scientific name is always among them.
    """
    common = next((column for column in COMMON if column in index.columns), None)
    rows = []
    for row in index.sort("id").iter_rows(named=True):
        given = next((row[column] for column in COMMON if row.get(column)), "") if common else ""
        taxon = Taxon(
            class_=row.get("class") or "",
            order=row.get("order") or "",
            family=row["family"] or "",
            genus=row["genus"] or "",
            species=row["species"],
            common_name=given,
        )
        prompts = zip(FORMS, training_prompts(taxon), strict=True)
        texts = {**dict(prompts), **{name: text for name, text in row.items() if name.startswith(LANGUAGE)}}
        wanted = {"genus": row["genus"], "family": row["family"], "species": row["species"]}
        wanted |= {form: texts[form] for form in forms if form != "species"}
        rows += [(row["id"], level, text) for level, text in wanted.items() if text]
    return pl.DataFrame(rows, ["id", "level", "text"], orient="row").sort("id", "level")
