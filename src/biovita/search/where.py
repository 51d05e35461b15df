"""Filters on an archive: a small language of comparisons, read by us and only then written as LanceDB's own.

    species = 'Turdus merula' and month between 4 and 6 and not (device is null or lat < 50)

A comparison is a column, a sign (= != < <= > >=) and a value; or `in (…)`, `between … and …`, `like 'CC-BY%'`,
`is null`, `is not null`. They are joined by `and`, `or`, `not` and brackets. Texts and times stand in quotes, a quote
inside is doubled. Nothing of the text itself reaches the database: names of columns come from the table here, and
values are read as numbers, times or texts and written again.
"""

import difflib
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from biovita.errors import ArchiveError

MAX_CHARS, MAX_TERMS, MAX_DEPTH = 2_000, 100, 20
YEARS = (1700, 2200)  # a time literal of LanceDB counts nanoseconds and ends in 1677 and 2262
SIGNS = ("=", "!=", "<=", ">=", "<", ">")

_TOKEN = re.compile(
    r"(?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    r"|(?P<word>[A-Za-z_]+)(?![\w.])"
    r"|(?P<sign><=|>=|!=|=|<|>|\(|\)|,)"
)


def sql_text(value: str) -> str:
    """Write a text as a literal of the database."""
    return "'" + value.replace("'", "''") + "'"


def _text(kind: str, value: str) -> str:
    if kind != "text":
        raise ValueError("a text in quotes")
    return sql_text(value)


def _number(kind: str, value: str) -> str:
    if kind != "number" or not math.isfinite(float(value)):
        raise ValueError("a number")
    return repr(float(value))


def _whole(kind: str, value: str) -> str:
    if kind != "number" or not re.fullmatch(r"[+-]?\d{1,9}", value):
        raise ValueError("a whole number")
    return str(int(value))


def _time(kind: str, value: str) -> str:
    wanted = "a time in quotes such as '2024-05-31' or '2024-05-31T04:30Z'"
    try:
        if kind != "text":
            raise ValueError
        found = datetime.fromisoformat(value)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(wanted) from None
    if not YEARS[0] <= found.year <= YEARS[1]:
        raise ValueError(f"a time from {YEARS[0]} to {YEARS[1]}")
    return f"timestamp '{found:%Y-%m-%dT%H:%M:%S.%f}Z'"


# name in a filter -> column, reader of its values
COLUMNS: dict[str, tuple[str, Callable[[str, str], str]]] = {
    "id": ("id", _text),
    "path": ("path", _text),
    "modality": ("modality", _text),
    "species": ("species", _text),
    "genus": ("genus", _text),
    "device": ("device", _text),
    "licence": ("licence", _text),
    "rights_holder": ("rights_holder", _text),
    "recorded_at": ("recorded_at", _time),
    "month": ("month", _whole),
    "hour": ("hour", _whole),
    "lat": ("latitude_deg", _number),
    "lon": ("longitude_deg", _number),
    "duration": ("duration_s", _number),
}


def read_filter(text: str) -> str:
    """Check a filter and write it as a condition of the database.

    Raises:
        ArchiveError: what is wrong, and where.
    """
    if len(text) > MAX_CHARS:
        raise ArchiveError(f"where: {len(text):,} characters; at most {MAX_CHARS:,} are read")
    if not text.isprintable():
        raise ArchiveError(f"where {_shown(text)}: holds characters that cannot be printed; leave them out")
    if not text.strip():
        raise ArchiveError('where: is empty; give a comparison such as "month = 5", or leave it out')
    return _Reader(text).read()


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")


class _Reader:
    """Reads from left to right: `or` of `and` of `not`, brackets or a comparison."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            found = _TOKEN.match(text, at)
            if not found:
                self.fail(at, "this cannot be read")
            self.tokens.append((str(found.lastgroup), found.group(), at))
            at = found.end()
        self.n = self.depth = self.n_terms = 0

    def read(self) -> str:
        condition = self.any()
        if self.n < len(self.tokens):
            self.fail(self.at, "expected 'and', 'or' or the end")
        return condition

    @property
    def at(self) -> int:
        return self.tokens[self.n][2] if self.n < len(self.tokens) else len(self.text)

    def fail(self, at: int, why: str) -> NoReturn:
        rest = self.text[at : at + 20]
        where = f"at {_shown(rest)}" if rest else "at its end"
        raise ArchiveError(f"where {_shown(self.text)}: {why} ({where}); docs/archive.md has the filters")

    def accept(self, *words: str) -> str | None:
        """Take the next token if it is one of these signs or words."""
        if self.n < len(self.tokens):
            kind, text, _ = self.tokens[self.n]
            if kind in ("word", "sign") and text.lower() in words:
                self.n += 1
                return text.lower()
        return None

    def expect(self, *words: str) -> str:
        found = self.accept(*words)
        if found is None:
            self.fail(self.at, f"expected {' or '.join(repr(word) for word in words)}")
        return found

    def any(self) -> str:
        parts = [self.all()]
        while self.accept("or"):
            parts.append(self.all())
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def all(self) -> str:
        parts = [self.one()]
        while self.accept("and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def one(self) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(self.at, f"nested more than {MAX_DEPTH} deep")
        if self.accept("not"):
            condition = f"(NOT {self.one()})"
        elif self.accept("("):
            condition = self.any()
            self.expect(")")
        else:
            condition = self.comparison()
        self.depth -= 1
        return condition

    def comparison(self) -> str:
        column, read = self.column()
        if self.accept("is"):
            negated = "NOT " if self.accept("not") else ""
            self.expect("null")
            return f"({column} IS {negated}NULL)"
        if self.accept("between"):
            low = self.value(read)
            self.expect("and")
            return f"({column} >= {low} AND {column} <= {self.value(read)})"
        if self.accept("in"):
            self.expect("(")
            values = [self.value(read)]
            while self.accept(","):
                values.append(self.value(read))
            self.expect(")")
            return f"({column} IN ({', '.join(values)}))"
        if read is _text and self.accept("like"):
            return f"({column} LIKE {self.value(read)})"
        sign = self.expect(*(("=", "!=") if read is _text else SIGNS), "in", "is")
        return f"({column} {sign} {self.value(read)})"

    def column(self) -> tuple[str, Callable[[str, str], str]]:
        at = self.at
        kind, text, _ = self.tokens[self.n] if self.n < len(self.tokens) else ("end", "", at)
        if kind != "word":
            self.fail(at, "expected a column")
        if text.lower() not in COLUMNS:
            near = difflib.get_close_matches(text.lower(), COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COLUMNS)}"
            self.fail(at, f"no column {_shown(text)}; {hint}")
        self.n += 1
        return COLUMNS[text.lower()]

    def value(self, read: Callable[[str, str], str]) -> str:
        self.n_terms += 1
        if self.n_terms > MAX_TERMS:
            self.fail(self.at, f"more than {MAX_TERMS} values")
        at = self.at
        kind, text, _ = self.tokens[self.n] if self.n < len(self.tokens) else ("end", "", at)
        if kind == "text":
            text = text[1:-1].replace(text[0] * 2, text[0])
        try:
            written = read(kind, text)
        except ValueError as error:
            self.fail(at, f"expected {error}")
        self.n += 1
        return written
