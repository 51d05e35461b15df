"""What a worker reads in one go: a picture, a text, the clip that stands for a recording, or a few of its windows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from biovita.errors import MediaError
from biovita.media.audio import SAMPLE_RATE_HZ, audio_info, read_audio, resample
from biovita.media.window import CLIP_S, onset_clip, read_onset, windows

Modality = Literal["audio", "image", "text"]
Window = Literal["onset", "centre", "windows"]
Sound = Path | str | tuple[np.ndarray, int]
Item = tuple[Modality, Any] | MediaError  # a thing to embed, or why it cannot be
Span = tuple[float, float]  # start and end of a window in seconds

STRETCH = 12  # windows of a recording that are read in one go, so that memory does not grow with its length


@dataclass(frozen=True)
class Piece:
    """What one worker reads: a whole thing, or a few windows of a long recording.

    Attributes:
        thing: a sound, picture or text; or why there is none.
        spans: the windows to read of a recording; empty for its onset and for other things.
        begins: whether it is the first piece of its thing.
        ends: whether it is the last one.
    """

    modality: Modality
    thing: Any
    spans: list[Span] = field(default_factory=list)
    begins: bool = True
    ends: bool = True

    def clips(self) -> list[np.ndarray]:
        """Read the waves of a recording: float32, at most 10 s each; what lies past the end is left out.

        Raises:
            MediaError: it does not decode, or holds samples that are not finite.
        """
        if self.spans:
            start_s = self.spans[0][0]
            whole_s = self.spans[-1][1] - start_s
            if isinstance(self.thing, tuple):
                wave = resample(*self.thing, start_s=start_s, duration_s=whole_s)
            else:
                wave = read_audio(Path(self.thing), start_s=start_s, duration_s=whole_s)
            clips = [_slice(wave, start - start_s, end - start) for start, end in self.spans]
        elif isinstance(self.thing, tuple):
            clips = [onset_clip(*self.thing)]
        else:
            clips = [read_onset(Path(self.thing))]
        if not all(np.isfinite(clip).all() for clip in clips):
            raise MediaError("non_finite", name_of(self.thing))
        return [clip for clip in clips if len(clip)]  # an MP3's stated length may be too long


def name_of(thing: Any) -> str:
    """Name a sound, picture or text for a message."""
    return str(thing) if isinstance(thing, (str, Path)) else "a wave" if isinstance(thing, tuple) else "a picture"


def pieces_of(item: Item, window: Window) -> Iterator[Piece]:
    """Cut an item into what a worker reads in one go."""
    if isinstance(item, MediaError):
        yield Piece("text", item)
        return
    modality, thing = item
    if modality != "audio" or window == "onset":
        yield Piece(modality, thing)
        return
    try:
        length_s = len(thing[0]) / thing[1] if isinstance(thing, tuple) else audio_info(Path(thing)).duration_s
    except MediaError as error:
        yield Piece(modality, error)
        return
    if window == "windows":
        spans = windows(length_s, hop_s=CLIP_S)
    else:
        start_s = max(0.0, (length_s - CLIP_S) / 2)
        spans = [(start_s, start_s + CLIP_S)]
    for n in range(0, len(spans), STRETCH):
        yield Piece(modality, thing, spans[n : n + STRETCH], begins=n == 0, ends=n + STRETCH >= len(spans))


def clips_of(sound: Sound, *, window: Window) -> Iterator[np.ndarray]:
    """Cut a recording into the clips that stand for it, one stretch after the other: float32 waves of at most 10 s."""
    for piece in pieces_of(("audio", sound), window):
        if isinstance(piece.thing, MediaError):
            raise piece.thing
        yield from piece.clips()


def _slice(wave: np.ndarray, start_s: float, duration_s: float) -> np.ndarray:
    start = round(start_s * SAMPLE_RATE_HZ)
    return wave[start : start + round(duration_s * SAMPLE_RATE_HZ)]
