"""Makers of small Darwin Core archives in the layouts that are met in the field."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

DWC = "http://rs.tdwg.org/dwc/terms/"
DC = "http://purl.org/dc/terms/"
GBIF = "http://rs.gbif.org/terms/1.0/"
MULTIMEDIA = GBIF + "Multimedia"

TERMS = {
    **{name: GBIF + name for name in ("gbifID", "datasetKey")},
    **{
        name: DC + name
        for name in (
            *("type", "format", "identifier", "references", "title", "description", "source", "audience", "created"),
            *("creator", "contributor", "publisher", "license", "rightsHolder", "language"),
        )
    },
}
MULTIMEDIA_TERMS = (  # of a GBIF download of 2025
    *("gbifID", "type", "format", "identifier", "references", "title", "description", "source", "audience"),
    *("created", "creator", "contributor", "publisher", "license", "rightsHolder"),
)


def term(name: str) -> str:
    """Write a short name as a term; a name that is a URI already stays."""
    return name if "/" in name else TERMS.get(name, DWC + name)


def table_xml(
    tag: str,
    row_type: str,
    location: str,
    names: Sequence[str],
    *,
    defaults: Mapping[str, str] | None = None,
    separator: str = "\\t",
    quote: str = "",
    newline: str = "\\n",
    encoding: str = "UTF-8",
    header_lines: int = 1,
) -> str:
    """Describe one table; its first field is the id."""
    fields = "".join(f'<field index="{i}" term={quoteattr(term(name))}/>' for i, name in enumerate(names))
    fields += "".join(
        f"<field term={quoteattr(term(name))} default={quoteattr(value)}/>" for name, value in (defaults or {}).items()
    )
    key = "id" if tag == "core" else "coreid"
    return (
        f"<{tag} encoding={quoteattr(encoding)} fieldsTerminatedBy={quoteattr(separator)} "
        f"linesTerminatedBy={quoteattr(newline)} fieldsEnclosedBy={quoteattr(quote)} "
        f'ignoreHeaderLines="{header_lines}" '
        f"rowType={quoteattr(row_type)}><files><location>{location}</location></files>"
        f'<{key} index="0"/>{fields}</{tag}>'
    )


def meta_xml(*tables: str) -> str:
    """Put tables into a descriptor."""
    return f'<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">{"".join(tables)}</archive>'


def tsv(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Write rows as GBIF does: tabs, no quotes, a line of names."""
    return "".join("\t".join(line) + "\n" for line in [names, *([row.get(name, "") for name in names] for row in rows)])


def write_zip(path: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write a zip file with these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write the same files into a folder."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def gbif_files(
    occurrences: Sequence[Mapping[str, str]],
    media: Sequence[Mapping[str, str]],
    *,
    names: Sequence[str] = (),
) -> dict[str, str | bytes]:
    """Make the files of a small GBIF download; `names` are the columns of the occurrences, if not those in use."""
    names = names or list(dict.fromkeys(["gbifID", *(name for row in occurrences for name in row)]))
    return {
        "meta.xml": meta_xml(
            table_xml("core", DWC + "Occurrence", "occurrence.txt", names),
            table_xml("extension", MULTIMEDIA, "multimedia.txt", MULTIMEDIA_TERMS),
        ),
        "occurrence.txt": tsv(names, occurrences),
        "multimedia.txt": tsv(MULTIMEDIA_TERMS, media),
    }
