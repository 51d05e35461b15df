"""`python -m biovita` is the command `biovita`."""

import sys

from biovita.cli import main

if __name__ == "__main__":
    sys.exit(main())
