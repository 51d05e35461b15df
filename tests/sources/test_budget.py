"""Budgets of hosts: spacing, volumes, Retry-After; shared by threads, processes and restarts."""

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from biovita.errors import DatasetError, FetchError
from biovita.sources.budget import BUDGETS, GB, MARGIN, MAX_BLOCK_S, Budget, Budgets, default_path

DAY = 86_400.0


class Clock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def open_budgets(path: Path, clock: Clock | None = None, **terms: object) -> Budgets:
    table = [Budget(hosts=("a.org", "b.org"), **{"per_second": 10.0, **terms})]
    return Budgets(path / "budgets.sqlite", table, clock=clock or time.time)


def wait_of(budgets: Budgets, host: str = "a.org") -> str:
    """Return why the host cannot be asked at once, or nothing."""
    try:
        budgets.take(host, patience_s=0.0)
    except FetchError as error:
        return f"{error} ({error.kind})"
    return ""


def most_in_a_second(times: list[float]) -> int:
    """Count the fullest window of a second, however it is laid: the naive way."""
    times = sorted(times)
    most = begin = 0
    for end, moment in enumerate(times):
        while moment - times[begin] >= 1.0:
            begin += 1
        most = max(most, end - begin + 1)
    return most


def test_requests_are_spaced_evenly_over_threads(tmp_path: Path) -> None:
    times: list[float] = []
    with open_budgets(tmp_path, per_second=50.0) as budgets, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: (budgets.take("a.org"), times.append(time.time())), range(40)))
    times.sort()
    assert times[-1] - times[0] >= 39 * MARGIN / 50 - 0.01
    assert most_in_a_second(times) <= 50


def test_hosts_of_one_service_share_and_others_do_not(tmp_path: Path) -> None:
    clock = Clock()
    with open_budgets(tmp_path, clock) as budgets:
        assert wait_of(budgets, "a.org") == ""
        assert "too many requests" in wait_of(budgets, "b.org")
        assert wait_of(budgets, "c.org") == ""
        clock.now += MARGIN / 10
        assert wait_of(budgets, "b.org") == ""
        assert "too many requests" in wait_of(budgets, "c.org")  # unknown: one a second


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    clock = Clock()
    with open_budgets(tmp_path, clock) as budgets:
        assert wait_of(budgets) == ""
        budgets.block("a.org", 30.0)
    clock.now += 29.9
    with open_budgets(tmp_path, clock) as budgets:
        assert "asked us to wait" in wait_of(budgets)
        clock.now += 0.2
        assert wait_of(budgets) == ""


def test_the_requests_of_a_day_end_below_the_published_number(tmp_path: Path) -> None:
    clock = Clock()
    with open_budgets(tmp_path, clock, requests_per_day=100) as budgets:
        times = []
        for _ in range(3 * 48):
            clock.now += 1800.0
            if wait_of(budgets) == "":
                times.append(clock.now)
        assert len(times) == 3 * 48  # 48 a day never meets the limit
        n = 0
        clock.now += 1.0
        while wait_of(budgets) == "":
            times.append(clock.now)
            clock.now += 1.0
            n += 1
        assert 40 < n < 60
        error = wait_of(budgets)
        assert "requests of a day are spent; come back at 2023-11-" in error
        assert max(sum(t <= u < t + DAY for u in times) for t in times) == 95
        clock.now += 2000.0
        assert wait_of(budgets) == ""


def test_bytes_of_an_hour_and_a_day_end_below_the_published_volume(tmp_path: Path) -> None:
    clock = Clock()
    with open_budgets(tmp_path, clock, bytes_per_hour=1000, bytes_per_day=2000) as budgets:
        budgets.spend("a.org", 949)
        budgets.check_volume("b.org")
        budgets.spend("b.org", 1)
        with pytest.raises(FetchError, match="bytes of an hour are spent; come back"):
            budgets.check_volume("a.org")
        assert "bytes of an hour" in wait_of(budgets)
        clock.now += 3599
        assert "bytes of an hour" in wait_of(budgets)
        clock.now += 62
        assert wait_of(budgets) == ""
        budgets.spend("a.org", 949)
        assert wait_of(budgets) == "" or "too many" in wait_of(budgets)
        budgets.spend("a.org", 1)
        clock.now += 3700
        assert "bytes of a day" in wait_of(budgets)
        clock.now += DAY - 3 * 3600
        assert "bytes of a day" in wait_of(budgets)
        clock.now += 3600
        assert wait_of(budgets) == ""


@pytest.mark.parametrize("back_s", [1.0, 3600.0, DAY, 400 * DAY])
def test_a_clock_that_is_put_back_costs_one_interval(tmp_path: Path, back_s: float) -> None:
    clock = Clock()
    with open_budgets(tmp_path, clock, requests_per_day=1000) as budgets:
        for _ in range(5):
            assert wait_of(budgets) == ""
            clock.now += 1.0
        clock.now -= back_s
        assert "too many requests" in wait_of(budgets)
        for _ in range(900):
            clock.now += 0.2
            assert wait_of(budgets) == ""
        n = 0
        clock.now += 0.2
        while wait_of(budgets) == "" and n < 100:
            n += 1
            clock.now += 0.2
        assert n == 950 - 905  # what was spent before is not forgotten


def test_a_clock_that_is_put_back_does_not_end_a_block_and_not_prolong_it_much(tmp_path: Path) -> None:
    clock = Clock()
    with open_budgets(tmp_path, clock) as budgets:
        budgets.block("a.org", 30.0)
        clock.now -= DAY
        assert "asked us to wait" in wait_of(budgets)
        clock.now += 29.0
        assert "asked us to wait" in wait_of(budgets)
        clock.now += 1.1
        assert wait_of(budgets) == ""


def test_a_block_is_never_shortened_and_never_longer_than_a_day(tmp_path: Path) -> None:
    clock = Clock()
    with open_budgets(tmp_path, clock) as budgets:
        budgets.block("a.org", 60.0)
        budgets.block("b.org", 1.0)
        clock.now += 59.0
        assert "asked us to wait" in wait_of(budgets)
        budgets.block("a.org", 1e12)
        clock.now += MAX_BLOCK_S - 1
        assert "asked us to wait" in wait_of(budgets)
        clock.now += 2
        assert wait_of(budgets) == ""


def test_waiting_ends_when_told(tmp_path: Path) -> None:
    stop = threading.Event()
    with open_budgets(tmp_path) as budgets:
        budgets.block("a.org", 60.0)
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(FetchError, match="stopped"):
            budgets.take("a.org", stop=stop)


def test_the_table_holds_the_published_terms() -> None:
    terms = {host: budget for budget in BUDGETS for host in budget.hosts}
    assert len(terms) == sum(len(budget.hosts) for budget in BUDGETS)
    assert terms["xeno-canto.org"].per_second <= 1
    assert terms["api.inaturalist.org"].per_second <= 60 / 60
    assert terms["api.inaturalist.org"].requests_per_day == 10_000
    assert terms["inaturalist-open-data.s3.amazonaws.com"].bytes_per_hour == 5 * GB
    assert terms["static.inaturalist.org"].bytes_per_day == 24 * GB


def test_the_file_lies_in_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BIOVITA_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_path() == tmp_path / ".cache" / "biovita" / "budgets.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert default_path() == tmp_path / "c" / "biovita" / "budgets.sqlite"
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "b"))
    assert default_path() == tmp_path / "b" / "budgets.sqlite"


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "budgets.sqlite").write_text("this is no database, however long it may be" * 50)
    with pytest.raises(DatasetError, match=r"budgets\.sqlite: cannot keep"):
        open_budgets(tmp_path)
    with pytest.raises(DatasetError, match="cannot keep"):
        Budgets(tmp_path / "budgets.sqlite" / "below" / "it")


CHILD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from biovita.sources.address import Policy
from biovita.sources.budget import Budget, Budgets
from biovita.sources.http import Door

file, port, per_second, n, n_threads = sys.argv[1], *map(int, sys.argv[2:])
policy = Policy(hosts=("127.0.0.1",), schemes=("http",), ports=(port,), public_only=False)
budgets = Budgets(Path(file), [Budget(hosts=("127.0.0.1",), per_second=per_second)])
with Door(policy, budgets) as door, ThreadPoolExecutor(n_threads) as pool:
    list(pool.map(lambda i: door.get(f"http://127.0.0.1:{port}/file/0"), range(n)))
"""


@pytest.mark.slow
def test_processes_and_restarts_together_break_no_rate(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
    from fault_server import FaultServer

    per_second, n = 200, 100
    with FaultServer(tmp_path, n_plain=1) as server:
        words = [tmp_path / "budgets.sqlite", server.port, per_second, n, 4]
        line = [sys.executable, "-c", CHILD, *map(str, words)]
        for _ in range(3):  # restarts
            both = [subprocess.Popen(line, env=os.environ) for _ in range(2)]
            assert [child.wait(60) for child in both] == [0, 0]
        times = [moment for moment, _ in server.hits]
    assert len(times) == 3 * 2 * n
    assert most_in_a_second(times) <= per_second
    gaps = [b - a for a, b in itertools.pairwise(sorted(times))]
    assert sum(gaps) > (len(times) - 1) / per_second
