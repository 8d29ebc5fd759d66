"""Memory does not grow with a blob: one of 1 GiB is handled within 96 MiB above the idle process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from .measured import SIZE

PROJECT = Path(__file__).parents[2]
MOST = 96 << 10  # KiB

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="measures with VmHWM or getrusage"),
]


def measured(verb: str, folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.measured", verb, str(folder)],
        cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_one_gibibyte(tmp_path: Path) -> None:
    """One after another, for each needs what the one before it made."""
    (tmp_path / "tree").mkdir()
    # A quarter that does not compress, so that stored bytes are many as well, and the rest for nothing.
    noise = random.Random(1).randbytes(64 << 20)
    with open(tmp_path / "tree" / "weights", "wb") as file:
        for _ in range(4):
            file.write(noise)
        file.truncate(SIZE)
    taken = {verb: measured(verb, tmp_path) for verb in ("snapshot", "push", "pull", "copy", "verify", "clone")}
    stored = [path.stat().st_size for path in (tmp_path / "pulled" / "blobs").rglob("*.zst")]
    assert max(stored) > 200 << 20
    assert os.stat(tmp_path / "clone" / "weights").st_size == SIZE
    assert all(0 <= kib <= MOST for kib in taken.values()), f"KiB above idle: {taken}"
    print(taken)
