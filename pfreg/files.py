"""Whole files on a filesystem: what the engine needs of fsspec, and no more.

Rules
-----
- Explicit paths, whole files. No glob, no recursive verb, no listing cache is trusted.
- A file appears under its name when it is complete, or not at all. How is a property of the protocol, kept as data
  in :data:`WRITES`: object stores put atomically; folders reached over a network are written aside and renamed; local
  folders have a module of their own (``local_files.py``), for fsspec promises nothing about them.
- Absent is what the filesystem reports as :class:`FileNotFoundError`. "Forbidden" and "broken" are never read as such.
- Foreign exceptions become pfreg's own here, with the operation and the place, and without the secrets that were given
  in ``storage_options``.
- An asynchronous filesystem gets one coroutine per batch on its own loop, never a blocking call per file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
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
from pfreg.layout import partial_name

__all__ = ["AsyncFiles", "Copier", "Files", "Found", "Lister", "Reader", "Remover", "SyncFiles", "Writer", "translated"]

T = TypeVar("T")
U = TypeVar("U")

IN_FLIGHT = 32
"""Requests under way at once on one asynchronous filesystem."""

_JOBS = 8
_MANY = 8  # requests from which on threads are worth it
_CONNECTIONS = 4  # where each thread needs a connection, and a login, of its own


class Parts(NamedTuple):
    """How a large file is to be cut on its way: bytes of a part, how many are under way, and how many there may be."""

    size: int
    at_once: int
    most: int

    def options(self, size: int) -> dict[str, int]:
        """Return what ``_put_file`` and ``_get_file`` are told about a file of `size` bytes."""
        return {"chunksize": max(self.size, -(-size // self.most)), "max_concurrency": self.at_once}


class Writes(NamedTuple):
    """How a protocol writes: whether bytes, and a local file, appear all at once; whether connections are shared.

    And, in the same table, how it reads: whether each open file has a position of its own; what it can be told about
    parts; whether "written" is a promise that needs no second look; whether the server itself copies. And what else
    ``_put_file`` and ``_get_file`` are told lest they hold a large file in memory, and how many bytes of it, copies
    counted, they hold all the same.
    """

    bytes_at_once: bool
    file_at_once: bool
    shared: bool
    own_positions: bool = True
    parts: Parts | None = None
    acknowledged: bool = False
    copies: bool = False
    put: Mapping[str, Any] = MappingProxyType({})
    get: Mapping[str, Any] = MappingProxyType({})
    held: int = 0


_OBJECT_STORE = Writes(bytes_at_once=True, file_at_once=True, shared=True)
_FOLDER = Writes(bytes_at_once=False, file_at_once=False, shared=False)
_S3 = _OBJECT_STORE._replace(parts=Parts(8 << 20, 2, 9_500), held=32 << 20, acknowledged=True, copies=True)
# gcsfs reads from several places at once, into many buffers, unless it is given headers.
_GS = _OBJECT_STORE._replace(put={"chunksize": 8 << 20}, get={"headers": {}}, held=32 << 20, copies=True)
# Azure's library puts up to 64 MiB in one piece, and gets the first 32 MiB so; beyond, adlfs would have 128 pieces.
_ABFS = _OBJECT_STORE._replace(put={"max_concurrency": 4}, get={"max_concurrency": 4}, held=192 << 20, copies=True)

WRITES: Mapping[str, Writes] = {
    # In memory, bytes appear at once, but a file piece by piece; and all who open one share a position.
    "memory": Writes(bytes_at_once=True, file_at_once=False, shared=True, own_positions=False),
    "s3": _S3,
    "s3a": _S3,
    "gs": _GS,
    "abfs": _ABFS,
    **dict.fromkeys(("sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs", "arrow_hdfs", "webdav", "dav", "jlab"), _FOLDER),
}
"""What is not listed here puts like an object store."""

RANGED = frozenset({"s3", "s3a", "gs", "gcs", "abfs"})
"""Filesystems whose servers send the beginning of a file of unknown length, in one request."""

_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


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
    held : int
        Bytes of one large file that are in memory while it is on its way; 0 for a few buffers.
    """

    jobs: int
    partials: bool
    bounded: bool
    acknowledged: bool
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
    if _refused(e):
        return AccessDenied, "check the credentials and their permissions"
    if isinstance(e, FileNotFoundError) or _status(e) == 404:
        return FolderNotFound, "a folder or bucket is not there, or was removed meanwhile"
    if isinstance(e, NotImplementedError) or (isinstance(e, OSError) and e.errno == errno.ENOSYS):
        return UnsupportedRegistry, "this filesystem cannot do that"
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull, "free some space and run it again: it goes on where it stopped"
    return TransferError, "check connection and credentials, then run it again: it goes on where it stopped"


def _refused(e: Exception) -> bool:
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


class _Bound(Callback):  # type: ignore[misc]
    """Ends a download that brings more bytes than it should, and passes progress on."""

    def __init__(self, limit: int, place: str, inner: Callback) -> None:
        super().__init__()
        self._limit, self._place, self._inner, self._seen, self._begins = limit, place, inner, 0, True

    def set_size(self, size: int | None) -> None:
        self._begins = True  # perhaps once more: a filesystem may try again by itself

    def relative_update(self, inc: int = 1) -> None:
        self.absolute_update(inc if self._begins else self._seen + inc)

    def absolute_update(self, value: int) -> None:
        if value > self._limit:
            raise LimitExceeded(f"more than {self._limit} bytes", operation="read", place=self._place)
        self._inner.relative_update(value - self._seen)
        self._seen, self._begins = value, False


def _found(info: Mapping[str, Any], path: str) -> Found | None:
    if info.get("type", "file") != "file":
        return None
    size = info.get("size")
    if not isinstance(size, int) or size < 0:
        raise TransferError("the filesystem does not tell the size of a file", operation="list", place=path)
    return Found(size, _modified(info))


def _modified(info: Mapping[str, Any]) -> float | None:
    for key in _MODIFIED:
        value = info.get(key)
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            return aware.timestamp()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _protocol(fs: AbstractFileSystem) -> str:
    return fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]


class _Remote:
    """What synchronous and asynchronous filesystems have in common."""

    def __init__(self, fs: AbstractFileSystem, *, secrets: Sequence[str] = ()) -> None:
        self.fs = fs
        self._secrets = tuple(secrets)
        self._writes = WRITES.get(_protocol(fs), _OBJECT_STORE)
        self._folders: set[str] = set()
        self.jobs = _JOBS if self._writes.shared else _CONNECTIONS
        self.partials = not (self._writes.bytes_at_once and self._writes.file_at_once)
        self.bounded = not fs.async_impl or _protocol(fs) in RANGED
        self.acknowledged = self._writes.acknowledged
        self.held = self._writes.held

    def flush(self) -> None:
        """Do nothing: a remote file is there when its write returns."""

    def _translated(
        self, operation: str, place: str, *, absent_passes: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        return translated(operation, place, secrets=self._secrets, absent_passes=absent_passes)

    def copies_from(self, other: Files) -> bool:
        """Tell whether the server of both copies from one to the other by itself."""
        return (
            self._writes.copies
            and isinstance(other, _Remote)
            and type(self.fs) is type(other.fs)
            and (self.fs.storage_args, self.fs.storage_options) == (other.fs.storage_args, other.fs.storage_options)
        )

    def _listed(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Found]:
        entries = ((path, _found(info, path)) for path, info in found.items())
        return {path: entry for path, entry in entries if entry is not None}


def _pipe(fs: AbstractFileSystem, path: str, *, data: bytes) -> None:
    fs.pipe_file(path, data)


def _copy(fs: AbstractFileSystem, target: str, *, source: str) -> None:
    fs.cp_file(source, target)


class SyncFiles(_Remote):
    """A synchronous filesystem; called from several threads at once.

    Parameters
    ----------
    fs : AbstractFileSystem
        The filesystem. Where its protocol cannot share a connection, every thread opens one like it.
    secrets : sequence of str
        What must not appear in errors.
    """

    def __init__(self, fs: AbstractFileSystem, *, secrets: Sequence[str] = ()) -> None:
        super().__init__(fs, secrets=secrets)
        self._local = threading.local()
        self._local.fs = fs
        self._by_range = not self._writes.own_positions or _protocol(fs) in RANGED

    def _connection(self) -> AbstractFileSystem:
        if self._writes.shared:
            return self.fs
        found = getattr(self._local, "fs", None)
        if found is None:
            options = {**self.fs.storage_options, "skip_instance_cache": True}
            found = self._local.fs = type(self.fs)(*self.fs.storage_args, **options)
        return found

    def read_many(self, paths: Sequence[str], *, limit: int) -> list[bytes | None]:
        """Read files one after another; see :class:`Reader`."""
        return [self._read(path, limit) for path in paths]

    def _read(self, path: str, limit: int) -> bytes | None:
        with self._translated("read", path):
            fs = self._connection()
            try:
                if self._by_range:
                    return bounded(path, fs.cat_file(path, start=0, end=limit + 1), limit)
                with fs.open(path, "rb") as stream:
                    return read_bounded(stream, path, limit)
            except FileNotFoundError:
                return None

    def read_to(self, path: str, local: str, *, limit: int, callback: Callback) -> None:
        """Download a file; see :class:`Reader`."""
        with self._translated("read", path, absent_passes=True):
            if self._writes.own_positions:
                self._connection().get_file(path, local, callback=_Bound(limit, path, callback))
                return
            with open(local, "wb") as target:
                target.write(bounded(path, self._connection().cat_file(path, start=0, end=limit + 1), limit))

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Write files one after another; see :class:`Writer`."""
        for path, data in items:
            with self._translated("write", path):
                if self._writes.bytes_at_once:
                    self._in_folder(path, partial(_pipe, path=path, data=data))
                else:
                    self._aside(path, len(data), partial(_pipe, data=data))

    def write_from(self, local: str, path: str, *, callback: Callback) -> None:
        """Upload a file; see :class:`Writer`."""
        with self._translated("write", path):
            if self._writes.file_at_once:
                self._in_folder(path, lambda fs: fs.put_file(local, path, callback=callback))
            else:
                size = os.stat(local).st_size
                self._aside(path, size, lambda fs, temporary: fs.put_file(local, temporary, callback=callback))

    def _make_folder(self, fs: AbstractFileSystem, folder: str) -> None:
        """Make a folder that others may be making at the same time, which some servers call a failure."""
        if folder in self._folders:
            return
        for last in (False, False, True):
            try:
                fs.makedirs(folder, exist_ok=True)
                break
            except OSError:
                if fs.isdir(folder):
                    break
                if last:
                    raise
        self._folders.add(folder)

    def _in_folder(self, path: str, write: Callable[[AbstractFileSystem], object]) -> None:
        """Write; where the filesystem wants its folder made first, make it and write again."""
        fs = self._connection()
        try:
            write(fs)
        except FileNotFoundError:
            self._make_folder(fs, posixpath.dirname(path))
            write(fs)

    def _aside(self, path: str, size: int | None, write: Callable[[AbstractFileSystem, str], object]) -> None:
        """Write under another name, look whether all of it arrived, and rename."""
        fs, folder, temporary = self._connection(), posixpath.dirname(path), partial_name(path)
        self._make_folder(fs, folder)
        try:
            write(fs, temporary)
            arrived = fs.info(temporary)["size"]
            if size is not None and arrived != size:
                raise TransferError(f"{arrived} of {size} bytes arrived", operation="write", place=path)
            fs.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                fs.rm_file(temporary)
            raise

    def find(self, folder: str) -> dict[str, Found]:
        """List; see :class:`Lister`."""
        with self._translated("list", folder):
            fs = self._connection()
            fs.invalidate_cache()
            try:
                return self._listed(fs.find(folder, detail=True, on_error="raise"))
            except FileNotFoundError:
                return {}

    def info_many(self, paths: Sequence[str], *, surely: bool = True) -> list[Found | None]:
        """Look files up, several at a time; see :class:`Lister`."""
        return self._each(partial(self._info, surely=surely), paths)

    def _info(self, path: str, *, surely: bool) -> Found | None:
        with self._translated("look up", path):
            try:
                return _found(self._connection().info(path), path)
            except FileNotFoundError:
                return None
            except PermissionError:
                if surely:
                    raise
                return None

    def copy_many(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Copy on the server, several at a time; see :class:`Copier`."""
        self._each(self._copy, pairs)

    def _copy(self, pair: tuple[str, str]) -> None:
        source, target = pair
        with self._translated("copy", target):
            if self._writes.file_at_once or self._writes.bytes_at_once:
                self._in_folder(target, partial(_copy, target=target, source=source))
            else:
                self._aside(target, None, partial(_copy, source=source))

    def remove_many(self, paths: Sequence[str]) -> None:
        """Remove files, several at a time; see :class:`Remover`."""
        self._each(self._remove, paths)

    def _remove(self, path: str) -> None:
        with self._translated("remove", path), contextlib.suppress(FileNotFoundError):
            self._connection().rm_file(path)

    def _each(self, call: Callable[[U], T], items: Sequence[U]) -> list[T]:
        """Call for every item, on threads where that is worth it; start no more after the first failure."""
        if len(items) < _MANY or not self._writes.acknowledged:
            return [call(item) for item in items]
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="pfreg") as pool:
            futures = [pool.submit(call, item) for item in items]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()


class AsyncFiles(_Remote):
    """An asynchronous filesystem, driven on its own loop by threads that are not on it.

    Parameters
    ----------
    fs : AsyncFileSystem
        The filesystem, made with ``asynchronous=False``, so that it has a loop running on a thread.
    secrets : sequence of str
        What must not appear in errors.
    """

    def __init__(self, fs: AbstractFileSystem, *, secrets: Sequence[str] = ()) -> None:
        super().__init__(fs, secrets=secrets)
        self._turn = asyncio.Semaphore(IN_FLIGHT)
        # fsspec's own walk leaves out what it cannot list unless it is told; who lists otherwise may not know how.
        self._strict = {"on_error": "raise"} if type(fs)._find is AsyncFileSystem._find else {}

    def read_many(self, paths: Sequence[str], *, limit: int) -> list[bytes | None]:
        """Read files at once; see :class:`Reader`."""

        async def read(path: str) -> bytes | None:
            with self._translated("read", path):
                try:
                    return bounded(path, await self._beginning(path, limit + 1), limit)
                except FileNotFoundError:
                    return None

        return self._all([partial(read, path) for path in paths])

    async def _beginning(self, path: str, size: int) -> bytes:
        """Return up to `size` bytes where the server can stop there, else the whole file."""
        if not self.bounded:
            data: bytes = await self.fs._cat_file(path)
            return data
        try:
            data = await self.fs._cat_file(path, start=0, end=size)
        except FileNotFoundError:
            raise
        except Exception:  # not every filesystem's errors are an OSError
            if (await self.fs._info(path))["size"]:
                raise
            return b""  # of which there is no range
        return data

    def read_to(self, path: str, local: str, *, limit: int, callback: Callback) -> None:
        """Download a file; see :class:`Reader`."""
        with self._translated("read", path, absent_passes=True):
            told = {**self._parts(limit), **self._writes.get}
            self._run(self.fs._get_file(path, local, callback=_Bound(limit, path, callback), **told))

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Write files at once; see :class:`Writer`."""

        async def write(path: str, data: bytes) -> None:
            with self._translated("write", path):
                await self.fs._pipe_file(path, data)

        self._all([partial(write, path, data) for path, data in items])

    def write_from(self, local: str, path: str, *, callback: Callback) -> None:
        """Upload a file; see :class:`Writer`."""
        with self._translated("write", path):
            told = {**self._parts(os.stat(local).st_size), **self._writes.put}
            self._run(self.fs._put_file(local, path, callback=callback, **told))

    def _parts(self, size: int) -> dict[str, int]:
        return {} if self._writes.parts is None else self._writes.parts.options(size)

    def find(self, folder: str) -> dict[str, Found]:
        """List; see :class:`Lister`."""
        with self._translated("list", folder):
            self.fs.invalidate_cache()
            try:
                return self._listed(self._run(self.fs._find(folder, detail=True, **self._strict)))
            except FileNotFoundError:
                return {}

    def info_many(self, paths: Sequence[str], *, surely: bool = True) -> list[Found | None]:
        """Look files up at once; see :class:`Lister`."""

        async def info(path: str) -> Found | None:
            with self._translated("look up", path):
                try:
                    return _found(await self.fs._info(path), path)
                except FileNotFoundError:
                    return None
                except Exception as e:
                    if surely or not _refused(e):
                        raise
                    return None

        return self._all([partial(info, path) for path in paths])

    def copy_many(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Copy on the server, at once; see :class:`Copier`."""

        async def copy(source: str, target: str) -> None:
            with self._translated("copy", target):
                await self.fs._cp_file(source, target)

        self._all([partial(copy, source, target) for source, target in pairs])

    def remove_many(self, paths: Sequence[str]) -> None:
        """Remove files at once; see :class:`Remover`."""

        async def remove(path: str) -> None:
            with self._translated("remove", path), contextlib.suppress(FileNotFoundError):
                await self.fs._rm_file(path)

        self._all([partial(remove, path) for path in paths])

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self.fs.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt here must not leave the request running
            raise

    def _all(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        async def gather() -> list[T]:
            async def one(call: Callable[[], Awaitable[T]]) -> T:
                async with self._turn:
                    return await call()

            tasks = [asyncio.ensure_future(one(call)) for call in calls]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

        return self._run(gather())
