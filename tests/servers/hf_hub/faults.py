"""Faults by rule: which request fails, how often, how, and whether its work is done first."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Fault", "Faults"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule.

    Parameters
    ----------
    path : str
        Regular expression that is searched in the request's path.
    method : str
        HTTP method; any if empty.
    status : int
        What is answered; 0 closes the connection without an answer.
    times : int
        Matching requests that fail; the later ones succeed.
    skip : int
        Matching requests that succeed first.
    after : bool
        Do the work, then fail: the answer is lost and not the request.
    cut : int or None
        Answer rightly, but close the connection after so many bytes of the body.
    message, code : str
        What the Hub says, and the machine-readable kind of error.
    headers : mapping
        Further headers of the answer, such as ``Retry-After``.
    """

    path: str
    method: str = ""
    status: int = 503
    times: int = 1
    skip: int = 0
    after: bool = False
    cut: int | None = None
    message: str = "injected by the test"
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Faults:
    """The rules that are in force."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[Fault, int]] = []

    def add(self, fault: Fault) -> None:
        """Put a rule in force."""
        with self._lock:
            self._seen.append((fault, 0))

    def clear(self) -> None:
        """Take all rules out of force."""
        with self._lock:
            self._seen.clear()

    def strike(self, method: str, path: str) -> Fault | None:
        """Return the fault that this request meets, if any, and count it."""
        with self._lock:
            for index, (fault, seen) in enumerate(self._seen):
                if fault.method in ("", method) and re.search(fault.path, path):
                    self._seen[index] = (fault, seen + 1)
                    if fault.skip <= seen < fault.skip + fault.times:
                        return fault
        return None
