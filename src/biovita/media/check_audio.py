"""Is this a usable sound? What the header claims, what really decodes, and what can be heard; runs in the child."""

import os
import struct
from typing import BinaryIO

import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from biovita.errors import MediaError
from biovita.media.audio import Decoding, declared_s, is_allowed_codec, mix_down, mp3_stated_s, open_container
from biovita.media.check import Look
from biovita.media.fingerprint import AudioPrint
from biovita.media.sniff import is_mp3_frame, modality_of

CHUNK_SAMPLES = 65_536  # looked at together: costs per block vanish
END_TOLERANCE_S = 0.1  # how much shorter than declared a sound may be
MP3_PADDING_S = 0.15  # an MP3's declared frames include its encoder's delay and padding
BAD_PACKET_SHARE = 0.01  # of a sound that may be undecodable
FULL, CLIPPED_SHARE = 0.999, 0.001  # a sound with more of its samples at full scale is clipped
DC_SHARE = 0.1  # of the peak that the mean may be
LONGEST_PRINTED_S = 7200  # the memory of a print grows with the sound; no dataset takes one that is longer
ANTIPHASE_SHARE = 0.1  # of the peak of two channels that their mix should at least reach
RIFF_UNKNOWN = (0, 0xFFFFFFFF)  # the writer could not go back to fill the size in

SUFFIX = {"wav": ".wav", "flac": ".flac", "mp3": ".mp3", "ogg": ".ogg", "mov": ".m4a", "aiff": ".aiff"}


def judge_audio(file: BinaryIO, head: bytes, look: Look) -> None:
    """Note length, rate, channels, suffix, flags and fingerprint.

    Raises:
        MediaError: the sound is refused.
    """
    stated_s = None
    if head.startswith((b"RIFF", b"RF64", b"BW64")):
        _judge_riff(file, look)
    elif head.startswith(b"ID3") or is_mp3_frame(head):
        stated_s = mp3_stated_s(file)
    file.seek(0)
    try:
        container = open_container(file)
    except av.error.FFmpegError as error:
        raise _not_opened(file, head, error) from error
    with container:
        _judge_header(container, look)
        stream = container.streams.audio[0]
        if look.facts["suffix"] not in (".mp3", ".wav"):  # whose length FFmpeg guesses from the size
            stated_s = declared_s(stream)
        decoding, rate_hz = Decoding(container), stream.rate
        try:
            n_samples = _judge_samples(decoding, rate_hz, look)
        except av.error.FFmpegError as error:
            raise MediaError("corrupt", str(error)[:200]) from error
        duration_s = n_samples / rate_hz
        look.note(duration_s=round(duration_s, 6))
    n_bad_inside = decoding.n_bad_packets - decoding.n_bad_at_end
    if not n_samples and decoding.n_bad_packets:
        raise MediaError("corrupt", f"none of {decoding.n_packets} packets decodes")
    if not n_samples:
        raise MediaError("no_samples", "a header without a sound")
    if stated_s:
        _compare_lengths(duration_s, stated_s, look)
    if n_bad_inside > 1 + BAD_PACKET_SHARE * decoding.n_packets:
        raise MediaError("corrupt", f"{n_bad_inside} of {decoding.n_packets} packets do not decode")
    if duration_s < look.limits.min_duration_s:
        raise MediaError("too_short", f"{duration_s:.4f} s")
    if n_bad_inside:
        look.flags.add("decode_errors")
    if decoding.n_bad_at_end:
        look.flags.add("trailing_garbage")


def _compare_lengths(duration_s: float, stated_s: float, look: Look) -> None:
    """Refuse a sound that is shorter than its header says; of a longer one, readers stop where the header says."""
    suffix = look.facts["suffix"]
    padding_s = MP3_PADDING_S if suffix == ".mp3" else 0.0
    if duration_s < stated_s - padding_s - END_TOLERANCE_S:
        raise MediaError("truncated", f"{duration_s:.2f} s of {stated_s:.2f} s")
    if duration_s > stated_s + END_TOLERANCE_S:
        if suffix == ".ogg":  # whose length is that of the last of them
            raise MediaError("corrupt", f"several sounds in a chain: {duration_s:.2f} s, not {stated_s:.2f} s")
        look.flags.add("bad_length")
        look.note(duration_s=round(stated_s, 6))
    if suffix == ".m4a":  # AAC fills its last frame up
        look.note(duration_s=round(min(duration_s, stated_s), 6))


def _judge_header(container: InputContainer, look: Look) -> None:
    if look.facts["modality"] is None:  # FFmpeg looked further than we did
        look.flags.add("leading_garbage")
    look.note(modality="audio", suffix=SUFFIX[container.format.name.split(",")[0]])
    if "\ufffd" in "".join(container.metadata.values()):
        look.flags.add("tag_encoding")
    for video in container.streams.video:  # never decoded
        attached = Disposition.attached_pic in video.disposition
        look.flags.add("embedded_picture" if attached else "has_video")
    if not container.streams.audio:
        raise MediaError("no_audio_stream", f"{container.format.name} without sound")
    stream = container.streams.audio[0]
    codec = stream.codec_context.name if stream.codec_context else "unknown"  # to FFmpeg, too
    if not is_allowed_codec(codec):
        raise MediaError("unsupported_codec", codec)
    look.note(sample_rate_hz=stream.rate, n_channels=stream.channels)
    _judge_rate_and_channels(stream.rate, stream.channels, look)


def _judge_rate_and_channels(rate_hz: int, n_channels: int, look: Look) -> None:
    limits = look.limits
    if not limits.min_sample_rate_hz <= rate_hz <= limits.max_sample_rate_hz:
        raise MediaError("bad_sample_rate", f"{rate_hz} Hz")
    if not 1 <= n_channels <= limits.max_channels:
        raise MediaError("bad_channels", f"{n_channels} channels")


def _judge_samples(decoding: Decoding, rate_hz: int, look: Look) -> int:
    """Decode everything once for length, range, silence and the print; return the number of samples."""
    limits = look.limits
    sound_print: AudioPrint | None = AudioPrint(rate_hz)
    n_samples, n_full, total, low, high, loudest = 0, 0, 0.0, np.inf, -np.inf, 0.0
    for block in decoding.chunks(CHUNK_SAMPLES):
        peak = max(float(block.max()), -float(block.min()))
        if not np.isfinite(peak):  # NaN survives max and min
            raise MediaError("non_finite", "NaN or infinite samples")
        if peak > limits.max_sample:
            raise MediaError("out_of_range", f"samples up to {peak:.3g}")
        n_samples += block.shape[1]
        if n_samples > limits.max_duration_s * rate_hz:
            raise MediaError("too_long", f"more than {limits.max_duration_s:g} s")
        if peak >= FULL:
            n_full += int(np.count_nonzero(np.abs(block) >= FULL))
        mono = mix_down(block)
        total += float(mono.sum())  # in pairs: exact enough
        low, high, loudest = min(low, float(mono.min())), max(high, float(mono.max())), max(loudest, peak)
        if n_samples > LONGEST_PRINTED_S * rate_hz:
            sound_print = None
        elif sound_print:
            sound_print.add(mono)
    if n_samples:
        mean = total / n_samples
        peak = max(high - mean, mean - low)
        if peak < limits.min_peak:
            cancels = "; the channels cancel out" if loudest > 10 * limits.min_peak else ""
            raise MediaError("silent", f"peak {peak:.1e} around {mean:.1e}{cancels}")
        if n_full > CLIPPED_SHARE * n_samples * look.facts["n_channels"]:
            look.flags.add("clipped")
        if abs(mean) > DC_SHARE * peak:
            look.flags.add("dc_offset")
        if look.facts["n_channels"] == 2 and peak < ANTIPHASE_SHARE * loudest:
            look.flags.add("antiphase")
        look.note(fingerprint=sound_print.text() if sound_print else "")
    return n_samples


def _judge_riff(file: BinaryIO, look: Look) -> None:
    """Compare what a WAV claims with its bytes, since FFmpeg trims the claim without a word."""
    n_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    form, riff_bytes = struct.unpack("<4sI", file.read(12).ljust(12, b"\0")[:8])
    if form == b"RIFF" and riff_bytes + 8 != n_bytes:
        is_longer = riff_bytes not in RIFF_UNKNOWN and riff_bytes + 8 < n_bytes
        look.flags.add("trailing_garbage" if is_longer else "bad_length")
    position = 12
    while True:
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return
        chunk, size = struct.unpack("<4sI", header)
        position += 8
        if chunk == b"fmt " and len(fmt := file.read(8)) == 8:
            _, n_channels, rate_hz = struct.unpack("<HHI", fmt)
            _judge_rate_and_channels(rate_hz, n_channels, look)
        if chunk == b"data":
            break
        position += size + size % 2
    rest = n_bytes - position
    if form == b"RIFF" and size in RIFF_UNKNOWN and rest:
        look.flags.add("bad_length")
    elif form == b"RIFF" and size > rest:
        raise MediaError("truncated", f"{rest:,} of {size:,} bytes of sound")


def _not_opened(file: BinaryIO, head: bytes, error: av.error.FFmpegError) -> MediaError:
    """Say why FFmpeg found no sound: cut short, a tag only, damaged, or no media at all."""
    if modality_of(head) is None:
        return MediaError("not_media", "the content is no sound or picture that we know")
    if isinstance(error, av.error.EOFError):
        return MediaError("truncated", "ends before the first samples")
    if head[4:8] == b"ftyp" and _is_mp4_cut(file):
        return MediaError("truncated", "the index is cut off")
    if head.startswith(b"ID3"):
        return MediaError("no_samples", "a tag without a sound")
    return MediaError("bad_header", str(error)[:200])


def _is_mp4_cut(file: BinaryIO) -> bool:
    """Walk the top boxes of an MP4; a cut one lacks its index or has a box that reaches past the end."""
    n_bytes, position, has_index = os.fstat(file.fileno()).st_size, 0, False
    while position < n_bytes:
        file.seek(position)
        size, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:
            break
        has_index |= kind == b"moov"
        position += size
    return position > n_bytes or not has_index
