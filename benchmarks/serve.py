"""The page under load, under fuzzing, and in pictures.

    python benchmarks/serve.py MODEL [--archive ARCHIVE] [--results RESULTS] [--clients 50] [--seconds 60]
        [--soak 240] [--stops 50] [--cases 1000] [--screens SOUND PHOTO]

Starts `biovita serve MODEL` on loopback in a process of its own. First one client, then many upload without pause: 40 %
10 s WAV of 48 kHz, 40 % JPEG of 1 megapixel, 20 % hostile (the files of tests/media/test_check.py). Every client has an
address of its own (127.0.1.N), so the rate for one address does not stop them; one that is told 429 waits as long as it
is told. /healthz is asked ten times a second all the while. Memory is what the server and its children hold (PSS).
Memory rises while the allocator's arenas fill, so the same crowd goes on for `--soak` seconds, and the slope is that of
the last half of all of it. Then a server is stopped so many times while ten clients wait for an answer: a stop is clean
if it exits 0 and no answer that was begun is cut. These servers are `biovita serve` in a process each, forked from one
that has imported the libraries, which is most of a start. Then schemathesis sends so many cases to each operation,
with three seeds, to an application in this process. Writes docs/results/serve.md. `--screens` does nothing of this, and
takes the pictures of docs/serve.md with a sound and a photo. Linux, Chromium.
"""

import argparse
import contextlib
import http.client
import importlib.util
import io
import json
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from PIL import Image
from playwright.sync_api import sync_playwright
from schemathesis import GenerationMode

from biovita.commands.serve import Serve, run_serve
from biovita.identify.answer import Identifier
from biovita.identify.calibrate import read_calibration
from biovita.identify.labels import read_labels
from biovita.media.audio import write_audio
from biovita.models.hub import load
from biovita.search.archive import Archive
from biovita.web.app import create_app
from biovita.web.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "serve.md"
SCREENS = ROOT / "docs" / "screens"
sys.path.insert(0, str(ROOT / "tests" / "web"))
from served import Served, serving  # noqa: E402

SEEDS = (1, 2, 3)
KEPT = (  # colours of page.css that a picture of photos would lose: paper and card by day and night, red and its edges
    *((251, 250, 246), (255, 255, 255), (241, 238, 228), (246, 243, 234), (20, 25, 26), (27, 34, 34), (32, 41, 41)),
    *((194, 65, 45), (213, 121, 108), (231, 176, 168), (132, 52, 42)),
)
HOSTILE_SHARE, SOUND_SHARE = 0.2, 0.4


@dataclass
class Load:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"sound": [], "photo": [], "hostile": []})
    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    dropped: int = 0
    health: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def bodies() -> dict[str, list[tuple[bytes, str]]]:
    """Make what is sent: multipart bodies with the reason that is expected."""
    spec = importlib.util.spec_from_file_location("files_to_check", ROOT / "tests" / "media" / "test_check.py")
    assert spec
    assert spec.loader
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wave = 0.2 * np.sin(np.cumsum(rng.uniform(0.05, 0.6, 480_000))) + rng.normal(0, 0.02, 480_000)
        write_audio(folder / "a.wav", wave.astype(np.float32), 48_000)
        file = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 255, (125, 125, 3), np.uint8))
        small.resize((1000, 1000)).save(file, "JPEG", quality=90)
        hostile = [(form(name, make(folder)), reason) for name, reason, make in files.BAD.values()]
        return {
            "sound": [(form("a.wav", (folder / "a.wav").read_bytes()), "")],
            "photo": [(form("a.jpg", file.getvalue()), "")],
            "hostile": [row for row in hostile if len(row[0]) < 8_000_000],
        }


def form(name: str, content: bytes) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


def send(port: int, body: bytes, number: int) -> tuple[int, dict[str, Any], float]:
    """Upload once: status, answer, seconds to wait where that was asked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=(f"127.0.1.{number}", 0))
    with contextlib.closing(connection):
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        connection.request("POST", "/api/identify", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), float(answer.headers.get("Retry-After", 0))


def client(load: Load, port: int, number: int, until: float, sent: dict[str, list[tuple[bytes, str]]]) -> None:
    rng = random.Random(number)
    while time.monotonic() < until:
        draw = rng.random()
        kind = "hostile" if draw < HOSTILE_SHARE else "sound" if draw < HOSTILE_SHARE + SOUND_SHARE else "photo"
        body, reason = rng.choice(sent[kind])
        started = time.monotonic()
        try:
            code, answer, wait_s = send(port, body, number)
        except (OSError, http.client.HTTPException) as error:
            with load.lock:
                load.dropped += 1
                load.wrong.append(f"{kind}: {type(error).__name__}: {error}")
            continue
        with load.lock:
            load.codes[code] += 1
            if code != 429:
                load.seconds[kind].append(time.monotonic() - started)
                if (code, answer.get("error", "")) != ((422, reason) if reason else (200, "")):
                    load.wrong.append(f"{kind}: {code} {answer.get('error')} where {reason or 200} was due")
        time.sleep(wait_s)


def watch(load: Load, server: Served, done: threading.Event) -> None:
    begin = time.monotonic()
    while not done.wait(0.1):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        started = time.monotonic()
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            load.health.append(time.monotonic() - started)
        load.memory.append((time.monotonic() - begin, memory_bytes(server.process.pid)))


def memory_bytes(pid: int) -> float:
    """Add up what a process and its children hold, shared pages counted by share."""
    total = 0.0
    for one in [pid, *children(pid)]:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += 1024 * float(text.split("Pss:")[1].split()[0])
    return total


def children(pid: int) -> list[int]:
    """List the children of a process, whichever of its threads began them."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # threads end
            found += [int(one) for one in (thread / "children").read_text().split()]
    return found


def press(server: Served, n_clients: int, seconds: float, sent: dict[str, list[tuple[bytes, str]]]) -> Load:
    """Let so many clients upload for so long."""
    load, done = Load(), threading.Event()
    watcher = threading.Thread(target=watch, args=(load, server, done))
    watcher.start()
    until = time.monotonic() + seconds
    rows = [threading.Thread(target=client, args=(load, server.port, n + 1, until, sent)) for n in range(n_clients)]
    for row in rows:
        row.start()
    for row in rows:
        row.join()
    done.set()
    watcher.join()
    return load


def at(share: float, values: list[float]) -> str:
    return f"{np.quantile(values, share):.2f}" if values else "none"


def serve(model: Path, port: int) -> None:
    """Be a server, in a process that has forked from one with the libraries."""
    run_serve(Serve(model=model, port=port))


def stops(model: Path, n: int, sent: dict[str, list[tuple[bytes, str]]]) -> tuple[int, int]:
    """Stop a server so many times under load; return clean stops and answers that were cut."""
    clean = cut = 0
    fork = multiprocessing.get_context("forkserver")
    # All that takes long to import, but for lancedb, which does not like to be forked.
    fork.set_forkserver_preload(
        ["biovita.models.hub", "fastapi.testclient", "playwright.sync_api", "schemathesis", "uvicorn"]
    )
    for _ in range(n):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = fork.Process(target=serve, args=(model, port))
        server.start()
        begun, codes = threading.Semaphore(0), []

        def one(number: int, port: int = port, begun: Any = begun, codes: list[int] = codes) -> None:
            begun.release()
            try:
                codes.append(send(port, sent["photo"][0][0], number)[0])
            except (OSError, http.client.HTTPException):
                codes.append(0)

        while not answers(port):
            time.sleep(0.05)
        rows = [threading.Thread(target=one, args=(n + 1,)) for n in range(10)]
        for row in rows:
            row.start()
        for _ in rows:
            begun.acquire()
        while waiting(port) + len(codes) < len(rows):
            time.sleep(0.01)
        server.terminate()
        server.join(120)
        clean += server.exitcode == 0
        for row in rows:
            row.join()
        cut += sum(code != 200 for code in codes)
    return clean, cut


def answers(port: int) -> bool:
    try:
        waiting(port)
    except OSError:
        return False
    return True


def waiting(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return json.loads(connection.getresponse().read())["n_waiting"]


def fuzz(model: Path, archive: Path | None, n_cases: int) -> tuple[int, list[str]]:
    """Send schemathesis's cases to every operation; return how many there were, and what failed."""
    encoder = load(model)
    identifier = Identifier(encoder, read_labels(encoder), calibration=read_calibration(encoder.folder))
    opened = Archive.open(archive) if archive else None
    app = create_app(Settings(identifier=identifier, archive=opened, requests_per_min=10**9))
    accepted = {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 404, 415, 422]}}}
    n_sent, failed = 0, []
    with TestClient(app):
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=schemathesis.Config.from_dict(accepted))
        operations = [one.ok() for one in schema.get_all_operations()]
        for operation in operations:
            for mode in GenerationMode:
                if mode.is_negative and not (operation.body or operation.query):
                    continue
                for number in SEEDS:

                    @seed(number)
                    @settings(
                        max_examples=n_cases, deadline=None, database=None, phases=[Phase.generate],
                        suppress_health_check=list(HealthCheck),
                    )  # fmt: skip
                    @given(case=operation.as_strategy(generation_mode=mode))
                    def check(case: Any) -> None:
                        nonlocal n_sent
                        n_sent += 1
                        case.call_and_validate()

                    try:
                        check()
                    except Exception as error:
                        failed.append(f"{operation.method.upper()} {operation.path}, seed {number}: {error}"[:600])
    return n_sent, failed


def in_few_colours(image: Image.Image) -> Image.Image:
    """Reduce a picture to 256 colours, the page's own among them."""
    few = image.quantize(256 - len(KEPT), method=Image.Quantize.MAXCOVERAGE)
    palette = Image.new("P", (1, 1))
    palette.putpalette((few.getpalette() or [])[: 3 * (256 - len(KEPT))] + [part for colour in KEPT for part in colour])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def shoot(server: Served, sound: Path, photo: Path) -> None:
    """Take the pictures that docs/serve.md shows, of every screen: wide and narrow, light and dark."""
    shown = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    SCREENS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for size, width, height, scheme in (
            ("desktop", 1180, 820, "light"), ("desktop-dark", 1180, 820, "dark"), ("phone", 390, 844, "light"),
        ):  # fmt: skip
            how: dict[str, Any] = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
            page = browser.new_context(**how).new_page()

            def shot(name: str, of: Any = page, size: str = size) -> None:
                path = SCREENS / f"{name}-{size}.png"
                if path.name not in shown:
                    return
                of.screenshot(path=path)
                in_few_colours(Image.open(path).convert("RGB")).save(path, optimize=True)

            page.goto(server.url)
            page.set_input_files("#sound", sound)
            page.set_input_files("#photo", photo)
            page.wait_for_timeout(500)
            shot("identify")
            page.get_by_role("button", name="Identify").click()
            page.locator(".verdict").nth(1).wait_for()
            page.locator(".strip").click(position={"x": 200, "y": 60})
            page.evaluate("scrollTo({ top: document.querySelector('.verdict').offsetTop - 20, behavior: 'instant' })")
            page.wait_for_timeout(500)
            shot("answer")
            page.goto(f"{server.url}/search")
            page.set_input_files("#photo", photo)
            page.get_by_role("button", name="Search", exact=True).click()
            page.locator(".hit").first.wait_for()
            page.wait_for_load_state("networkidle")
            page.evaluate("scrollTo(0, document.querySelector('.drops').offsetTop - 20)")
            page.wait_for_timeout(500)
            shot("search")
            for name, path in (
                *(("review", "/review?name=striped"), ("archive", "/archive"), ("benchmark", "/benchmark")),
                ("api", "/api"),
            ):
                page.goto(server.url + path)
                page.wait_for_load_state("networkidle")
                if name == "archive":
                    page.evaluate("scrollTo(0, document.querySelector('.halves').offsetTop - 20)")
                shot(name)
            page.context.close()
        browser.close()


def n_bad(load: Load) -> int:
    """Count answers that were not the right one."""
    return len(load.wrong) - load.dropped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--soak", type=float, default=240)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--screens", type=Path, nargs=2, metavar=("SOUND", "PHOTO"))
    asked = parser.parse_args()
    words: list[object] = ["--model", asked.model]
    words += ["--archive", asked.archive] * bool(asked.archive) + ["--results", asked.results] * bool(asked.results)
    if asked.screens:
        with serving(*words) as server:
            shoot(server, *asked.screens)
        return
    sent = bodies()
    with serving(*words) as server:
        for kind in ("sound", "photo", "sound", "photo"):
            send(server.port, sent[kind][0][0], 1)
        alone = press(server, 1, asked.seconds / 3, sent)
        many = press(server, asked.clients, asked.seconds, sent)
        print(f"load done: {dict(many.codes)}, {many.dropped} dropped", many.wrong[:5], flush=True)
        soak = press(server, asked.clients, asked.soak, sent)
        time.sleep(1)
        pid = server.process.pid
        left = [p for f in Path(tempfile.gettempdir()).glob(f"biovita-serve-{pid}-*") for p in f.rglob("*")]
        n_children = len(children(pid))
        code = server.stop(seconds=120)
    print(f"soak done: {dict(soak.codes)}, {soak.dropped} dropped", soak.wrong[:5], flush=True)
    clean, cut = stops(asked.model, asked.stops, sent)
    print(f"stops done: {clean} clean, {cut} cut", flush=True)
    n_sent, failed = fuzz(asked.model, asked.archive, asked.cases)
    memory = np.array([*many.memory, *[(asked.seconds + at_s, held) for at_s, held in soak.memory]])
    memory[:, 1] /= 1e6
    half = memory[memory[:, 0] > (asked.seconds + asked.soak) / 2]
    slope = 60 * np.polyfit(*half.T, 1)[0]
    by_minute = [f"{memory[memory[:, 0] // 60 == n, 1].mean():.0f}" for n in range(int(memory[-1, 0] // 60))]
    rows = [
        f"| {kind} | {len(alone.seconds[kind])} | {at(0.5, alone.seconds[kind])} | {at(0.99, alone.seconds[kind])} | "
        f"{len(many.seconds[kind])} | {at(0.5, many.seconds[kind])} | {at(0.99, many.seconds[kind])} |"
        for kind in many.seconds
    ]
    n_5xx = sum(n for load in (many, soak) for status, n in load.codes.items() if status >= 500)
    lines = [
        "# The page under load",
        "",
        f"    python benchmarks/serve.py {' '.join(sys.argv[1:])}",
        "",
        f"{os.cpu_count()} cores; {asked.clients} clients for {asked.seconds:g} s, beside one client for "
        f"{asked.seconds / 3:g} s on the same server. Seconds from the first byte sent to the last one received.",
        "",
        "| upload | one client: answers | median | p99 | many: answers | median | p99 |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"- Server errors: {n_5xx}. Dropped connections: {many.dropped}. Told to come back (429): {many.codes[429]}. "
        f"Answers that were not the right one: {n_bad(many)}.",
        f"- /healthz meanwhile: median {1000 * np.median(many.health):.0f} ms, p99 "
        f"{1000 * np.quantile(many.health, 0.99):.0f} ms; with one client "
        f"{1000 * np.median(alone.health):.0f} and {1000 * np.quantile(alone.health, 0.99):.0f} ms.",
        f"- Memory of the server and its children while the crowd goes on for {asked.soak:g} s more "
        f"({sum(soak.codes.values()):,} answers, {n_bad(soak)} of them wrong): {memory[:, 1].max():.0f} MB at most; "
        f"mean of each minute {', '.join(by_minute)} MB; {slope:+.1f} MB a minute over the second half.",
        f"- Afterwards: {len(left)} temporary files, {n_children} children (the checker's, which wait for "
        f"work and end with the server), exit code {code}.",
        f"- Stops with ten requests at work: {clean} of {asked.stops} clean (exit 0), {cut} answers cut.",
        f"- schemathesis, all checks, seeds {', '.join(map(str, SEEDS))}: {n_sent:,} cases, {len(failed)} failures.",
        *[f"    - {line}" for line in dict.fromkeys([*many.wrong, *soak.wrong, *failed])][:20],
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
