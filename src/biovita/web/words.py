"""What the page says about answers and refusals, in plain words."""

from biovita.identify.answer import Answer, Named
from biovita.report.tables import THIN
from biovita.web.answers import HitAnswer

REASONS = {
    "empty_file": "The file is empty: it has no bytes at all. Was it copied to the end?",
    "html_document": "This is a web page, not a sound or a picture.",
    "json_document": "This is a JSON text, not a sound or a picture.",
    "text_document": "This is a text, not a sound or a picture.",
    "not_media": "This is neither a sound nor a picture.",
    "wrong_modality": "What is in the file is not what its name or its place promises.",
    "unsupported_format": (
        "This format is not read here. Sounds: wav, flac, mp3, ogg, m4a, aiff. "
        "Pictures: JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF."
    ),
    "unsupported_codec": "The sound is coded in a way that is not read here.",
    "external_reference": "The file only points to other files; send the sound or picture itself.",
    "truncated": "The file is cut off: its end is missing. Copy or download it again.",
    "corrupt": "The file is damaged and does not decode. Copy or download it again.",
    "bad_header": "The head of the file is damaged.",
    "no_audio_stream": "There is no sound in this file.",
    "no_samples": "There is no sound in this file.",
    "too_short": "The recording is too short to say anything.",
    "too_long": "The recording is too long for this page; `biovita identify` takes any length.",
    "too_many_pixels": "The picture has too many pixels.",
    "too_small": "The picture is too small to say anything.",
    "bad_aspect": "The picture is too narrow a strip.",
    "bad_sample_rate": "The sample rate is none that a recording has.",
    "bad_channels": "The number of channels is none that a recording has.",
    "non_finite": "The recording holds values that are no numbers.",
    "out_of_range": "The recording holds values far beyond full scale.",
    "silent": "The recording is silent: there is nothing to hear. Was the microphone on?",
    "blank": "The picture is blank: there is nothing to see.",
    "metadata_bomb": "The file carries more metadata than it may.",
    "unreadable": "The file took too long to read.",
}


ASKED = {  # errors that programs are told in other words
    "no_file": "Choose a recording or a photo first.",
    "no_query": "Say what to look for: words, a sound, or a photo.",
    "busy": "Many people are asking right now. Please try again in a few seconds.",
    "too_slow": "The file did not arrive in time. Is the connection slow? A shorter recording may help.",
}


def why(reason: str | None) -> str:
    """Say for people why a file was refused."""
    return REASONS.get(reason or "", "The file cannot be used.")


def called(taxon: Named) -> str:
    """Name a taxon for people: a species by both names, else as 'some' member of it."""
    if taxon.rank == "species":
        return f"{taxon.common_name} ({taxon.name})" if taxon.common_name else taxon.name
    return f"some {taxon.common_name} ({taxon.name})" if taxon.common_name else f"some {taxon.name} ({taxon.rank})"


def sentence(answer: Answer, *, is_calibrated: bool, confidence: float) -> str:
    """Say an answer in one sentence that promises no more than is known."""
    if answer.sure and answer.sure.prob is not None:
        said = called(answer.sure)
        return f"{said[0].upper()}{said[1:]}, {percent(answer.sure.prob)} sure"
    if is_calibrated:
        return f"Unknown: no rank is {percent(confidence)} sure"
    if not answer.taxa:
        return "Unknown: nothing reaches the asked score"
    return f"Nearest: {called(answer.taxa[0])}, not calibrated"


def percent(share: float) -> str:
    """Write a probability in whole percent, never more than 99."""
    return f"{min(99, int(100 * share + 1e-9))}{THIN}%"


def clock(seconds: float) -> str:
    """Write a place in a recording: 0:07.5, 12:03.0."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def lasting(seconds: float) -> str:
    """Write how long a recording is: 2.4 s, 37 s, 12 min 3 s."""
    if round(seconds) < 60:
        return f"{seconds:.1f}{THIN}s" if seconds < 9.95 else f"{seconds:.0f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{THIN}min" + (f" {rest}{THIN}s" if rest else "")


def day(moment: str | None) -> str:
    """Write the day of a time in ISO 8601; "" where it is not known."""
    return moment[:10] if moment else ""


def place(hit: HitAnswer) -> str:
    """Write where a hit was made: 52.52° N, 13.40° E; "" where it is not known."""
    if hit.latitude_deg is None or hit.longitude_deg is None:
        return ""
    letters = ("S" if hit.latitude_deg < 0 else "N", "W" if hit.longitude_deg < 0 else "E")
    return f"{abs(hit.latitude_deg):.2f}° {letters[0]}, {abs(hit.longitude_deg):.2f}° {letters[1]}"
