"""The process that opens strangers' bytes: reads paths from standard input, writes verdicts to standard output.

Started by `check.check_files` only. Before the first path it takes limits on address space, CPU time, descriptors and
file size, and gives up new privileges. `judge` goes from cheap to dear: file system, text, header, every sample or
pixel; the first thing that is wrong is the reason.
"""

import ctypes
import hashlib
import io
import json
import os
import resource
import stat
import sys
import time
import warnings
from typing import BinaryIO

from PIL import AvifImagePlugin, Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401 - see `main`

from biovita.errors import MediaError
from biovita.media.check import Limits, Look, Verdict
from biovita.media.check_audio import judge_audio
from biovita.media.check_image import judge_image
from biovita.media.sniff import HEAD_BYTES, modality_of, refuse_text

SUFFIXES = {
    "audio": {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".aif", ".aiff", ".aifc"},
    "image": {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"},
}
SYNONYMS = {".jpeg": ".jpg", ".tiff": ".tif", ".aif": ".aiff", ".aifc": ".aiff", ".oga": ".ogg", ".opus": ".ogg",
            ".mp4": ".m4a"}  # fmt: skip


def judge(path: str, limits: Limits) -> Verdict:
    """Look at one path and say whether it is a usable sound or picture."""
    started = time.monotonic()
    look = Look(path, limits)
    if not os.path.basename(path).isprintable():  # noqa: PTH119 - a name may be anything
        look.flags.add("odd_name")
    reason, detail = None, ""
    try:
        with _open_regular(path) as file:
            _judge_bytes(file, look)
    except MediaError as error:
        reason, detail = error.reason, error.detail
    except MemoryError:
        reason, detail = "corrupt", "asks for more memory than a file may take"
    except OSError as error:
        reason, detail = "unreadable", error.strerror or str(error)
    except Exception as error:  # decoders raise anything on hostile bytes; the detail keeps the cause
        reason, detail = "corrupt", f"{type(error).__name__}: {error}"[:300]
    return Verdict(
        path=path,
        verdict="reject" if reason else "ok",
        reason=reason,
        detail=detail,
        flags=tuple(sorted(look.flags)),
        elapsed_s=round(time.monotonic() - started, 4),
        **look.facts,
    )


def _open_regular(path: str) -> io.FileIO:
    """Open a regular file and nothing else; a FIFO or a device is never waited for, a link never followed."""
    kind = os.lstat(path).st_mode
    if stat.S_ISLNK(kind):
        raise MediaError("symlink", "links are not followed")
    if stat.S_ISDIR(kind) and not os.access(path, os.R_OK | os.X_OK):
        raise MediaError("unreadable", "a folder that may not be read")
    if not stat.S_ISREG(kind):
        names = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
        raise MediaError("not_regular_file", next((name for test, name in names if test(kind)), "a device"))
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = io.FileIO(descriptor)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise MediaError("not_regular_file", "changed while it was opened")
    return file


def _judge_bytes(file: io.FileIO, look: Look) -> None:
    if not os.fstat(file.fileno()).st_size:
        raise MediaError("empty_file", "0 bytes")
    look.note(sha256=hashlib.file_digest(file, "sha256").hexdigest())
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    modality = modality_of(head)
    if modality is None:
        refuse_text(head)
    look.note(modality=modality)
    promised = next((name for name, suffixes in SUFFIXES.items() if look.name_suffix in suffixes), modality)
    if modality and modality != promised:
        raise MediaError("wrong_modality", f"{modality} under the name {look.name_suffix}")
    if modality == "image":
        judge_image(file, look)
    else:
        judge_audio(file, head, look)
    if look.name_suffix and SYNONYMS.get(look.name_suffix, look.name_suffix) != look.facts["suffix"]:
        look.flags.add("extension_mismatch")


def restrict(limits: Limits) -> None:
    """Take the limits that hold for the life of this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS has none of these
        resource.setrlimit(resource.RLIMIT_AS, (limits.address_space_bytes, limits.address_space_bytes))
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


def renew_cpu_time(limits: Limits) -> None:
    """Allow the next file its CPU seconds, counted from now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + limits.seconds) + 1, hard))


def main(limits: Limits, paths: BinaryIO, verdicts: BinaryIO) -> None:
    """Answer each path (a JSON string a line) with a verdict (a JSON object a line)."""
    Image.preinit()  # and the imports above: the decoders of our formats, before descriptors are few
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    restrict(limits)
    verdicts.write(b"ready\n")
    for line in iter(paths.readline, b""):
        renew_cpu_time(limits)
        verdicts.write(json.dumps(judge(json.loads(line), limits).row()).encode() + b"\n")


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb", buffering=0) as pipe:
        os.dup2(2, 1)  # what a library prints must not look like a verdict
        main(Limits(**json.loads(sys.argv[1])), sys.stdin.buffer, pipe)
