"""Whole files on a filesystem: what the engine needs of one, and no more.

Rules
-----
- Explicit paths, whole files. No glob, no recursive verb, no listing cache is trusted.
- A file appears under its name when it is complete, or not at all: in local folders by ``local_files.py``, on all other
  filesystems of fsspec by ``remote_files.py``.
- Absent is what the filesystem reports as :class:`FileNotFoundError`. "Forbidden" and "broken" are never read as such.
- Foreign exceptions become pfreg's own here, with the operation and the place, and without the secrets that were given
  in ``storage_options``.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from fsspec.callbacks import Callback

from pfreg.digest import CHUNK
from pfreg.errors import (
    AccessDenied,
    FolderNotFound,
    LimitExceeded,
    PfregError,
    StorageFull,
    TransferError,
    UnsupportedRegistry,
    one_line,
)

__all__ = [
    "Copier",
    "Files",
    "Found",
    "Lister",
    "Reader",
    "Remover",
    "Writer",
    "bounded",
    "presentable",
    "read_bounded",
    "redacted",
    "refused",
    "translated",
]


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a listing found.

    Parameters
    ----------
    size : int
        Bytes as stored.
    modified : float or None
        Seconds since the epoch, where the filesystem knows.
    """

    size: int
    modified: float | None = None


class Reader(Protocol):
    """Reads whole files."""

    def read_many(self, paths: Sequence[str], *, limit: int) -> list[bytes | None]:
        """Return each file's bytes, None for an absent one; raise LimitExceeded beyond `limit` bytes."""
        ...

    def read_to(self, path: str, local: str, *, limit: int, callback: Callback) -> None:
        """Copy the file at `path` to the local file `local`, which is replaced."""
        ...


class Writer(Protocol):
    """Writes whole files."""

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Write each ``(path, data)``. What is written may stay invisible until :meth:`flush`."""
        ...

    def write_from(self, local: str, path: str, *, callback: Callback) -> None:
        """Write the content of the local file `local` to `path`, under the same condition."""
        ...

    def flush(self) -> None:
        """Make everything written visible, and durable where that is in our hands."""
        ...


class Lister(Protocol):
    """Finds files."""

    def find(self, folder: str) -> dict[str, Found]:
        """Return all files below `folder`; raise NotImplementedError where nothing can be listed."""
        ...

    def info_many(self, paths: Sequence[str], *, surely: bool = True) -> list[Found | None]:
        """Return what is known of each path, None where it is absent or, unless `surely`, where that is refused."""
        ...


class Copier(Protocol):
    """Copies within one filesystem."""

    def copy_many(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Copy each ``(from, to)`` on the filesystem's own side, without a byte through this process."""
        ...

    def copies_from(self, other: Files) -> bool:
        """Tell whether the server of both copies from `other` to here by itself, and nothing is gained by reading."""
        ...


class Remover(Protocol):
    """Removes files."""

    def remove_many(self, paths: Sequence[str]) -> None:
        """Remove each file; one that is absent already is fine."""
        ...


class Files(Reader, Writer, Lister, Copier, Remover, Protocol):
    """All of it, and what there is to know about it.

    Attributes
    ----------
    jobs : int
        How many threads make good use of it.
    partials : bool
        Whether a write that breaks off leaves a partial file.
    bounded : bool
        Whether reading brings no more than its limit and a byte, however large the file is.
    acknowledged : bool
        Whether what it says is written needs no second look.
    largest_copy : int
        Bytes of the largest file that its server copies by itself.
    held : int
        Bytes of one large file that are in memory while it is on its way; 0 for a few buffers.
    """

    jobs: int
    partials: bool
    bounded: bool
    acknowledged: bool
    largest_copy: int
    held: int


@contextlib.contextmanager
def translated(
    operation: str, place: str, *, secrets: Sequence[str] = (), absent_passes: bool = False
) -> Iterator[None]:
    """Turn what a foreign filesystem raises into pfreg's errors; a FileNotFoundError too, unless that is an answer."""
    try:
        yield
    except PfregError:
        raise
    except Exception as e:
        if absent_passes and isinstance(e, FileNotFoundError):
            raise
        kind, hint = _kind(e)
        raise kind(_describe(e, secrets), operation=operation, place=place, hint=hint) from presentable(e, secrets)


def _kind(e: Exception) -> tuple[type[PfregError], str]:
    if refused(e):
        return AccessDenied, "check the credentials and their permissions"
    if isinstance(e, FileNotFoundError) or _status(e) == 404:
        return FolderNotFound, "a folder or bucket is not there, or was removed meanwhile"
    if isinstance(e, NotImplementedError) or (isinstance(e, OSError) and e.errno == errno.ENOSYS):
        return UnsupportedRegistry, "this filesystem cannot do that"
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull, "free some space and run it again: it goes on where it stopped"
    return TransferError, "check connection and credentials, then run it again: it goes on where it stopped"


def refused(e: Exception) -> bool:
    """Tell whether an error of a foreign filesystem means that something is forbidden."""
    return isinstance(e, PermissionError) or _status(e) in (401, 403)


def _status(e: Exception) -> object:
    """Return the HTTP status that Azure's, aiohttp's and Google's errors have, each under a name of its own."""
    found = (getattr(e, name, None) for name in ("status_code", "status", "code"))
    return next((value for value in found if isinstance(value, int)), None)


def _describe(e: Exception, secrets: Sequence[str]) -> str:
    text = (e.strerror if isinstance(e, OSError) and e.strerror else str(e)) or "failed"
    return one_line(f"{type(e).__name__}: {redacted(text, secrets)}", limit=300)


def redacted(text: str, secrets: Sequence[str]) -> str:
    """Return `text` without the secrets that are in it."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def presentable(e: BaseException, secrets: Sequence[str]) -> BaseException | None:
    """Return `e`, unless it or what led to it holds a secret, which a traceback would print."""
    chain: list[BaseException] = []
    pending: list[BaseException | None] = [e]
    while pending:
        link = pending.pop()
        if link is not None and link not in chain:
            chain.append(link)
            pending += [link.__cause__, link.__context__]
    raw = " ".join(f"{link!r} {link}" for link in chain)
    return None if any(secret in raw for secret in secrets) else e


def read_bounded(stream: BinaryIO, path: str, limit: int, *, piece: int = CHUNK) -> bytes:
    """Read `stream`, the file at `path`, to its end, `piece` bytes at a time: some allocate what they are asked."""
    pieces: list[bytes] = []
    left = limit + 1
    while left and (data := stream.read(min(left, piece))):
        pieces.append(data)
        left -= len(data)
    if not left:
        raise LimitExceeded(f"more than {limit} bytes", operation="read", place=path)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def bounded(path: str, data: bytes, limit: int) -> bytes:
    """Return `data`, which was read from `path`, unless it is more than was bargained for."""
    if len(data) > limit:
        raise LimitExceeded(f"{len(data)} bytes, more than {limit}", operation="read", place=path)
    return data
