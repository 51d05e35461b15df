"""Files to answers, however many and however long, in constant memory.

1. The checker's children look at every file (`media.check`): what is refused gets its reason and goes no further.
2. Recordings are cut into windows of 10 s and read in one pass; pictures are read whole. Both are embedded in one
   stream (`Encoder.stream`) and named block by block.
3. Windows become detections (`identify.windows`); a recording as a whole is the mean of its windows.

What comes out is a row of blocks. A block depends on nothing but its own files and windows and the `State` before it:
who keeps the blocks (`identify.journal`) goes on behind the last one, with the same bits.

Windows stand back to back unless asked otherwise, so that the mean of a recording is the vector that `biovita embed
--window windows` stores; a hop of 5 s hears every call whole that is shorter than 5 s, in twice the time.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from biovita.embed import extract
from biovita.errors import ConfigError, MediaError
from biovita.identify.answer import WINDOW, Answer, Identifier
from biovita.identify.blocks import Block, Ended, Identified, Opened, State, in_order, stamp_of
from biovita.identify.windows import Detection, Merging, names_of
from biovita.media.audio import SAMPLE_RATE_HZ, audio_info, read_windows
from biovita.media.check import Limits, Verdict, check_files
from biovita.media.headers import read_header
from biovita.media.held import Held
from biovita.media.image import read_image
from biovita.media.window import CLIP_S, windows
from biovita.models.encoder import Embedded, Item
from biovita.models.pieces import Span
from biovita.taxonomy.rank import Rank

# A user's own recordings may be long; an upload or a download may not.
OWN_FILES: Final = Limits(max_duration_s=14 * 86_400.0, seconds=3600.0)
EMBEDDING: Final = extract.How(window=WINDOW)


class Seen(Protocol):
    """Is told how far the reading has come."""

    def __call__(self, file: int, share: float, *, is_bad: bool = False) -> None:
        """Take a file's number, the share of it that has been read, and whether it is refused."""
        ...


@dataclass(frozen=True, kw_only=True)
class How:
    """How files are named.

    Attributes:
        hop_s: seconds from one window of a recording to the next.
        k: most taxa in an answer.
        rank: of these taxa.
        confidence: that the back-off asks for.
        min_score: taxa below it are left out; a window then names all that reach it.
    """

    hop_s: float = CLIP_S
    k: int = 5
    rank: Rank = "species"
    confidence: float = 0.8
    min_score: float | None = None

    def asked(self) -> dict[str, Any]:
        """Return what `Identifier.answers` takes."""
        return {name: getattr(self, name) for name in ("k", "rank", "confidence", "min_score")}


def identify_file(identifier: Identifier, path: Path | Held, modality: str, *, how: How | None = None) -> Identified:
    """Name one file that has passed the check.

    Raises:
        ConfigError: the modality is neither audio nor image.
        MediaError: it does not decode.
    """
    if modality not in ("audio", "image"):
        raise ConfigError(f"modality '{modality}': give audio or image")
    how = how or How()
    opened, detections, found = Opened(), [], []
    for block in _answered(identifier, _things(0, path, modality, how.hop_s), how):
        for place, result in block:
            if isinstance(result, MediaError):
                raise result
            vector, answer = result
            detections += opened.add(place.window, place.span, vector, names_of(answer, min_score=how.min_score))
            if place.span:
                found.append((*place.span, answer))
    vector = opened.vector()
    return Identified(
        path=str(path),
        modality=modality,
        duration_s=found[-1][1] if found else None,
        whole=identifier.answers(vector[None], modality, **how.asked())[0],
        detections=in_order([*detections, *opened.merging.open]),
        windows=found,
        vector=vector,
    )


class Place(NamedTuple):
    """Where a vector comes from.

    Attributes:
        file: its number.
        window: its number in the file.
        span: of the window; None for a picture.
    """

    file: int
    window: int
    span: Span | None


def identify_files(
    identifier: Identifier,
    files: Sequence[Path],
    how: How,
    *,
    groups: Sequence[str] | None = None,
    state: State | None = None,
    seen: Seen | None = None,
) -> Iterator[Block]:
    """Name files, whatever they are.

    Args:
        identifier: names vectors.
        files: all of them, also those that are done.
        how: windows and answers.
        groups: of every file the animal it shows, those of one side by side; None: each stands for itself.
        state: after the last block that is there.
        seen: is told how far the reading has come.
    """
    fold = _Fold(identifier, how, groups, state or State())
    for answered in _answered(identifier, fold.things(files, seen or _unseen), how):
        for place, result in answered:
            fold.add(place, result)
        yield fold.block()
    if fold.opened:
        fold.end()
        yield fold.block()


class _Fold:
    """Puts answers together to files and groups of files, in the order in which they are read."""

    def __init__(self, identifier: Identifier, how: How, groups: Sequence[str] | None, state: State) -> None:
        self.identifier, self.how, self.groups = identifier, how, groups
        self.n_files, self.opened, self.group = state.n_files, state.opened, list(state.group)
        self.looked: dict[int, Opened] = {}  # files between the check and their first vector
        self.detections: list[Detection] = []
        self.ended: list[Ended] = []

    def things(self, files: Sequence[Path], seen: Seen) -> Iterator[tuple[Place, Item]]:
        """Yield what is to be embedded: a picture, a window, or why a file is refused."""
        n = self.n_files
        if self.opened and self.opened.verdict:
            yield from self._of_file(n, files[n], self.opened.verdict, seen, self.opened.n_windows)
            n += 1
        rest = files[n:]
        verdicts = check_files(rest, workers=max(1, min(os.cpu_count() or 1, len(rest))), limits=OWN_FILES)
        for number, verdict in enumerate(verdicts, n):
            verdict = replace(verdict, fingerprint=None, elapsed_s=0.0)  # so that equal runs leave equal journals
            self.looked[number] = Opened(verdict=verdict, stamp=stamp_of(files[number]))
            yield from self._of_file(number, files[number], verdict, seen, 0)

    def _of_file(self, n: int, path: Path, verdict: Verdict, seen: Seen, n_done: int) -> Iterator[tuple[Place, Item]]:
        if verdict.ok and verdict.modality:
            things = _things(n, path, verdict.modality, self.how.hop_s, n_done)
        else:
            things = iter([(Place(n, 0, None), MediaError(verdict.reason or "not_media", verdict.detail))])
        is_bad = False
        for place, item in things:
            yield place, item
            is_bad = isinstance(item, MediaError)
            if place.span and verdict.duration_s:
                seen(n, min(1.0, place.span[1] / verdict.duration_s))
        seen(n, 1.0, is_bad=is_bad)

    def add(self, place: Place, result: MediaError | tuple[np.ndarray, Answer]) -> None:
        """Take what came of the next thing."""
        if place.file > self.n_files:
            self.end()
        if place.file < self.n_files:  # one of its windows was refused, and so was the file
            return
        self.opened = self.opened or self.looked.pop(place.file)
        if isinstance(result, MediaError):
            assert self.opened.verdict
            verdict = replace(self.opened.verdict, verdict="reject", reason=result.reason, detail=result.detail)
            self._end(Ended(verdict=verdict, stamp=self.opened.stamp))
            return
        vector, answer = result
        names = names_of(answer, min_score=self.how.min_score)
        self.detections += self.opened.add(place.window, place.span, vector, names)
        if place.span is None:
            self.end()

    def end(self) -> None:
        """End the file that is open."""
        assert self.opened
        assert self.opened.verdict
        vector, modality = self.opened.vector(), str(self.opened.verdict.modality)
        self.group.append((modality, vector))
        whole = self.identifier.answers(vector[None], modality, **self.how.asked())[0]
        found = [*self.detections, *self.opened.merging.open]
        header = read_header(Path(self.opened.path), modality)
        self._end(
            Ended(verdict=self.opened.verdict, stamp=self.opened.stamp, header=header, whole=whole, detections=found)
        )

    def _end(self, one: Ended) -> None:
        n = self.n_files
        ends_group = not self.groups or n + 1 == len(self.groups) or self.groups[n + 1] != self.groups[n]
        answer = self._together() if self.groups and ends_group else None
        self.ended.append(replace(one, ends_group=ends_group, together=answer))
        if ends_group:
            self.group = []
        self.n_files, self.opened, self.detections = n + 1, None, []

    def _together(self) -> Answer | None:
        found = {
            kind: np.stack([vector for modality, vector in self.group if modality == kind])
            for kind in dict.fromkeys(modality for modality, _ in self.group)
        }
        return self.identifier.together(found, **self.how.asked()) if found else None

    def block(self) -> Block:
        """Take out what has come together since the last block."""
        opened = self.opened and replace(self.opened, merging=Merging(self.opened.merging.open))  # as it is now
        state = State(n_files=self.n_files, opened=opened, group=tuple(self.group))
        found = Block(ended=self.ended, detections=self.detections, state=state)
        self.ended, self.detections = [], []
        return found


def _unseen(file: int, share: float, *, is_bad: bool = False) -> None:
    pass


def _things(n: int, path: Path | Held, modality: str, hop_s: float, n_done: int = 0) -> Iterator[tuple[Place, Item]]:
    """Cut a file into what is embedded: itself if it is a picture, or its windows from number `n_done` on."""
    if modality == "image":
        try:
            yield Place(n, 0, None), ("image", read_image(path) if isinstance(path, Held) else path)
        except MediaError as error:
            yield Place(n, 0, None), error
        return
    is_empty = not n_done
    try:
        spans = windows(audio_info(path).duration_s, hop_s)[n_done:]
        for window, (span, wave) in enumerate(zip(spans, read_windows(path, spans), strict=True), n_done):
            if len(wave):  # an MP3's stated length may be too long
                yield Place(n, window, _heard(span, len(wave))), ("audio", (wave, SAMPLE_RATE_HZ))
                is_empty = False
    except MediaError as error:
        yield Place(n, 0, None), error
        return
    if is_empty:
        yield Place(n, 0, None), MediaError("no_samples", str(path))


def _heard(span: Span, n_samples: int) -> Span:
    start_s, end_s = span
    is_whole = n_samples == round((end_s - start_s) * SAMPLE_RATE_HZ)
    return start_s, end_s if is_whole else start_s + n_samples / SAMPLE_RATE_HZ


def _answered(
    identifier: Identifier, things: Iterable[tuple[Place, Item]], how: How
) -> Iterator[list[tuple[Place, MediaError | tuple[np.ndarray, Answer]]]]:
    """Embed and name things block by block; each comes back with its place, vector and answer, or why there is none."""
    places: deque[Place] = deque()

    def items() -> Iterator[Item]:
        for place, item in things:
            places.append(place)
            yield item

    for block in extract.stream(identifier.encoder, items(), EMBEDDING):
        found: dict[int, tuple[np.ndarray, Answer]] = {}
        for modality in ("audio", "image"):
            there = {n: one for n, one in enumerate(block) if isinstance(one, Embedded) and one.modality == modality}
            if there:
                vectors = np.concatenate([one.vectors for one in there.values()])
                answers = identifier.answers(vectors, modality, **how.asked())
                found.update(zip(there, zip(vectors, answers, strict=True), strict=True))
        yield [(places.popleft(), one if isinstance(one, MediaError) else found[n]) for n, one in enumerate(block)]
