"""Progress of long work, through one fsspec ``Callback``.

Rules
-----
- Sizes are stored bytes: what really travels or is read.
- Many threads report; one lock orders them, because callbacks are not expected to be thread-safe.
- A callback that also wants to count blobs has a method ``blobs(done, total)``; fsspec's own have not, and need not.
"""

from __future__ import annotations

import importlib.util
import threading
from typing import Any, Protocol, TextIO, runtime_checkable

from fsspec.callbacks import Callback, NoOpCallback

__all__ = ["Bar", "CountsBlobs", "Progress"]


@runtime_checkable
class CountsBlobs(Protocol):
    """A callback that shows blobs beside bytes."""

    def blobs(self, done: int, total: int) -> None:
        """Take note that `done` of `total` blobs are done."""
        ...


class Progress:
    """Counts bytes and blobs of one operation and passes them to the user's callback.

    Parameters
    ----------
    callback : fsspec.callbacks.Callback, optional
        The user's.
    """

    def __init__(self, callback: Callback | None = None) -> None:
        self._callback = NoOpCallback() if callback is None else callback
        self._counter = self._callback if isinstance(self._callback, CountsBlobs) else None
        self._lock = threading.Lock()
        self._size = self._blobs = self._done = 0

    def expect(self, *, size: int, blobs: int) -> None:
        """Announce more work: `size` stored bytes in `blobs` blobs."""
        with self._lock:
            self._size += size
            self._blobs += blobs
            self._callback.set_size(self._size)
            self._tell()

    def advance(self, size: int, *, blobs: int = 1) -> None:
        """Report blobs that are done, and those of their bytes that no branch has reported."""
        with self._lock:
            self._done += blobs
            if size:
                self._callback.relative_update(size)
            self._tell()

    def branch(self, expected: int) -> Branch:
        """Return the callback for the transfer of one large blob of `expected` bytes."""
        return Branch(self, expected)

    def _tell(self) -> None:
        if self._counter is not None:
            self._counter.blobs(self._done, self._blobs)


class Branch(Callback):  # type: ignore[misc]
    """Passes on the bytes of one transfer as they flow, and the rest at its end: some filesystems report nothing."""

    def __init__(self, progress: Progress, expected: int) -> None:
        super().__init__()
        self._progress, self._expected, self._seen = progress, expected, 0

    def relative_update(self, inc: int = 1) -> None:
        """Take `inc` more bytes."""
        step = min(inc, self._expected - self._seen)
        if step > 0:
            self._seen += step
            self._progress.advance(step, blobs=0)

    def absolute_update(self, value: int) -> None:
        """Take the number of bytes so far."""
        self.relative_update(value - self._seen)

    def branched(self, path_1: Any, path_2: Any, **kwargs: Any) -> Branch:
        """Return this very callback: a transfer in pieces is one transfer."""
        return self

    def finish(self) -> None:
        """Report the blob, and what is left of it."""
        self._progress.advance(self._expected - self._seen)


class Bar(Callback):  # type: ignore[misc]
    """One line on a terminal: bytes, blobs, speed, time left. It is drawn by tqdm, the extra ``progress``.

    Parameters
    ----------
    label : str
        What is going on.
    stream : file-like
        The terminal.
    """

    def __init__(self, label: str, stream: TextIO) -> None:
        super().__init__()
        from tqdm import tqdm

        self._bar = tqdm(desc=label, total=0, unit="B", unit_scale=True, unit_divisor=1024, file=stream, leave=False)

    @classmethod
    def on_terminal(cls, label: str, stream: TextIO) -> Bar | None:
        """Return a bar, or None where `stream` is no terminal, or tqdm is not installed."""
        if not stream.isatty() or importlib.util.find_spec("tqdm") is None:
            return None
        return cls(label, stream)

    def blobs(self, done: int, total: int) -> None:
        """See :class:`CountsBlobs`."""
        self._bar.set_postfix_str(f"{done}/{total} blobs", refresh=False)

    def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
        """Take over what has been reported; tqdm draws it, but not too often."""
        self._bar.total = self.size
        self._bar.update(self.value - self._bar.n)

    def draw(self) -> None:
        """Draw the line now."""
        self._bar.refresh()

    def close(self) -> None:
        """Remove the line."""
        self._bar.close()


def human(size: float) -> str:
    """Return a number of bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
