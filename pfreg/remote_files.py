"""Whole files on any filesystem of fsspec but the local one, synchronous or not.

Rules
-----
- A file appears under its name when it is complete, or not at all; how is data, in ``protocol_table.py``.
- An asynchronous filesystem gets one coroutine an operation on its own loop, at most :data:`IN_FLIGHT` at once, in
  batches, and never a blocking call per file. Nothing that computes runs on that loop.
- A synchronous one is called from threads; where its protocol cannot share a connection, each opens its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import Callback

from pfreg.errors import LimitExceeded, TransferError
from pfreg.files import Files, Found, bounded, read_bounded, refused, translated
from pfreg.layout import partial_name
from pfreg.protocol_table import writes_of

__all__ = ["AsyncFiles", "SyncFiles"]

T = TypeVar("T")
U = TypeVar("U")

IN_FLIGHT = 32
"""Requests under way at once on one asynchronous filesystem."""

_JOBS = 8
_MANY = 8  # requests from which on threads are worth it
_CONNECTIONS = 4  # where each thread needs a connection, and a login, of its own
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


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


class _Remote:
    """What synchronous and asynchronous filesystems have in common."""

    def __init__(self, fs: AbstractFileSystem, *, secrets: Sequence[str] = ()) -> None:
        self.fs = fs
        self._secrets = tuple(secrets)
        self._writes = writes_of(fs)
        self._folders: set[str] = set()
        self.jobs = _JOBS if self._writes.shared else _CONNECTIONS
        self.partials = not (self._writes.bytes_at_once and self._writes.file_at_once)
        self.bounded = not fs.async_impl or self._writes.ranged
        self.acknowledged = self._writes.acknowledged
        self.largest_copy: int = getattr(fs, "largest_copy", sys.maxsize)
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
        self._by_range = not self._writes.own_positions or self._writes.ranged

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
            told = {**self._parts(0), **self._writes.get}  # of a download there may be any number of parts
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
                    if surely or not refused(e):
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
