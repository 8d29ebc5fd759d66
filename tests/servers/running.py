"""Starting a server, waiting until it answers, and stopping it again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

REQUIRED = os.environ.get("PFREG_REQUIRE_SERVICES") == "1"


def program(name: str, *, install: str) -> str:
    """Return the path of a server's program; without it the test is skipped, or fails where services are required."""
    beside = os.path.dirname(sys.executable)  # where pip puts what comes as a wheel
    places = [beside, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        missing(f"{name} is not installed: {install}")
    return found


def missing(reason: str) -> None:
    """Skip the test that needs a service, or fail it where services are required."""
    if REQUIRED:
        pytest.fail(f"PFREG_REQUIRE_SERVICES=1, and {reason}")
    pytest.skip(reason)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Tell whether something accepts connections."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(
    command: Sequence[str], *, log: Path, ready: Callable[[], bool], seconds: float = 30
) -> subprocess.Popen[bytes]:
    """Start a server in a process group of its own, and wait until it is ready."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            pytest.fail(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a server and everything that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)
