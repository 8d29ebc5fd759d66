"""Wall and CPU seconds of what is compared, and what is printed about them.

Rules
-----
- What is compared runs by turns, A B A B, each time on fresh targets, after a sync of everything dirty. The least wall
  and the least CPU of the turns count, which is what noise from the rest of the machine disturbs least.
- Of many small files, nothing is removed before the end: ext4 slows down the making of files for minutes after many
  were removed, and that would fall on whoever comes next.
- CPU seconds are user and system time of this process and of its children.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Row", "Sample", "by_turns", "line", "sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What something took, in seconds."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.3f} s ({self.cpu:.3f} CPU)"


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
    return {name: Sample(min(s.wall for s in took), min(s.cpu for s in took)) for name, took in samples.items()}


def line(row: Row) -> str:
    """Return a row for people."""
    text = f"{row.what:<22} {row.data:<12} {row.ours!s:<24}"
    text += f" {row.peer:<12} {row.theirs!s:<24}" if row.theirs is not None else " " * 38
    if row.figure is not None:
        text += f" {row.figure:8.3g} {row.unit}"
    if row.met is not None:
        text += f"  goal {'>=' if row.at_least else '<='} {row.goal:g}: {'met' if row.met else 'missed'}"
    return text.rstrip()
