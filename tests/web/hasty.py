"""A real server whose patience is short, for tests: `python hasty.py MODEL`."""

import sys

from biovita.identify.answer import Identifier
from biovita.identify.labels import read_labels
from biovita.log import say
from biovita.models.hub import load
from biovita.web import server
from biovita.web.app import create_app
from biovita.web.settings import Settings

HEAD_S, TAKE_S, IDLE_S, BODY_S, MAX_WAITING = 1.0, 2.0, 1.0, 3.0, 4


def main() -> None:
    """Serve a model on a free port of loopback until a signal asks to stop."""
    server.HEAD_S, server.TAKE_S = HEAD_S, TAKE_S
    encoder = load(sys.argv[1])
    identifier = Identifier(encoder, read_labels(encoder))
    app = create_app(
        Settings(
            identifier=identifier, idle_s=IDLE_S, body_s=BODY_S, max_waiting=MAX_WAITING, requests_per_min=1_000_000
        )
    )
    with server.listen("127.0.0.1", 0) as opened:
        say(f"the page is at http://127.0.0.1:{opened.getsockname()[1]}")
        server.run(app, opened)


if __name__ == "__main__":
    main()
