"""Every fault of a web server, 10,000 polite requests, 50 kills, 2,000 hostile URLs.

    .venv/bin/python benchmarks/faults.py > docs/results/fetch.md

All servers are on loopback; nothing leaves the machine. Takes about five minutes on two cores.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "data"), str(ROOT / "tests" / "sources")]

import test_budget  # noqa: E402
from fault_server import ELSEWHERE, FAULTS, OK, FaultServer, retry  # noqa: E402
from test_address import HOSTS, good_urls, hostile_urls  # noqa: E402
from test_download import child, class_of, door_to, fetch, left_over, tree  # noqa: E402

from biovita import log  # noqa: E402
from biovita.config import commit  # noqa: E402
from biovita.data.ledger import Ledger  # noqa: E402
from biovita.errors import FetchError  # noqa: E402
from biovita.sources.address import Policy  # noqa: E402
from biovita.sources.budget import Budget, Budgets  # noqa: E402
from biovita.sources.http import STREAK, Door  # noqa: E402

PER_SECOND, N_REQUESTS, N_THREADS, N_PROCESSES, N_RESTARTS = 200, 10_000, 8, 2, 3
N_KILLS, N_FILES = 50, 240
N_HOSTILE, N_FLIPS = 2_000, 1_000


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def faults(folder: Path) -> None:
    """Meet every fault twice; the second run must ask for the temporary ones and no others."""
    with FaultServer(folder) as server:
        wanted = server.modality_of(*FAULTS)
        fetch(wanted, folder / "out", door_to(server.host, server.port, folder / "b"), workers=16)
        got = {kind: class_of(folder / "out", server.url(kind)) for kind in FAULTS}
        requests = {kind: server.n_hits(kind) for kind in FAULTS}
        server.forget()
        fetch(wanted, folder / "out", door_to(server.host, server.port, folder / "b"), workers=16)
        again = {path.partition("?")[0].strip("/") for _, path in server.hits}
        n_kept, n_ok = len(tree(folder / "out")), sum(expected == OK for _, expected in FAULTS.values())
    n_right = sum(got[kind].startswith(expected) for kind, (_, expected) in FAULTS.items())
    n_asked_wrongly = len(again ^ {kind for kind in FAULTS if got[kind].startswith("temporary")})
    print(
        f"## Faults\n\n{n_right} of {len(FAULTS)} kinds in the expected class; {n_kept} files kept of {n_ok} good ones;"
    )
    print(f"{n_asked_wrongly} URLs wrongly asked or not asked by the second run.\n")
    print("| kind | expected | got | requests | asked by the next run |\n|---|---|---|---|---|")
    for kind, (_, expected) in FAULTS.items():
        shown = got[kind].replace(f"{server.host}:{server.port}", "SERVER").replace(str(server.port), "PORT")
        print(f"| {kind} | {expected} | {shown} | {requests[kind]} | {'yes' if kind in again else 'no'} |")
    with FaultServer(folder) as server:
        wanted = dict.fromkeys((server.url(f"403?{n}") for n in range(200)), "image")
        fetch(wanted, folder / "out403", door_to(server.host, server.port, folder / "b403"), workers=8)
        classes = {class_of(folder / "out403", url) for url in wanted}
        print(f"\n200 URLs of a host that answers 403: {len(server.hits)} requests before it is left alone (streak")
        print(f"{STREAK}, 8 threads), class of all: {', '.join(sorted(classes))}.")
    print()


def rates(folder: Path) -> None:
    """Ask from several processes, three times over, and count on the server's side."""
    with FaultServer(folder, n_plain=1) as server:
        n_each = -(-N_REQUESTS // (N_PROCESSES * N_RESTARTS))
        words = [folder / "budgets.sqlite", server.port, PER_SECOND, n_each, N_THREADS]
        line = [sys.executable, "-c", test_budget.CHILD, *map(str, words)]
        for _ in range(N_RESTARTS):
            codes = [child_.wait() for child_ in [subprocess.Popen(line) for _ in range(N_PROCESSES)]]
            assert codes == [0] * N_PROCESSES, codes
        times = sorted(moment for moment, _ in server.hits)
    counts = [bisect_left(times, moment + 1.0) - i for i, moment in enumerate(times)]
    print("## Rates\n")
    print(f"{len(times):,} requests to one host allowed {PER_SECOND} a second, by {N_THREADS} threads in each of")
    print(f"{N_PROCESSES} processes, {N_RESTARTS} restarts, counted by the server:", end=" ")
    print(f"at most {max(counts)} in any window of a")
    rate = len(times) / (times[-1] - times[0])
    print(f"second, {sum(n > PER_SECOND for n in counts)} violations; {rate:.0f} a second.\n")
    with FaultServer(folder, n_plain=1) as server, patch.dict(ELSEWHERE, {"file/0": retry("Retry-After: 5")}):
        words = [folder / "b2.sqlite", server.port, 5, 4, 8]
        line = [sys.executable, "-c", test_budget.CHILD, *map(str, words)]
        assert [process.wait() for process in [subprocess.Popen(line) for _ in range(3)]] == [0, 0, 0]
        times = sorted(moment for moment, _ in server.hits)
    print(f"`Retry-After: 5` to the first of {len(times)} requests of 3 processes with 8 threads each: the second")
    print(f"came after {times[1] - times[0]:.2f} s.\n")


def kills(folder: Path) -> None:
    """Kill one download after another at random moments until each is whole."""
    rng = random.Random(1)
    n_killed = n_doubled = n_wrong = n_jobs = 0
    with FaultServer(folder, n_plain=N_FILES, delay_s=0.02) as server:
        calm = subprocess.run(
            child(folder / "calm", server, N_FILES, folder / "b"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        ).stdout
        whole = tree(folder / "calm")
        while n_killed < N_KILLS:
            out = folder / f"out{n_jobs}"
            words = child(out, server, N_FILES, folder / "b")
            n_jobs += 1
            is_done = False
            verified: set[str] = set()
            while not is_done:
                server.forget()
                with (folder / "printed").open("wb") as printed:  # a pipe that nobody reads would stop it
                    process = subprocess.Popen(words, stdout=printed, stderr=subprocess.DEVNULL, start_new_session=True)
                while not server.hits and process.poll() is None:
                    time.sleep(0.001)
                if n_killed < N_KILLS:
                    time.sleep(rng.uniform(0.0, 0.5))
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
                        n_killed += 1
                is_done = process.wait() == 0
                asked = {f"http://{server.host}:{server.port}{path}" for _, path in server.hits}
                n_doubled += len(asked & verified)
                with Ledger(out / "ledger.sqlite", "p") as ledger:
                    verified = {url for (url,) in ledger._db.execute("SELECT url FROM fetch WHERE state = 'ok'")}
            n_wrong += (folder / "printed").read_bytes() != calm or tree(out) != whole or left_over(out) != set()
    print("## Kills\n")
    print(f"{n_killed} times SIGKILL to the process group at random moments of {n_jobs} downloads of {N_FILES} files,")
    print(f"each resumed until it was whole: {n_wrong} of {n_jobs} differ from an undisturbed run (media and verdicts,")
    print(f"byte for byte; left-over parts), {n_doubled} verified files were asked for again.\n")


def hostile(folder: Path) -> None:
    """Try hostile URLs, good ones, and a name that turns to loopback every second time."""
    reached: list[object] = []
    n_refused = 0
    with (
        patch.object(socket, "getaddrinfo", lambda *words, **_: reached.append(words)),
        patch.object(socket, "create_connection", lambda *words, **_: reached.append(words)),
        Door(Policy(hosts=HOSTS), Budgets(folder / "b.sqlite")) as door,
    ):
        for url in hostile_urls(N_HOSTILE):
            try:
                door.get(url)
            except FetchError as error:
                n_refused += error.kind == "refused"
        n_allowed = sum(door.check(url) in HOSTS for url, _ in good_urls())
    print("## Hostile URLs\n")
    print(f"{n_refused:,} of {N_HOSTILE:,} refused, with {len(reached)} look-ups and connections; {n_allowed} of")
    print(f"{len(good_urls())} good ones allowed. ", end="")
    asked: list[object] = []
    connected: list[str] = []
    kinds: set[str] = set()

    def flip(host: str, port: int, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1" if len(asked) % 2 else "8.8.8.8", port))]

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    table = [Budget(hosts=HOSTS, per_second=1e6)]
    with patch.object(socket, "getaddrinfo", flip), patch.object(socket, "create_connection", connect):
        while len(asked) < N_FLIPS:
            with Door(Policy(hosts=HOSTS), Budgets(folder / "c.sqlite", table), attempts=4, backoff_s=0.0) as door:
                try:
                    door.get(f"https://{HOSTS[0]}/")
                except FetchError as error:
                    kinds.add(error.kind)
    print(f"A name that turns to 127.0.0.1 at every second of {len(asked):,}")
    print(f"look-ups: {connected.count('127.0.0.1')} connections there; class {', '.join(kinds)}.")


def main() -> None:
    log.SETTINGS.quiet = True
    print("# Downloads: faults, rates, kills, hostile URLs\n")
    print("Command: `.venv/bin/python benchmarks/faults.py > docs/results/fetch.md`")
    print(f"({datetime.now(UTC):%Y-%m-%d}, on top of commit {(commit() or 'unknown')[:7]}, {os.cpu_count()} cores).\n")
    for part in (faults, rates, kills, hostile):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder))
        note(f"{part.__name__}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
