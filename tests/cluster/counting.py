"""An executor that passes work on to another, and keeps what becomes of it."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any


class Counting(Executor):
    """Passes work on, and keeps the futures, which dask forgets otherwise."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See concurrent.futures."""
        self.futures.append(self.inner.submit(fn, *args, **kwargs))
        return self.futures[-1]
