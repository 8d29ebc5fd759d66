"""Calls to the Hugging Face Hub: how long to go on, and what its errors mean.

Rules
-----
- A call is repeated while it fails for a reason that passes (a lost connection, 408, 429, 5xx) and its deadline allows;
  a ``Retry-After`` that lies beyond the deadline ends it at once.
- Only calls that can be repeated without harm go through :func:`call`. The commit is none of them (``hf_commit.py``).
- 404 means absent; 401, 403 and "gated" mean denied, never absent; everything else that does not pass is a
  :class:`~pfreg.errors.TransferError` with the Hub's own words. No error carries a token or a signed URL.
- The Hub client waits for ever by default. Where the application has not chosen otherwise, a silent connection is given
  up after :data:`SILENCE` seconds, since nothing that never ends can be retried.
- The Hub client's own progress bars are off while we work: progress belongs to the caller.
"""

from __future__ import annotations

import errno
import importlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub.errors import (
    BucketNotFoundError,
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,  # that of the HTTP library which this version of the client is built on
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
)

from pfreg.errors import (
    AccessDenied,
    BadReference,
    Conflict,
    ImageNotFound,
    PfregError,
    StorageFull,
    TransferError,
)

__all__ = [
    "LOG_IN",
    "HubError",
    "Patience",
    "call",
    "passes",
    "quiet",
    "status",
    "transferring",
    "translate",
    "translated",
]

FIRST_WAIT = 0.5
"""Seconds before the first repetition; they double from one to the next."""

LONGEST_WAIT = 30.0
"""Seconds between two repetitions at most, unless the Hub asks for more."""

SILENCE = 120.0
"""Seconds without a byte after which a connection counts as lost. A commit of many files is answered after up to 60."""

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, or pass token="

HubError = (HTTPError, json.JSONDecodeError, HFValidationError, OfflineModeIsEnabled)
"""What a call raises when the Hub, or the way to it, fails: an HTTP error, an answer that is no JSON, a bad name."""

_QUERY = re.compile(r"\?[^\s'\"]+")
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_http = importlib.import_module(HTTPError.__module__.partition(".")[0])
_LOST = (_http.NetworkError, _http.TimeoutException, _http.RemoteProtocolError, json.JSONDecodeError)
_RATE_LIMIT = re.compile(r'"\w+"\s*;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,6})')

T = TypeVar("T")


class Patience:
    """A deadline, and the waits until then.

    Parameters
    ----------
    seconds : float
        How long from now repetitions may begin.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._wait = FIRST_WAIT

    def allows_after(self, error: Exception) -> bool:
        """Sleep before the next attempt, or say that there is no time left for one."""
        wait = max(self._wait, _asked_wait(error))
        if time.monotonic() + wait > self._end:
            return False
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        time.sleep(wait)
        return True


def call(work: Callable[[], T], *, operation: str, place: str, patience: Patience) -> T:
    """Return ``work()``, repeated while it fails for a reason that passes.

    Parameters
    ----------
    work : callable
        One or more requests which may be sent twice without harm.
    operation, place : str
        What an error says about what was done, and where.
    patience : Patience
        When to stop repeating.

    Raises
    ------
    FileNotFoundError, AccessDenied, Conflict, StorageFull, TransferError
        As :func:`translate` says.
    """
    while True:
        _bound_silence()
        try:
            return work()
        except HubError as error:
            if passes(error) and patience.allows_after(error):
                continue
            raise translate(error, operation=operation, place=place) from error


@contextmanager
def translated(operation: str, place: str) -> Iterator[None]:
    """Turn the Hub client's errors inside the block into ours, without repeating anything."""
    _bound_silence()
    try:
        yield
    except HubError as error:
        raise translate(error, operation=operation, place=place) from error


@contextmanager
def transferring(operation: str, place: str) -> Iterator[None]:
    """Turn errors of a bulk transfer (LFS, Xet) inside the block into ours.

    Below the Hub's own errors those are built-in ones, whose causes name signed addresses: they are left behind.
    """
    try:
        with translated(operation, place), quiet():
            yield
        return
    except PfregError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        if isinstance(error.__cause__, HubError):
            failure = translate(error.__cause__, operation=operation, place=place)
        elif isinstance(error, PermissionError):
            failure = AccessDenied("the Hub's storage refused the token", operation=operation, place=place, hint=LOG_IN)
        else:
            words = _QUERY.sub("?...", str(error))
            failure = TransferError(words, operation=operation, place=place, hint="run it again")
    raise failure from None


def status(error: BaseException) -> int:
    """Return the HTTP status that `error` reports, 0 where none was received."""
    response = getattr(error, "response", None)
    return int(response.status_code) if isinstance(error, HTTPError) and response is not None else 0


def passes(error: Exception) -> bool:
    """Whether the same call may well succeed a little later."""
    return status(error) in _PASSING or isinstance(error, _LOST)


def translate(error: Exception, *, operation: str, place: str) -> Exception:
    """Return what `error` means, as an error of pfreg.

    Parameters
    ----------
    error : Exception
        What the Hub client raised.
    operation, place : str
        What was done, and where.
    """
    code = status(error)
    words = _words(error, code)

    def told(kind: type[PfregError], problem: str, hint: str = "") -> PfregError:
        return kind(problem, operation=operation, place=place, hint=hint)

    if isinstance(error, HFValidationError):
        return told(BadReference, "not a valid repository name")
    if isinstance(error, GatedRepoError):
        return told(AccessDenied, f"the repository is gated: {words}", "ask for access on its page, then log in")
    if code == 401:
        return told(AccessDenied, f"private, or not there: {words}", LOG_IN)
    if code == 403:
        return told(AccessDenied, f"the token may not do this: {words}", "use a token that may write here")
    if isinstance(error, RevisionNotFoundError):
        return told(ImageNotFound, "there is no such branch, tag or commit")
    if isinstance(error, (RepositoryNotFoundError, BucketNotFoundError)):
        return told(ImageNotFound, "there is no such repository, or the token may not see it")
    if isinstance(error, EntryNotFoundError) or code == 404:
        return FileNotFoundError(place)
    if code in (409, 412):
        return told(Conflict, f"somebody else was first: {words}", "run it again")
    if code in (402, 413, 507):
        return told(StorageFull, f"the Hub has no room for this: {words}")
    return told(TransferError, words, _advice(error))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the Hub client's progress bars off inside the block, in whatever number of threads."""
    with _bars:
        yield


class _Bars:
    """Counts who wants silence: the first in turns the bars off, the last out turns them on again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._restore = not are_progress_bars_disabled()
                if self._restore:
                    disable_progress_bars()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._restore:
                enable_progress_bars()


_bars = _Bars()


def _asked_wait(error: Exception) -> float:
    """Return how many seconds the Hub asked to wait."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    after = str(headers.get("retry-after", "")).strip()
    if after.isdecimal() and len(after) <= 6:
        return float(after)
    limited = _RATE_LIMIT.search(str(headers.get("ratelimit", ""))[:200])
    return float(limited[1]) if limited and status(error) == 429 else 0.0


def _words(error: Exception, code: int) -> str:
    said = getattr(error, "server_message", None)
    if said:
        return str(said)[:300]
    return f"the Hub answered {code}" if code else f"the connection failed ({type(error).__name__})"


def _advice(error: Exception) -> str:
    if wait := _asked_wait(error):
        return f"the Hub asks to come back in {wait:.0f} seconds"
    return "run it again later: what was sent is not sent again" if passes(error) else ""


def _bound_silence() -> None:
    client = get_session()
    unbounded = type(client.timeout)(None)
    if client.timeout == unbounded:
        client.timeout = type(client.timeout)(SILENCE)
