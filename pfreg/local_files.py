"""Whole files in local folders: complete and on the disk before they have their name.

Rules
-----
- A file is written under a temporary name in its folder, synced, renamed over its final name; then the folder is
  synced. A reader, a crash or a power cut finds the old file, the new one or none, never a part.
- Many small files are staged and synced together: on Linux with one ``syncfs``, elsewhere file by file. They become
  visible at :meth:`LocalFiles.flush`, which runs by itself when enough are waiting.
- Only regular files are read. A FIFO or a device among the blobs is an error, and never waited for.
- Links to files are followed: other tools keep registries as trees of links.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from fsspec.callbacks import Callback, NoOpCallback

from pfreg.digest import CHUNK
from pfreg.errors import IntegrityError, LimitExceeded
from pfreg.files import Found, read_bounded, translated
from pfreg.layout import partial_name

if sys.platform != "win32":
    import fcntl

__all__ = ["LocalFiles", "NewFile", "locked", "new_file", "sync_filesystem", "sync_folder"]

NO_CALLBACK = NoOpCallback()

_STAGED_FILES = 4096
_STAGED_BYTES = 256 << 20
_SYNC_TOGETHER_FROM = 16  # below this, a sync of each file is cheaper than one of the whole file system
_WRITE_BACK = 8 << 20  # bytes of one file that wait before they are sent to the disk
_WRITE_BACK_FROM = 512 << 10  # smaller files are placed on the disk better when they are many
_FICLONE = 0x40049409  # linux/fs.h
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class LocalFiles:
    """Local folders.

    Parameters
    ----------
    durable : bool
        Whether to sync. Only a cache may do without.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self.jobs = os.cpu_count() or 1
        self.partials = True
        self.bounded = True
        self.acknowledged = True
        self.largest_copy = sys.maxsize
        self.held = 0
        self._durable = durable
        self._lock = threading.Lock()
        self._staged: list[tuple[str, str]] = []
        self._staged_bytes = 0
        self._new_folders: set[str] = set()
        self._known_folders: set[str] = set()
        self._ways: list[Callable[[str, str], None]] = [_reflink, os.link, copy_file]
        if sys.platform != "linux":
            self._ways.remove(_reflink)

    def read_many(self, paths: Sequence[str], *, limit: int) -> list[bytes | None]:
        """Read files; see :class:`~pfreg.files.Reader`."""
        return [self._read(path, limit) for path in paths]

    def _read(self, path: str, limit: int) -> bytes | None:
        with translated("read", path):
            try:
                with open_regular(path) as stream:
                    size = os.fstat(stream.fileno()).st_size
                    if size > limit:
                        raise LimitExceeded(f"{size} bytes, more than {limit}", operation="read", place=path)
                    return read_bounded(stream, path, limit, piece=size + 1)
            except FileNotFoundError:
                return None

    def read_to(self, path: str, local: str, *, limit: int, callback: Callback) -> None:
        """Copy a file out; see :class:`~pfreg.files.Reader`."""
        with (
            translated("read", path, absent_passes=True),
            open_regular(path) as source,
            open(local, "wb") as target,
        ):
            if os.fstat(source.fileno()).st_size > limit:
                raise LimitExceeded(f"more than {limit} bytes", operation="read", place=path)
            _copy_stream(source.fileno(), target.fileno(), callback)

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Stage files; see :class:`~pfreg.files.Writer`."""
        for path, data in items:
            with self.incoming(path) as temporary, translated("write", path), new_file(temporary) as file:
                file.write(data)

    def write_from(self, local: str, path: str, *, callback: Callback) -> None:
        """Stage a copy of a file; see :class:`~pfreg.files.Writer`."""
        with self.incoming(path) as temporary, translated("write", path):
            copy_file(local, temporary, callback)

    @contextlib.contextmanager
    def incoming(self, path: str) -> Iterator[str]:
        """Give a temporary path for what will be `path`; stage it when the block ends well, remove it when not."""
        self._make_folder(os.path.dirname(path))
        temporary = partial_name(path)
        try:
            yield temporary
            self.adopt(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def adopt(self, temporary: str, path: str) -> None:
        """Stage the complete file `temporary`, which is on the same file system, as `path`."""
        self._make_folder(os.path.dirname(path))
        with translated("write", path):
            size = os.stat(temporary).st_size
        self._stage(temporary, path, size)

    def _make_folder(self, folder: str) -> None:
        if folder in self._known_folders:
            return
        with translated("make folder", folder):
            grown: set[str] = set()
            missing = folder
            while not os.path.isdir(missing):
                missing = os.path.dirname(missing)
                grown.add(missing)
            os.makedirs(folder, exist_ok=True)
            with self._lock:
                self._new_folders |= grown
        self._known_folders.add(folder)

    def _stage(self, temporary: str, path: str, size: int) -> None:
        with self._lock:
            self._staged.append((temporary, path))
            self._staged_bytes += size
            full = len(self._staged) >= _STAGED_FILES or self._staged_bytes >= _STAGED_BYTES
        if full:
            self.flush()

    def flush(self) -> None:
        """Sync what is staged, and give it its names; see :class:`~pfreg.files.Writer`."""
        with self._lock:
            staged, self._staged, self._staged_bytes = self._staged, [], 0
            folders, self._new_folders = self._new_folders, set()
        if not staged and not folders:
            return
        renamed = 0
        try:
            with translated("sync", os.path.dirname(staged[0][1]) if staged else min(folders)):
                self._sync([temporary for temporary, _ in staged])
                for temporary, path in staged:
                    os.replace(temporary, path)
                    renamed += 1
                self._sync_folders(folders | {os.path.dirname(path) for _, path in staged})
        finally:
            for temporary, _ in staged[renamed:]:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _sync(self, paths: Sequence[str]) -> None:
        if not self._durable or not paths:
            return
        if len(paths) >= _SYNC_TOGETHER_FROM and sync_filesystem(os.path.dirname(paths[0])):
            return
        for path in paths:
            handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _sync_folders(self, folders: set[str]) -> None:
        if not self._durable:
            return
        if len(folders) >= _SYNC_TOGETHER_FROM and sync_filesystem(next(iter(folders))):
            return
        for folder in sorted(folders):
            sync_folder(folder)

    def find(self, folder: str) -> dict[str, Found]:
        """List; see :class:`~pfreg.files.Lister`."""
        found: dict[str, Found] = {}
        with translated("list", folder):
            pending = [folder]
            while pending:
                current = pending.pop()
                try:
                    entries = os.scandir(current)
                except FileNotFoundError:
                    continue
                with entries:
                    for entry in entries:
                        if entry.is_dir():
                            pending.append(entry.path)
                            continue
                        try:
                            status = entry.stat()
                        except FileNotFoundError:  # gone meanwhile, or a dangling link
                            continue
                        if stat.S_ISREG(status.st_mode):
                            found[entry.path.replace(os.sep, "/")] = _found(status)
        return found

    def info_many(self, paths: Sequence[str], *, surely: bool = True) -> list[Found | None]:
        """Look files up, always surely; see :class:`~pfreg.files.Lister`."""
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> Found | None:
        with translated("look up", path):
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _found(status) if stat.S_ISREG(status.st_mode) else None

    def copy_many(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Share files between folders: a reflink, else a hard link, else a copy; see :class:`~pfreg.files.Copier`."""
        for source, target in pairs:
            self._make_folder(os.path.dirname(target))
            if not self._linked(source, target):
                with translated("copy", target), self.incoming(target) as temporary:
                    self._share(source, temporary)

    def copies_from(self, other: object) -> bool:
        """Say no: what is copied between folders is verified on its way; see :class:`~pfreg.files.Copier`."""
        return False

    def _linked(self, source: str, target: str) -> bool:
        """Hard-link where that is the way: it needs no temporary name, for a link is whole from the start."""
        if self._ways[0] is not os.link:
            return False
        try:
            os.link(source, target)
        except OSError:
            return False  # there already, or no links here: the way through a temporary name finds out
        with self._lock:
            self._new_folders.add(os.path.dirname(target))
        return True

    def _share(self, source: str, temporary: str) -> None:
        while len(self._ways) > 1:
            try:
                return self._ways[0](source, temporary)
            except OSError as e:
                if e.errno == errno.EMLINK:
                    break  # this one file has as many links as it can have
                if e.errno not in _CANNOT_SHARE:
                    raise
                self._ways = self._ways[1:]
        return copy_file(source, temporary)

    def clone(self, source: int, target: int) -> bool:
        """Let an empty open file share the content of another, where the file system can; tell whether it could."""
        if self._ways[0] is not _reflink:
            return False
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as e:
            if e.errno not in _CANNOT_SHARE:
                raise
            self._ways = [way for way in self._ways if way is not _reflink]
            return False
        return True

    def remove_many(self, paths: Sequence[str]) -> None:
        """Remove files; see :class:`~pfreg.files.Remover`."""
        for path in paths:
            with translated("remove", path), contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _found(status: os.stat_result) -> Found:
    # A link or a rename makes a file younger for whoever prunes by age, which its mtime alone does not show.
    return Found(status.st_size, max(status.st_mtime, status.st_ctime))


_CANNOT_SHARE = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY}
)


def _reflink(source: str, target: str) -> None:
    with open_regular(source) as old:
        handle = os.open(target, _NEW_FLAGS, 0o666)
        try:
            fcntl.ioctl(handle, _FICLONE, old.fileno())
        except BaseException:
            os.unlink(target)
            raise
        finally:
            os.close(handle)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; anything else at `path` is an IntegrityError, and is not waited for."""
    handle = os.open(path, _READ_FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise IntegrityError("not a regular file", operation="read", place=path)
        return open(handle, "rb", buffering=0, closefd=True)
    except BaseException:
        os.close(handle)
        raise


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of `data`; one call may take less."""
    written = os.write(handle, data)
    rest = memoryview(data)[written:]
    while rest:
        rest = rest[os.write(handle, rest) :]


class NewFile:
    """A new file that is on its way to the disk while it is written, so that a sync at the end waits for little.

    Parameters
    ----------
    handle : int
        The file, opened for writing; it is closed at the end of the ``with`` block.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size = self._waiting = 0

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        write_all(self.handle, data)
        self.size += len(data)
        self._waiting += len(data)
        if self._waiting >= _WRITE_BACK:
            self._write_back()

    def _write_back(self) -> None:
        self._waiting = 0
        if _SYNC_FILE_RANGE is not None:
            _SYNC_FILE_RANGE(self.handle, 0, 0, _SYNC_FILE_RANGE_WRITE)  # a hint; the sync that counts comes later

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._waiting and self.size >= _WRITE_BACK_FROM:
                self._write_back()
        finally:
            os.close(self.handle)


def new_file(path: str) -> NewFile:
    """Make the file `path`, which must not exist."""
    return NewFile(os.open(path, _NEW_FLAGS, 0o666))


def copy_file(source: str, target: str, callback: Callback = NO_CALLBACK) -> None:
    """Copy the regular file `source` to the new file `target`, inside the kernel where it can."""
    with open_regular(source) as old:
        handle = os.open(target, _NEW_FLAGS, 0o666)
        try:
            _copy_stream(old.fileno(), handle, callback)
        finally:
            os.close(handle)


def _copy_stream(source: int, target: int, callback: Callback) -> None:
    copy = getattr(os, "copy_file_range", None)
    while copy is not None:
        try:
            count = copy(source, target, CHUNK << 4)
        except OSError as e:
            if e.errno not in _CANNOT_SHARE:
                raise
            break
        if not count:
            return
        callback.relative_update(count)
    while data := os.read(source, CHUNK):
        write_all(target, data)
        callback.relative_update(len(data))


def sync_folder(folder: str) -> None:
    """Make the names in `folder` durable. Windows has no way to, and needs none: NTFS journals them."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_filesystem(path: str) -> bool:
    """Sync the whole file system that `path` is on, with Linux's ``syncfs``; tell whether that was possible."""
    if _SYNCFS is None:
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        if _SYNCFS(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(handle)
    return True


def _from_linux(name: str, *arguments: Any) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = arguments
    return cast("Callable[..., int] | None", function)


_SYNCFS = _from_linux("syncfs", ctypes.c_int)
_SYNC_FILE_RANGE = _from_linux("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


@contextlib.contextmanager
def locked(folder: str, *, exclusive: bool) -> Iterator[None]:
    """Hold an advisory lock on an existing folder, shared or exclusive, across processes and threads.

    Windows has no locks on folders; there, nothing is excluded.
    """
    if sys.platform == "win32":
        yield
        return
    with translated("lock", folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with translated("lock", folder):
            fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)  # closing unlocks
