"""Which words are spelled, declined or spoken alike: one at a time, and whole columns at once."""

import functools
import re
from collections.abc import Iterable

import polars as pl

_LATIN_END = re.compile(r"(rum|ra|er|us|um|is|os|on|es|ii|i|a|e)$")


def stem(name: str) -> str:
    """Reduce a binomial to the stem of its epithet, which a change of genus and gender leaves alone."""
    epithet = name.split(" ")[1]
    cut = _LATIN_END.sub("", epithet)
    return cut if len(cut) > 2 else epithet


def stems(names: pl.Series) -> pl.Series:
    """Reduce binomials as `stem` does."""
    epithet = names.str.extract("^[^ ]+ ([^ ]+)")
    cut = epithet.str.replace(_LATIN_END.pattern, "")
    return cut.zip_with(cut.str.len_chars() > 2, epithet)


@functools.lru_cache(maxsize=100_000)
def spoken(name: str) -> str:
    """Reduce a common name to its words: without case, apostrophes and hyphens."""
    return " ".join(re.findall(r"\w+", name.replace("'", "").replace("\u2019", "").casefold()))


def one_less(word: str) -> set[str]:
    """Write a word whole, and with one letter left out. Words that share one of these are spelled alike."""
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


def words_alike(words: Iterable[str], known: Iterable[str]) -> dict[str, list[str]]:
    """Find the known words, sorted, that are spelled like others and begin with the same letter."""
    ours, theirs = _all_one_less("word", words), _all_one_less("like", known)
    pairs = ours.join(theirs, on="text").select("word", "like").unique()
    is_other = pl.col("word") != pl.col("like")
    begins_so = pl.col("word").str.head(1) == pl.col("like").str.head(1)
    return dict(pairs.filter(is_other, begins_so).group_by("word").agg(pl.col("like").sort()).iter_rows())


def _all_one_less(name: str, words: Iterable[str]) -> pl.DataFrame:
    """Write words as `one_less` does: a column of the words, by this name, and `text`."""
    word = pl.col(name)
    table = pl.DataFrame({name: list(words)}, {name: pl.String}).with_columns(text=word)
    letters = table[name].str.len_chars()
    longest = int(letters.to_numpy().max(initial=0))
    less = [
        table.filter(letters > i).with_columns(text=word.str.head(i) + word.str.slice(i + 1)) for i in range(longest)
    ]
    return pl.concat([table, *less])
