"""The environment of the tests themselves."""

import os
import socket
import subprocess
import sys
from typing import Any

import pytest


def test_no_test_reaches_another_machine() -> None:
    for address in (("192.0.2.1", 80), ("2001:db8::1", 80)):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family) as closed, pytest.raises(RuntimeError, match="wanted to reach"):
            closed.connect(address)
    with pytest.raises(RuntimeError, match=r"wanted to reach 'example\.org'"):
        socket.create_connection(("example.org", 443))


def test_this_machine_may_speak_to_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"x")
        with server.accept()[0] as accepted:
            assert accepted.recv(1) == b"x"


def test_the_environment_is_the_same_everywhere() -> None:
    assert os.environ["TZ"] == "UTC"
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert [name for name in os.environ if name.startswith("BIOVITA")] == ["BIOVITA_HOME"]
    assert "biovita-tests-" in os.environ["BIOVITA_HOME"]


def test_arithmetic_runs_in_one_thread_here_and_in_children() -> None:
    import torch

    assert torch.get_num_threads() == 1
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['HF_HUB_OFFLINE'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_warnings_are_errors(pytestconfig: Any) -> None:
    assert pytestconfig.getini("filterwarnings")[0] == "error"
