"""Wall and CPU seconds of what is compared, and what is printed about them.

Rules
-----
- What is compared runs by turns, A B A B, each time on fresh targets, after a sync of everything dirty. The least wall
  and the least CPU of the turns count, which is what noise from the rest of the machine disturbs least.
- Of many small files, nothing is removed before the end: ext4 slows down the making of files for minutes after many
  were removed, and that would fall on whoever comes next.
- CPU seconds are user and system time of this process and of its children.
- What runs as a process of its own is started by ``spawn.py``, and its peak is the most of the turns.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Row", "Sample", "by_turns", "least", "line", "process", "sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What something took, in seconds, and the most memory that its process had resident, in MiB, where it has one."""

    wall: float
    cpu: float
    peak: float | None = None

    def __str__(self) -> str:
        memory = "" if self.peak is None else f", {self.peak:.0f} MiB"
        return f"{self.wall:.3f} s ({self.cpu:.3f} CPU{memory})"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Parameters
    ----------
    what, data : str
        What was done, and to which data set.
    ours : Sample
        What pfreg took.
    peer : str
        Who it is compared with, "" for nobody.
    theirs : Sample or None
        What the peer took.
    figure : float or None
        The figure that the goal is about.
    unit : str
        What the figure counts.
    goal : float or None
        The figure's bound, None where nothing is promised.
    at_least : bool
        Whether the goal is a lower bound.
    """

    what: str
    data: str
    ours: Sample
    peer: str = ""
    theirs: Sample | None = None
    figure: float | None = None
    unit: str = ""
    goal: float | None = None
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None or self.figure is None:
            return None
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal


def sample(call: Callable[[], object]) -> Sample:
    """Measure one call."""
    os.sync()
    before, start = _cpu(), time.perf_counter()
    call()
    wall = time.perf_counter() - start
    return Sample(wall, _cpu() - before)


def process(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[Sample, str]:
    """Run a command as a process of its own; return what all of it took, and what it printed.

    Raises
    ------
    SystemExit
        If it fails, with what it said.
    """
    os.sync()
    spawn = [sys.executable, "-I", "-S", str(Path(__file__).with_name("spawn.py"))]
    done = subprocess.run([*spawn, *command], env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    *printed, took = done.stdout.splitlines()
    return Sample(**json.loads(took)), "\n".join(printed)


def least(samples: Sequence[Sample]) -> Sample:
    """Return the least wall and CPU seconds of several turns, and their greatest peak."""
    peaks = [s.peak for s in samples if s.peak is not None]
    return Sample(min(s.wall for s in samples), min(s.cpu for s in samples), max(peaks, default=None))


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def by_turns(turns: int, prepared: Mapping[str, Callable[[], Callable[[], object]]]) -> dict[str, Sample]:
    """Measure several calls by turns; return the least wall and CPU seconds of each.

    Parameters
    ----------
    turns : int
        How often.
    prepared : mapping of str to callable
        For each name, what prepares a turn, unmeasured, and returns the call to measure.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in prepared}
    for _ in range(turns):
        for name, prepare in prepared.items():
            samples[name].append(sample(prepare()))
    return {name: least(took) for name, took in samples.items()}


def line(row: Row) -> str:
    """Return a row for people."""
    width = 24 if row.ours.peak is None else 34
    text = f"{row.what:<27} {row.data:<12} {row.ours!s:<{width}}"
    text += f" {row.peer:<12} {row.theirs!s:<{width}}" if row.theirs is not None else " " * (width + 14)
    if row.figure is not None:
        text += f" {row.figure:8.3g} {row.unit}"
    if row.met is not None:
        text += f"  goal {'>=' if row.at_least else '<='} {row.goal:g}: {'met' if row.met else 'missed'}"
    return text.rstrip()
