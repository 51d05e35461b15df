"""Downloads against a server that fails in every way, and kills at any moment."""

import dataclasses
import functools
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from fault_server import FAULTS, OK, FaultServer

from biovita.data.download import INCOMING, fetch_media
from biovita.data.ledger import Fetch, Ledger
from biovita.errors import DatasetError
from biovita.media.check import Verdict, check_files
from biovita.sources.address import Policy
from biovita.sources.budget import Budget, Budgets
from biovita.sources.http import STREAK, Door, Limits

QUICK = dict.fromkeys(
    ("audio", "image"), Limits(max_bytes=10**6, total_s=0.8, connect_s=2.0, idle_s=0.3, min_bytes_per_s=20_000)
)
PATIENT = dict.fromkeys(("audio", "image"), Limits(max_bytes=10**6, total_s=60.0))


def door_to(host: str, port: int, budgets: Path, per_second: float = 1000.0, **options: object) -> Door:
    policy = Policy(hosts=(host,), schemes=("http",), ports=(port,), public_only=False)
    table = [Budget(hosts=(host,), per_second=per_second)]
    return Door(policy, Budgets(budgets, table), **{"backoff_s": 0.01, "patience_s": 30.0, **options})


def fetch(
    wanted: Mapping[str, str],
    out: Path,
    door: Door,
    *,
    workers: int = 8,
    policy: str = "p",
    limits: Mapping[str, Limits] = QUICK,
    found: dict[str, Verdict] | None = None,
) -> dict[str, Verdict]:
    out.mkdir(parents=True, exist_ok=True)
    verdicts = {} if found is None else found
    check = functools.partial(check_files, workers=1)
    with door, Ledger(out / "ledger.sqlite", policy) as ledger:
        fetch_media(wanted, out, ledger, door, found=verdicts.__setitem__, check=check, workers=workers, limits=limits)
    assert set(verdicts) == set(wanted)
    return verdicts


def row_of(out: Path, url: str) -> Fetch | None:
    with Ledger(out / "ledger.sqlite", "p") as ledger:
        found = ledger.find_fetch(url)
    return found[0] if found else None


def class_of(out: Path, url: str) -> str:
    row = row_of(out, url)
    assert row
    what = row.verdict.detail if row.verdict.reason == "download_failed" else row.verdict.reason
    return OK if row.state == "ok" else f"{row.kind} {what}"


def tree(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "media").rglob("*") if path.is_file()}


def left_over(out: Path) -> set[str]:
    return {path.name for path in (out / INCOMING).iterdir()} - {".lock"}


def test_every_fault_ends_in_its_class_and_the_next_run_asks_the_temporary_ones(tmp_path: Path) -> None:
    out, budgets = tmp_path / "out", tmp_path / "budgets"
    with FaultServer(tmp_path) as server:
        wanted = server.modality_of(*FAULTS)
        verdicts = fetch(wanted, out, door_to(server.host, server.port, budgets), workers=24)
        got = {kind: class_of(out, server.url(kind)) for kind in FAULTS}
        wrong = {kind: (FAULTS[kind][1], got[kind]) for kind in FAULTS if not got[kind].startswith(FAULTS[kind][1])}
        assert wrong == {}
        good = {kind for kind, (_, expected) in FAULTS.items() if expected == OK}
        whole = {kind: server.others.get(kind, server.bodies[kind]) for kind in good}
        whole["redirect"] = server.bodies["plain_2"]
        media = tree(out)
        assert sorted(media.values()) == sorted(whole.values())  # nothing lost, nothing doubled, nothing else kept
        for path, body in media.items():
            digest = hashlib.sha256(body).hexdigest()
            assert path in (f"media/{digest[:2]}/{digest}{suffix}" for suffix in (".wav", ".png"))
        for kind in good:
            digest = hashlib.sha256(whole[kind]).hexdigest()
            assert (verdicts[server.url(kind)].verdict, verdicts[server.url(kind)].sha256) == ("ok", digest)
        temporary = {kind for kind in FAULTS if got[kind].startswith("temporary")}
        keys = {hashlib.sha256(server.url(kind).encode()).hexdigest() for kind in temporary}
        assert {name.partition(".")[0] for name in left_over(out)} <= keys

        server.forget()
        again = fetch(wanted, out, door_to(server.host, server.port, budgets), workers=24)
        assert {path.partition("?")[0].strip("/") for _, path in server.hits} == temporary
        assert again == verdicts
        assert tree(out) == media
        rows = {kind: row_of(out, server.url(kind)) for kind in FAULTS}
        assert {kind for kind, row in rows.items() if row and row.attempts == 2} == temporary
        assert {row.status for row in rows.values() if row} >= {None, 404, 410, 451, 500, 503, 302}


def test_a_host_that_forbids_everything_is_left_alone(tmp_path: Path) -> None:
    with FaultServer(tmp_path) as server:
        wanted = dict.fromkeys((server.url(f"403?{n}") for n in range(60)), "image")
        verdicts = fetch(wanted, tmp_path / "out", door_to(server.host, server.port, tmp_path / "b"), workers=4)
        assert STREAK <= len(server.hits) <= STREAK + 4
        assert {(v.reason, v.detail) for v in verdicts.values()} == {("download_failed", "403")}
        assert {class_of(tmp_path / "out", url) for url in wanted} == {"temporary 403"}


def test_ten_years_of_retry_after_are_a_day_and_end_the_run_at_once(tmp_path: Path) -> None:
    with FaultServer(tmp_path) as server:
        wanted = dict.fromkeys((server.url(f"429_ten_years?{n}") for n in range(30)), "image")
        started = time.monotonic()
        verdicts = fetch(wanted, tmp_path / "out", door_to(server.host, server.port, tmp_path / "b", 20.0), workers=4)
        assert time.monotonic() - started < 5.0
        assert len(server.hits) <= 4
        assert {(v.reason, v.detail) for v in verdicts.values()} == {("download_failed", "asked us to wait")}
        server.forget()
        fetch(wanted, tmp_path / "out", door_to(server.host, server.port, tmp_path / "b", 20.0), workers=4)
        assert server.hits == []


def test_nothing_depends_on_the_order_of_answers(tmp_path: Path) -> None:
    some = [kind for kind in FAULTS if not any(word in kind for word in ("drip", "slow", "stall", "seconds", "date"))]
    with FaultServer(tmp_path, n_plain=40) as server:
        kinds = [*some, *(f"file/{n}" for n in range(40))]
        results = []
        for n, workers in enumerate((1, 16)):
            server.forget()
            random.Random(n).shuffle(kinds)
            out = tmp_path / f"out{n}"
            verdicts = fetch(
                server.modality_of(*kinds), out, door_to(server.host, server.port, tmp_path / f"b{n}"), workers=workers
            )
            results.append((dict(sorted(verdicts.items())), tree(out)))
    assert results[0] == results[1]
    assert len(results[0][1]) == 40 + sum(FAULTS[kind][1] == OK for kind in some)


def test_a_url_that_is_not_allowed_is_refused_without_a_request(tmp_path: Path) -> None:
    with FaultServer(tmp_path) as server:
        wanted = {f"http://user:pw@{server.host}:{server.port}/plain": "audio", "https://evil.org/x.mp3": "audio",
                  f"http://{server.host}:1/x.png": "image", "nan": "audio", "": "image"}  # fmt: skip
        verdicts = fetch(wanted, tmp_path / "out", door_to(server.host, server.port, tmp_path / "b"))
        assert [v.detail for v in verdicts.values()] == [
            "not a plain web address", "not http", "not an allowed port", "not a plain web address",
            "not a plain web address",
        ]  # fmt: skip
        assert server.hits == []


def test_two_urls_of_the_same_bytes_are_one_file(tmp_path: Path) -> None:
    with FaultServer(tmp_path) as server:
        server.bodies["twin"] = server.bodies["chunked"]
        wanted = server.modality_of("twin", "chunked")
        verdicts = fetch(wanted, tmp_path / "out", door_to(server.host, server.port, tmp_path / "b"))
        assert len({v.sha256 for v in verdicts.values()}) == 1
        assert len(tree(tmp_path / "out")) == 1
        assert left_over(tmp_path / "out") == set()
        server.forget()
        assert fetch(wanted, tmp_path / "out", door_to(server.host, server.port, tmp_path / "b")) == verdicts
        assert server.hits == []


def test_other_limits_judge_again_what_is_there_without_asking(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FaultServer(tmp_path, n_plain=2) as server:
        kinds = ("file/0", "file/1", "html_with_200")
        verdicts = fetch(server.modality_of(*kinds), out, door_to(server.host, server.port, tmp_path / "b"))
        media = tree(out)
        server.forget()
        again = fetch(server.modality_of(*kinds), out, door_to(server.host, server.port, tmp_path / "b"), policy="q")
        assert [path for _, path in server.hits] == ["/html_with_200"]  # refused by content; other limits may take it
        assert again == verdicts
        assert tree(out) == media


def test_a_verified_file_that_is_gone_is_fetched_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FaultServer(tmp_path, n_plain=2) as server:
        wanted = server.modality_of("file/0", "file/1")
        verdicts = fetch(wanted, out, door_to(server.host, server.port, tmp_path / "b"))
        media = tree(out)
        (out / sorted(media)[0]).unlink()
        server.forget()
        assert fetch(wanted, out, door_to(server.host, server.port, tmp_path / "b")) == verdicts
        assert len(server.hits) == 1
        assert tree(out) == media


def test_hosts_that_hang_end_in_time_and_leave_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    with FaultServer(tmp_path, n_plain=60) as server:
        kinds = [*(f"file/{n}" for n in range(60)), *(f"stall_before_the_head?{n}" for n in range(20))]
        wanted = dict.fromkeys(map(server.url, kinds), "image")
        door = door_to(server.host, server.port, tmp_path / "b", attempts=2)
        threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        started = time.monotonic()
        verdicts = fetch(wanted, tmp_path / "out", door, workers=10)
        assert time.monotonic() - started < 8.0
        assert sum(v.ok for v in verdicts.values()) == 60
        assert {v.detail for v in verdicts.values() if not v.ok} == {"timeout"}
        assert not [t.name for t in set(threading.enumerate()) - threads if t.name.startswith(("fetch", "Thread-Pool"))]
        server.__exit__()
        door._budgets._db.close()
        time.sleep(0.3)
        assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with FaultServer(tmp_path) as server, Ledger(tmp_path / "ledger.sqlite", "p") as ledger:
        door = door_to(server.host, server.port, tmp_path / "b")

        def check(paths: Iterable[Path]) -> Iterator[Verdict]:
            code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
            line = [sys.executable, "-c", code, str(tmp_path / INCOMING / ".lock")]
            assert b"BlockingIOError" in subprocess.run(line, capture_output=True, check=False).stderr
            with pytest.raises(DatasetError, match="another process downloads into it"):
                fetch_media({}, tmp_path, ledger, door, found=lambda *_: None, check=check_files)
            yield from check_files(paths)

        with door:
            fetch_media(
                server.modality_of("plain"), tmp_path, ledger, door, found=lambda *_: None, check=check, limits=QUICK
            )
    assert len(tree(tmp_path)) == 1


def test_an_interrupt_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Found(dict):
        def __setitem__(self, url: str, verdict: Verdict) -> None:
            super().__setitem__(url, verdict)
            if len(self) == 5 and not calm:
                raise KeyboardInterrupt

    with FaultServer(tmp_path, n_plain=20) as server:
        wanted = server.modality_of(*(f"file/{n}" for n in range(20)), "stall_in_the_body", "stall_before_the_head")
        calm = False
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fetch(wanted, out, door_to(server.host, server.port, tmp_path / "b"), limits=PATIENT, found=Found())
        assert time.monotonic() - started < 5.0  # although two threads were reading for a minute
        n_before = len(tree(out))
        assert n_before >= 5
        calm = True
        server.forget()
        fetch(wanted, out, door_to(server.host, server.port, tmp_path / "b"))
        assert len(tree(out)) == 20
        assert sum(path.startswith("/file") for _, path in server.hits) <= 20 - n_before


CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_download import PATIENT, door_to, fetch
from biovita.errors import DatasetError
out, port, n = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
wanted = {f"http://127.0.0.1:{port}/file/{i}": "image" for i in range(n)}
try:
    verdicts = fetch(wanted, out, door_to("127.0.0.1", port, Path(sys.argv[5])), workers=3, limits=PATIENT)
except DatasetError as error:
    sys.exit(f"DatasetError: {error}")
print(json.dumps({url: verdict.row() for url, verdict in sorted(verdicts.items())}))
"""


def child(out: Path, server: FaultServer, n: int, budgets: Path) -> list[str]:
    return [sys.executable, "-c", CHILD, str(Path(__file__).parent), *map(str, (out, server.port, n, budgets))]


def kill_once(words: list[str], server: FaultServer, out: Path, after_s: float) -> tuple[bool, int, bytes]:
    """Kill a download `after_s` seconds after its first request, and let it go on.

    Returns:
        Whether it was killed before its end, how many files that were verified then the next run asked for again, and
        the verdicts that it printed.
    """
    server.forget()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not server.hits and process.poll() is None:
        time.sleep(0.002)
    time.sleep(after_s)
    was_running = process.poll() is None
    if was_running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with Ledger(out / "ledger.sqlite", "p") as ledger:
        verified = {url for (url,) in ledger._db.execute("SELECT url FROM fetch WHERE state = 'ok'")}
    server.forget()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=120)
    again = {f"http://{server.host}:{server.port}{path}" for _, path in server.hits}
    return was_running, len(again & verified), done.stdout


@pytest.mark.slow
def test_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path) -> None:
    n = 30
    with FaultServer(tmp_path, n_plain=n, delay_s=0.02) as server:
        calm = subprocess.run(
            child(tmp_path / "calm", server, n, tmp_path / "b"), capture_output=True, check=True, timeout=120
        ).stdout
        assert len(tree(tmp_path / "calm")) == n
        rng = random.Random(4)
        n_killed = 0
        for trial in range(2):
            out = tmp_path / f"out{trial}"
            words = child(out, server, n, tmp_path / "b")
            was_running, n_doubled, verdicts = kill_once(words, server, out, rng.uniform(0.0, 0.5))
            n_killed += was_running
            assert n_doubled == 0
            assert tree(out) == tree(tmp_path / "calm")
            assert left_over(out) == set()
            assert verdicts == calm
        assert n_killed >= 1


def can_mount() -> bool:
    line = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return shutil.which("unshare") is not None and not subprocess.run(line, capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize("how", ["true", 'mount -o remount,ro "$1"'])
def test_a_full_or_read_only_disk_is_one_clear_line_and_loses_nothing(tmp_path: Path, how: str) -> None:
    if not can_mount():
        pytest.skip("needs unshare -rm to mount a small disk")
    disk, keep, n = tmp_path / "disk", tmp_path / "keep", 60
    disk.mkdir()
    keep.mkdir()
    with FaultServer(tmp_path, n_plain=n) as server:
        words = child(disk / "out", server, n, tmp_path / "b")
        script = f"""
            mount -t tmpfs -o size=700k tmpfs "$1" && mkdir "$1/out" && {how} || exit 9
            disk=$1 keep=$2; shift 2
            "$@"; code=$?
            cp -r "$disk"/. "$keep"  # the disk ends with this command
            exit $code
        """
        line = ["unshare", "-rm", "sh", "-c", script, "sh", str(disk), str(keep), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "DatasetError:" in done.stderr
        if how != "true":
            assert "choose a folder that can be written" in done.stderr
            return
        assert "run the same command again; " in done.stderr
        assert "verified files (" in done.stderr
        media = tree(keep / "out")
        assert 0 < len(media) < n
        assert set(media.values()) <= {server.bodies[f"file/{i}"] for i in range(n)}
        server.forget()
        words = child(keep / "out", server, n, tmp_path / "b")
        subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=120)
        assert len(tree(keep / "out")) == n
        assert tree(keep / "out").items() >= media.items()


def test_a_disk_that_fails_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with FaultServer(tmp_path, n_plain=10) as server:
        real, n_synced = os.fsync, []

        def fsync(handle: int) -> None:
            n_synced.append(handle)
            if len(n_synced) == 9 and not calm:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        wanted = server.modality_of(*(f"file/{n}" for n in range(10)))
        calm = False
        with pytest.raises(
            DatasetError,
            match=r"No space left on device; free some room .* run the same command again; \d+ verified files",
        ):
            fetch(wanted, out, door_to(server.host, server.port, tmp_path / "b"), workers=1)
        calm = True
        assert all(v.ok for v in fetch(wanted, out, door_to(server.host, server.port, tmp_path / "b")).values())
        assert len(tree(out)) == 10


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / INCOMING).write_text("in the way")
    door = door_to("127.0.0.1", 1, tmp_path / "b")
    with Ledger(tmp_path / "ledger.sqlite", "p") as ledger, pytest.raises(DatasetError, match="incoming: File exists"):
        fetch_media({}, tmp_path, ledger, door, found=lambda *_: None, check=check_files)


def test_a_ledger_row_comes_back_as_it_was(tmp_path: Path) -> None:
    verdict = Verdict(path="https://a.org/x", verdict="ok", sha256="ab", size=(3, 4), flags=("x",), suffix=".png")
    row = Fetch(state="ok", kind="", etag='"e"', size=5, verdict=verdict)
    with Ledger(tmp_path / "l.sqlite", "p") as ledger:
        assert ledger.find_fetch("https://a.org/x") is None
        ledger.keep_fetch("https://a.org/x", row)
    failed = dataclasses.replace(row, state="failed", kind="temporary", status=503, attempts=7)
    with Ledger(tmp_path / "l.sqlite", "q") as ledger:
        assert ledger.find_fetch("https://a.org/x") == (row, False)
        ledger.keep_fetch("https://a.org/x", failed)
        assert ledger.find_fetch("https://a.org/x") == (failed, True)
        assert not failed.is_final


def test_the_socket_of_the_server_is_on_this_machine_only(tmp_path: Path) -> None:
    with FaultServer(tmp_path) as server:
        assert server.host == "127.0.0.1"
        assert server._listener.family == socket.AF_INET
