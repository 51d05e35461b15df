"""The command line: common flags, help, and what an error becomes."""

import errno
import os
import re
import sys

from biovita.commands.table import COMMANDS, call
from biovita.errors import BiovitaError, StoppedError
from biovita.log import SETTINGS

COMMON = """Flags that every command takes:
  --json      machine-readable standard output
  --quiet     no progress and no remarks on standard error
  --offline   never ask a model hub or any other server"""


def rows_of(names: list[str]) -> str:
    """Compose one line a command."""
    width = max(map(len, names))
    return "\n".join(f"  {name:<{width}}  {COMMANDS[name].summary}" for name in names)


def overview() -> str:
    """Compose `biovita --help`."""
    rows = rows_of(list(COMMANDS))
    return (
        "usage: biovita COMMAND [RUN.toml] [flags]\n\n"
        "The sound, the picture and the name of an animal in one space.\n\n"
        f"Commands (`biovita COMMAND --help` tells more):\n{rows}\n\n{COMMON}\n"
        "  --version   print the version\n\n"
        "A flag that takes True or False means True where it stands alone.\n"
        "Exit: 0 done; 2 something you can mend; 3 done, but some items were refused; 1 a bug."
    )


def run(words: list[str]) -> int:
    """Run one command and return its exit code."""
    for flag in ("json", "quiet", "offline"):
        setattr(SETTINGS, flag, f"--{flag}" in words)
    if SETTINGS.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    words = [word for word in words if word not in ("--json", "--quiet", "--offline")]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from biovita import __version__  # noqa: PLC0415 - keeps this module free of imports that cost

        print(__version__)
        return 0
    family = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if family and words[1:] in (["-h"], ["--help"]):
        print(f"usage: biovita {words[0]} COMMAND …\n\n{rows_of(family)}")
        return 0
    return call(words)


# No room, no right to write, or a path that cannot be: a file where a folder should be, or the other way round.
MENDABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)


def mendable(error: OSError) -> str | None:
    """Say what is in the way, where a user can mend it: room, the right to write, or a path."""
    number = error.errno
    if number is None and (found := re.search(r"os error (\d+)", str(error))):  # as polars words it
        number = int(found[1])
    if number not in MENDABLE:
        return None
    name = error.filename2 or error.filename  # of a rename, the place that was asked for
    where = f"{name}: " if name else ""
    return f"{where}{os.strerror(number)}; mend that and run the same command again"


def main() -> int:
    """Run the command line; a user's error is one line and exit 2."""
    try:
        return run(sys.argv[1:])
    except StoppedError as error:
        print(f"biovita: {error}; run the same command again to go on", file=sys.stderr)
        return 128 + error.signal
    except BiovitaError as error:
        print(f"biovita: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if (said := mendable(error)) is None:
            raise
        print(f"biovita: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("biovita: stopped; run the same command again to go on", file=sys.stderr)
        return 130
