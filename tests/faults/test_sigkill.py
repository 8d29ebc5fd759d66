"""SIGKILL at every write of a small image: the place verifies, as it was or as it is to be; running again completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .killed import VERBS

PROJECT = Path(__file__).parents[2]
FEW = {"prune": 3, "gc": 10, "clone": 30}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_every_write(verb: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killed", verb, str(tmp_path)],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PF_")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= FEW.get(verb, 60), "where were the writes?"
