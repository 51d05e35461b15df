"""The only way a sound is read or written: soundfile or PyAV, whichever is faster and exact, and soxr to 48 kHz.

A read decodes and resamples only the window that is asked for. The window is cut on a sample grid common to both
rates, so it holds the same samples as that stretch of a full read (to the resampler's accuracy).
Only `open_container` and `Decoding` are for bytes of strangers, in the checker's child; all else is for files that
passed the check, or that we wrote.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import av.error
import numpy as np
import soundfile
import soxr
from av.audio.stream import AudioStream
from av.container import InputContainer

from biovita.errors import MediaError
from biovita.media.held import Held, as_file
from biovita.media.sniff import is_mp3_frame

SAMPLE_RATE_HZ = 48_000
WRITE_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a")
SOUNDFILE_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff")

MARGIN = 256  # samples of the slower rate read around a window, so that the resampler's filter (HQ) sees its neighbours
PREROLL_S = 0.25  # decoded and dropped after a seek: AAC frames lean on the frame before them, Opus on 80 ms
MP3_PREROLL_S = 0.5  # MP3 frames use up to 511 bytes of those before them: half a second at the lowest rate
MP3_SLACK_S = 0.1  # an MP3 may state a few frames more than it has
BLOCK = 2**15  # samples that FFmpeg's frames are joined to: few calls, yet small enough for the cache
AAC_BIT_RATE = 128_000
UNKNOWN_FRAMES = 2**62  # soundfile's number for a length that nothing states is about twice this
MOST_PLANES = 7  # PyAV 18.1 reads past the end of the planes of a frame that has more, and crashes
FULL_SCALE = {"flt": 1, "fltp": 1, "s16": 2**15, "s16p": 2**15, "s32": 2**31, "s32p": 2**31}  # FFmpeg's sample formats

# FFmpeg names. The mov demuxer also reads m4a and mp4.
AUDIO_FORMATS = "wav,flac,mp3,ogg,mov,aiff"
AUDIO_CODECS = ("flac", "mp3", "mp3float", "vorbis", "opus", "aac", "alac")  # and every pcm_*


class AudioInfo(NamedTuple):
    """Length and layout of a sound file."""

    duration_s: float
    sample_rate_hz: int
    n_channels: int


def read_audio(path: Path | Held, *, start_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Read a window of a sound as float32 [n_samples], mono (mean of the channels), at 48 kHz.

    A window that reaches past the end is shorter than asked, down to no samples; `window.fit` pads it.

    Args:
        path: a file that passed the check, or that we wrote.
        start_s: where the window begins, at least 0.
        duration_s: its length; None reads to the end.

    Raises:
        MediaError: the file is missing or does not decode.
    """
    if start_s < 0 or (duration_s is not None and duration_s < 0):
        raise ValueError(f"window of {duration_s} s at {start_s} s: both must be at least 0")
    wave, rate_hz, span = _read(as_file(path), start_s, duration_s)
    return _resample(wave, rate_hz, span)


def read_windows(path: Path | Held, spans: Sequence[tuple[float, float]]) -> Iterator[np.ndarray]:
    """Read windows of a sound in one pass, however long it is: of each the samples that `read_audio` gives.

    Only the windows' neighbourhood is held. Where the first begins late, formats without loss begin there; all others
    are decoded from the start, so that a window holds the same bits wherever the pass begins.

    Args:
        path: a file that passed the check, or that we wrote.
        spans: start and end of the windows in seconds, sorted by their starts.

    Raises:
        MediaError: the file is missing or does not decode.
    """
    path = as_file(path)
    n_read = 0
    if spans and path.suffix.lower() in SOUNDFILE_SUFFIXES:
        # what it cannot read to the end, FFmpeg may; of an MP3 it loses samples between one read and the next
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(_given(path)) as file:
            is_ours = file.format != "MP3" and file.subtype != "VORBIS"  # which FFmpeg decodes in half the time
            if is_ours and _seeks(file, path, None):
                first = 0 if file.subtype == "OPUS" else _window(spans[0][0], 0, file.samplerate)[0]
                for wave in _cut(_soundfile_blocks(file, first), first, spans, file.samplerate):
                    yield wave
                    n_read += 1
                return
    if spans:
        with _opened(path) as container:
            blocks = Decoding(container).blocks(0, _declared_end(container))
            yield from _cut(blocks, 0, spans[n_read:], container.streams.audio[0].rate)


def read_native(path: Path) -> tuple[np.ndarray, int]:
    """Read a whole sound at its own rate: float32 [n_samples], mono, and samples a second.

    Raises:
        MediaError: the file is missing or does not decode.
    """
    wave, rate_hz, _ = _read(Path(path), 0.0, None)
    return wave, rate_hz


def audio_info(path: Path | Held) -> AudioInfo:
    """Read length, rate and channels from the header, without decoding.

    Many an MP3 states no length; then its packets are counted.

    Raises:
        MediaError: the file is missing, or holds no sound.
    """
    path = as_file(path)
    if path.suffix.lower() in SOUNDFILE_SUFFIXES:
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(_given(path)) as file:
            if _seeks(file, path, None):
                return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)
    with _opened(path) as container:
        stream = container.streams.audio[0]
        stated_s = None if container.format.name == "mp3" else declared_s(stream)
        if stated_s is None:
            n_ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            stated_s = float(n_ticks * _time_base(stream))
        return AudioInfo(stated_s, stream.rate, stream.channels)


def write_audio(path: Path, wave: np.ndarray, sample_rate_hz: int) -> None:
    """Write a sound in the format its suffix names; equal input gives equal bytes.

    Args:
        path: .wav and .flac (16 bit), .mp3, or .m4a (AAC).
        wave: float samples in [-1, 1], [n_samples] or [n_samples, n_channels]; what lies outside is clipped.
        sample_rate_hz: MP3 and AAC take only the usual rates from 8 to 48 kHz.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        raise ValueError(f"{path}: cannot write {suffix or 'a file without a suffix'}; use {', '.join(WRITE_SUFFIXES)}")
    if suffix == ".m4a":
        _write_aac(path, np.atleast_2d(wave.T).astype(np.float32), sample_rate_hz)
    else:
        soundfile.write(path, wave, sample_rate_hz)


def open_container(file: BinaryIO) -> InputContainer:
    """Open bytes with FFmpeg so that they can reach no other file and no network, whatever they claim to be.

    The caller opens the file and FFmpeg never learns its name: a name that ends in .m3u8 is enough to make it connect.
    """
    container = av.open(
        _Nameless(file),
        "r",
        metadata_errors="replace",
        options={
            "protocol_whitelist": "",
            "format_whitelist": AUDIO_FORMATS,
            "max_probe_packets": "1",  # else FFmpeg looks through megabytes of a WAV for other codecs inside: 30 ms
        },
    )
    assert isinstance(container, InputContainer)
    return container


def declared_s(stream: AudioStream) -> float | None:
    """Return the length that the header states, or FFmpeg's guess from the size where it states none (MP3, WAV)."""
    return float(stream.duration * _time_base(stream)) if stream.duration else None


def mp3_stated_s(file: BinaryIO) -> float | None:
    """Read the length that an MP3's Xing or Info frame states, padding included; None where there is no such frame."""
    frame = _mp3_head(file)
    at = max(frame.find(b"Xing", 0, 64), frame.find(b"Info", 0, 64))
    if not is_mp3_frame(frame) or at < 0 or len(frame) < at + 12:
        return None
    flags, n_frames = struct.unpack_from(">II", frame, at + 4)
    halvings = {3: 0, 2: 1, 0: 2}[frame[1] >> 3 & 3]  # of the rate, in MPEG 1, 2 and 2.5
    rate_hz = (44_100, 48_000, 32_000)[frame[2] >> 2 & 3] >> halvings
    return n_frames * (576 if halvings else 1152) / rate_hz if flags & 1 else None


def is_allowed_codec(name: str) -> bool:
    """Say whether we decode this FFmpeg codec; its own whitelist is not enforced for decoders that PyAV opens."""
    return name.startswith("pcm_") or name in AUDIO_CODECS


class Decoding:
    """Decode the first audio stream of a container, from where it stands, to float32.

    Packets that do not decode, or to another rate or layout than the first, are skipped and counted: FFmpeg reports
    broken frames and bytes behind the end of an MP3 that way.

    Attributes:
        n_packets: read so far.
        n_bad_packets: of these did not decode.
        n_bad_at_end: of these came after the last one that did.
    """

    def __init__(self, container: InputContainer) -> None:
        self.container = container
        self.n_packets = 0
        self.n_bad_packets = 0
        self.n_bad_at_end = 0
        self._to_packed = av.AudioResampler(format="flt")

    def mono(self, first: int, stop: int | None) -> np.ndarray:
        """Decode the samples [first, stop) of the sound and mix them down: float32 [n]."""
        return np.concatenate([np.zeros(0, np.float32), *self.blocks(first, stop)])

    def blocks(self, first: int, stop: int | None) -> Iterator[np.ndarray]:
        """Decode the samples [first, stop) of the sound and mix them down, block by block: float32 [n]."""
        for at, frame in self._joined(BLOCK, first, stop):
            mixed = self._mixed(frame)
            yield mixed[max(0, first - at) : None if stop is None else max(0, stop - at)]

    def chunks(self, n_samples: int) -> Iterator[np.ndarray]:
        """Yield all samples in blocks of at least `n_samples`, but for the last: float32 [n_channels, n]."""
        for _, frame in self._joined(n_samples, None, None):
            yield self._samples(frame)

    def _joined(self, n_samples: int, first: int | None, stop: int | None) -> Iterator[tuple[int, av.AudioFrame]]:
        """Join the frames that reach into [first, stop), in C, since an AAC frame has only 1,024 samples.

        With each comes its position in the sound: of the first by its time stamp, of the others by the samples between.
        """
        stream = self.container.streams.audio[0]
        origin = stream.start_time or 0  # in FFmpeg an MP3 begins at its encoder's delay
        samples_per_tick = float(_time_base(stream) * stream.rate)
        fifo, at, is_inside = av.AudioFifo(), 0, first is None
        for frame in self._frames():
            if not is_inside:
                assert first is not None
                at = at if frame.pts is None else round((frame.pts - origin) * samples_per_tick)
                is_inside = at + frame.samples > first
                if not is_inside:
                    at += frame.samples
                    continue
            frame.pts = None  # else it refuses a gap
            fifo.write(frame)
            n_held = fifo.samples
            is_end = stop is not None and at + n_held >= stop
            if (n_held >= n_samples or is_end) and (joined := fifo.read()):
                yield at, joined
                at += n_held
            if is_end:
                return
        if joined := fifo.read():
            yield at, joined

    def _frames(self) -> Iterator[av.AudioFrame]:
        kind = None
        for packet in self.container.demux(self.container.streams.audio[0]):
            self.n_packets += 1
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                frames = None
            is_bad = frames is None
            for frame in frames or ():
                kind = kind or _kind(frame)
                is_bad |= _kind(frame) != kind
            if frames is None or is_bad:
                self.n_bad_packets += 1
                self.n_bad_at_end += 1
                continue
            if frames:
                self.n_bad_at_end = 0
                yield from frames

    def _mixed(self, frame: av.AudioFrame) -> np.ndarray:
        if frame.format.name == "fltp" and frame.layout.nb_channels <= MOST_PLANES:
            planes: tuple[Any, ...] = frame.planes  # buffers, which their stubs do not say
            return mix_down([np.frombuffer(plane, np.float32, frame.samples) for plane in planes])
        return mix_down(self._samples(frame))

    def _samples(self, frame: av.AudioFrame) -> np.ndarray:
        n_channels, name = frame.layout.nb_channels, frame.format.name
        if name not in FULL_SCALE or (frame.format.is_planar and n_channels > MOST_PLANES):
            [frame] = self._to_packed.resample(frame)
            name = "flt"
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(-1, n_channels).T
        return samples if FULL_SCALE[name] == 1 else np.multiply(samples, 1 / FULL_SCALE[name], dtype=np.float32)


class _Nameless:
    """A file that FFmpeg can read and seek, and whose name it cannot see."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _kind(frame: av.AudioFrame) -> tuple[int, int, str]:
    return frame.sample_rate, frame.layout.nb_channels, frame.format.name


def _time_base(stream: AudioStream) -> Fraction:
    return stream.time_base or Fraction(1, stream.rate)


class _Span(NamedTuple):
    """What to cut from the resampled samples: `skip` dropped, then at most `n`."""

    skip: int
    n: int | None


def _window(start_s: float, duration_s: float | None, rate_hz: int) -> tuple[int, int | None, _Span]:
    """Choose the source samples [first, stop) from which a window can be resampled, and the cut that is the window."""
    ratio = Fraction(SAMPLE_RATE_HZ, rate_hz)
    start = round(start_s * SAMPLE_RATE_HZ)
    margin = 0 if ratio == 1 else math.ceil(MARGIN * max(1, 1 / ratio))
    grid = ratio.denominator  # source samples at multiples of this coincide with samples at 48 kHz
    first = max(0, (math.floor(start / ratio) - margin) // grid * grid)
    skip = start - int(first * ratio)
    if duration_s is None:
        return first, None, _Span(skip, None)
    n = round(duration_s * SAMPLE_RATE_HZ)
    return first, math.ceil((start + n) / ratio) + margin, _Span(skip, n)


def resample(
    wave: np.ndarray, sample_rate_hz: int, *, start_s: float = 0.0, duration_s: float | None = None
) -> np.ndarray:
    """Bring a window of mono samples of any rate to 48 kHz: float32 [n_samples]. Only the window is resampled."""
    first, stop, span = _window(start_s, duration_s, sample_rate_hz)
    return _resample(wave[first:stop], sample_rate_hz, span)


def mix_down(channels: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Mix [n_channels, n] down to their mean [n]; adding channels is several times faster than `mean` over few."""
    if len(channels) == 1:
        return channels[0]
    mixed = channels[0] + channels[1]
    for channel in channels[2:]:
        mixed += channel
    mixed /= np.float32(len(channels))
    return mixed


def _resample(wave: np.ndarray, rate_hz: int, span: _Span) -> np.ndarray:
    if rate_hz != SAMPLE_RATE_HZ and len(wave):
        wave = soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    wave = wave[span.skip : None if span.n is None else span.skip + span.n]
    return np.ascontiguousarray(wave, np.float32)


def _given(path: Path | Held) -> Path | BinaryIO:
    return path.open() if isinstance(path, Held) else path


def _seeks(file: soundfile.SoundFile, path: Path | Held, stop: int | None) -> bool:
    """Say whether soundfile finds the samples before `stop`, or the end, where FFmpeg finds them."""
    if file.format != "MP3":
        return 0 < file.frames < UNKNOWN_FRAMES
    with path.open("rb") as raw:
        if mp3_stated_s(raw) is not None:
            return True
        # it guesses the length and would cut the sound there; and what precedes the first frame, each counts in its way
        return stop is not None and stop <= file.frames and is_mp3_frame(_mp3_head(raw))


def _mp3_head(file: BinaryIO) -> bytes:
    """Read the beginning of what follows an MP3's ID3 tag: its first frame."""
    file.seek(0)
    tag = file.read(10)
    start = 0
    if tag.startswith(b"ID3") and len(tag) == 10:
        a, b, c, d = tag[6:10]
        start = 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if tag[5] & 0x10 else 0)
    file.seek(start)
    return file.read(192)


@contextmanager
def _opened(path: Path | Held) -> Iterator[InputContainer]:
    """Open a sound with FFmpeg; what it or the system says against the file becomes our error, which names it."""
    try:
        with path.open("rb", buffering=0) as file, open_container(file) as container:
            if not container.streams.audio:
                raise MediaError("no_audio_stream", str(path))
            yield container
    except av.error.FFmpegError as error:
        raise MediaError("corrupt", f"{path}: {error.strerror}") from error
    except OSError as error:
        raise MediaError("unreadable", f"{path}: {error.strerror}") from error


def _read(path: Path | Held, start_s: float, duration_s: float | None) -> tuple[np.ndarray, int, _Span]:
    """Decode the samples from which a window can be resampled: mono, at their own rate; with the cut to be made."""
    if path.suffix.lower() in SOUNDFILE_SUFFIXES:
        # what it cannot read, for instance an MP3 with bytes behind its end, FFmpeg may
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(_given(path)) as file:
            first, stop, span = _window(start_s, duration_s, file.samplerate)
            is_whole = first == 0 and stop is None  # FFmpeg decodes Vorbis in half the time, but seeks past the place
            if _seeks(file, path, stop) and not (is_whole and file.subtype == "VORBIS"):
                wave = _read_soundfile(file, first, stop)
                if wave is not None:
                    return wave, file.samplerate, span
    return _read_pyav(path, start_s, duration_s)


def _read_soundfile(file: soundfile.SoundFile, first: int, stop: int | None) -> np.ndarray | None:
    """Read the samples [first, stop); None of an MP3 whose damage libmpg123 does not get past, while FFmpeg may."""
    if first >= file.frames:
        return np.zeros(0, np.float32)
    lead = min(first, round(MP3_PREROLL_S * file.samplerate)) if file.format == "MP3" else 0
    if first > lead:  # else it stands there: libmpg123 complains of a seek to an MP3's start
        file.seek(first - lead)
    frames = file.read(-1 if stop is None else stop - first + lead, dtype="float32", always_2d=True)
    end = file.frames if stop is None else min(stop, file.frames)
    if file.format == "MP3" and len(frames) - lead < end - first - MP3_SLACK_S * file.samplerate:
        return None
    return mix_down(frames[lead:].T)


def _read_pyav(path: Path | Held, start_s: float, duration_s: float | None) -> tuple[np.ndarray, int, _Span]:
    with _opened(path) as container:
        stream = container.streams.audio[0]
        first, stop, span = _window(start_s, duration_s, stream.rate)
        end = _declared_end(container)
        if end is not None:
            stop = end if stop is None else min(stop, end)
        if first > 2 * PREROLL_S * stream.rate and container.format.name != "mp3":  # whose seeks end up anywhere
            target_s = first / stream.rate - PREROLL_S
            container.seek(int(target_s / _time_base(stream)) + (stream.start_time or 0), stream=stream)
        return Decoding(container).mono(first, stop), stream.rate, span


def _declared_end(container: InputContainer) -> int | None:
    """Return the number of samples that an MP4 states, whose AAC fills its last frame up; None for other formats."""
    stream = container.streams.audio[0]
    end_s = declared_s(stream) if container.format.name.startswith("mov") else None
    return None if end_s is None else round(end_s * stream.rate)


def _soundfile_blocks(file: soundfile.SoundFile, first: int) -> Iterator[np.ndarray]:
    if first:
        file.seek(min(first, file.frames))
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        yield mix_down(block.T)


def _cut(
    blocks: Iterator[np.ndarray], begin: int, spans: Sequence[tuple[float, float]], rate_hz: int
) -> Iterator[np.ndarray]:
    """Cut windows out of samples that come in blocks, the first of them sample `begin`, and resample each."""
    held = np.zeros(0, np.float32)
    for start_s, end_s in spans:
        first, stop, span = _window(start_s, end_s - start_s, rate_hz)
        assert stop is not None
        parts, end = [held], begin + len(held)
        while end < stop and (block := next(blocks, None)) is not None:
            if end <= first:  # nothing of what came before is wanted any more
                parts, begin = [], end
            parts.append(block)
            end += len(block)
        held = np.concatenate(parts)
        drop = min(max(0, first - begin), len(held))
        held, begin = held[drop:], begin + drop
        yield _resample(held[: max(0, stop - begin)], rate_hz, span)


def _write_aac(path: Path, channels: np.ndarray, sample_rate_hz: int) -> None:
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("aac", rate=sample_rate_hz, layout=layout)
        stream.bit_rate = AAC_BIT_RATE
        stream.options = {"aac_pns": "0"}  # noise made up by the decoder would differ from one seek to the next
        size = 1024  # samples in an AAC frame
        for begin in range(0, channels.shape[1], size):
            samples = np.ascontiguousarray(channels[:, begin : begin + size])
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, begin, Fraction(1, sample_rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
