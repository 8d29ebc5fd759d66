"""Writing an image's file tree to a disk, safely.

Rules
-----
- The whole tree is checked before anything is written (``fstree.check_restorable``).
- Everything is written into a fresh folder that only its owner can enter, through handles of folders, never through a
  path that somebody could have turned into a link. Links come when all files are written, modes of folders last.
- The content of a file is verified as it is written. The target is renamed into place, never over something, when it
  is complete and synced; until then, and after any error, it is absent.
- Windows has no handles of folders; there, paths inside the fresh folder are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import posixpath
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pfreg import codec
from pfreg.blobs import SMALL, BlobTree, stored_bound
from pfreg.digest import Digest
from pfreg.errors import BadOption, IntegrityError, TargetExists, TreeError
from pfreg.files import translated
from pfreg.fstree import Entry, Tree, check_restorable
from pfreg.local_files import NewFile, open_regular, sync_filesystem, sync_folder
from pfreg.progress import Progress
from pfreg.transfer import run_all, workers

__all__ = ["Placed", "SetId", "checkout_tree"]

SetId = Literal["refuse", "drop", "keep"]
"""What to do about set-uid and set-gid bits of files."""

_BATCH = 64
_HANDLES = os.open in os.supports_dir_fd and os.mkdir in os.supports_dir_fd and os.symlink in os.supports_dir_fd
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NOFOLLOW
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | _NOFOLLOW
_AT_FDCWD = -100  # fcntl.h
_RENAME_NOREPLACE = 1  # linux/fs.h
_RENAME_EXCL = 4  # sys/stdio.h of macOS


@dataclass(frozen=True, slots=True)
class Placed:
    """What was written.

    Parameters
    ----------
    files, folders, links : int
        How many of each.
    size : int
        Bytes of the files.
    """

    files: int
    folders: int
    links: int
    size: int


def checkout_tree(
    tree: Tree,
    source: BlobTree,
    target: str | os.PathLike[str],
    *,
    set_id: SetId = "refuse",
    links_inside: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Placed:
    """Write a tree into a new folder.

    Parameters
    ----------
    tree : Tree
        What to write.
    source : BlobTree
        Where its blobs are.
    target : path-like
        The folder, which must not exist.
    set_id : {"refuse", "drop", "keep"}
        What to do about set-uid and set-gid bits of files.
    links_inside : bool
        Refuse links that point out of the tree, instead of restoring them as they were.
    jobs : int, optional
        Threads.
    progress : Progress, optional
        Is told about every blob; sizes are those of the content.

    Raises
    ------
    TargetExists
        If there is something at `target`.
    TreeError
        If the tree is not safe to write.
    IntegrityError, BlobNotFound
        If a blob is damaged or missing.
    """
    if set_id not in ("refuse", "drop", "keep"):
        raise BadOption(f"set_id is 'refuse', 'drop' or 'keep', not {set_id!r}")
    path = os.path.abspath(os.fspath(target))
    _refuse_existing(path)
    rules = {"limits": source.limits, "set_id": set_id != "refuse", "links_inside": links_inside}
    check_restorable(tree, windows=os.name == "nt", **rules)  # type: ignore[arg-type]
    with _staging(path) as staging, translated("place", path):
        if _folds(staging):
            check_restorable(tree, folding=True, windows=os.name == "nt", **rules)  # type: ignore[arg-type]
        root = os.path.join(staging, "root")
        os.mkdir(root)
        writer = _Writer(root, source, drop=set_id == "drop", progress=progress or Progress())
        writer.write(tree, threads=workers(jobs, source))
        if not sync_filesystem(root):
            sync_folder(root)
        _rename_exclusively(root, path)
        sync_folder(os.path.dirname(path))
    kinds = [entry.kind for entry in tree.entries]
    size = sum(entry.size for entry in tree.entries if entry.kind == "file")
    return Placed(kinds.count("file"), kinds.count("dir"), kinds.count("symlink"), size)


class _Writer:
    """Writes the parts of one tree below one folder."""

    def __init__(self, root: str, source: BlobTree, *, drop: bool, progress: Progress) -> None:
        self._root, self._source, self._drop, self._progress = root, source, drop, progress
        self._place = root

    def write(self, tree: Tree, *, threads: int) -> None:
        """Write folders, files, links and the folders' modes, in this order."""
        folders = _folders(tree.entries)
        with _Folders(self._root) as at:
            for folder in folders:
                with translated("write", folder):
                    name, handle = at(folder)
                    os.mkdir(name, 0o700, dir_fd=handle)
        files = [entry for entry in tree.entries if entry.kind == "file"]
        run_all(self._calls(files), threads=threads)
        with _Folders(self._root) as at:
            for entry in tree.entries:
                if entry.kind == "symlink":
                    with translated("write", entry.path):
                        name, handle = at(entry.path)
                        os.symlink(entry.link_target or "", name, dir_fd=handle)
            modes = {entry.path: entry.mode for entry in tree.entries if entry.kind == "dir"}
            for folder in reversed(folders):
                _set_mode(at, folder, modes.get(folder, 0o755))

    def _calls(self, files: Sequence[Entry]) -> list[Callable[[], None]]:
        """Cut the files into batches of small blobs, and large blobs alone; equal files are fetched once."""
        by_blob: dict[Digest, list[Entry]] = {}
        for entry in files:
            if entry.blob is not None:
                by_blob.setdefault(entry.blob, []).append(entry)
        self._progress.expect(size=sum(same[0].size for same in by_blob.values()), blobs=len(by_blob))
        large = [same for same in by_blob.values() if same[0].size > SMALL]
        small = iter([same for same in by_blob.values() if same[0].size <= SMALL])
        calls: list[Callable[[], None]] = [partial(self._large, same) for same in large]
        while batch := list(itertools.islice(small, _BATCH)):
            calls.append(partial(self._small, batch))
        return calls

    def _small(self, batch: Sequence[Sequence[Entry]]) -> None:
        digests = [_blob(same[0]) for same in batch]
        limit = stored_bound(max(same[0].size for same in batch))
        with _Folders(self._root) as at:
            for digest, stored, same in zip(digests, self._source.stored(digests, limit=limit), batch, strict=True):
                size = same[0].size
                with self._source.blaming(digest):
                    plain = codec.content(stored, limit=size)
                    if len(plain) != size:
                        raise IntegrityError(f"content has {len(plain)} bytes, its tree says {size}")
                    if (found := Digest.of(plain)) != digest:
                        raise IntegrityError(f"content has the digest {found}")
                for entry in same:
                    self._file(at, entry, [plain])
        self._progress.advance(sum(same[0].size for same in batch), blobs=len(batch))

    def _large(self, same: Sequence[Entry]) -> None:
        digest, size = _blob(same[0]), same[0].size
        branch = self._progress.branch(size)
        with self._source.stored_file(digest, limit=stored_bound(size)) as path:
            for entry in same:
                with self._source.blaming(digest), open_regular(path) as stored, _Folders(self._root) as at:
                    written = self._file(at, entry, codec.verified_contents(stored, digest, limit=size))
                    if written != size:
                        raise IntegrityError(f"content has {written} bytes, its tree says {size}")
        branch.finish()

    def _file(self, at: _Folders, entry: Entry, chunks: Iterable[bytes]) -> int:
        with translated("write", entry.path):
            name, parent = at(entry.path)
            with NewFile(os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent)) as file:
                for chunk in chunks:
                    file.write(chunk)
                if hasattr(os, "fchmod"):
                    os.fchmod(file.handle, entry.mode & ~(stat.S_ISUID | stat.S_ISGID) if self._drop else entry.mode)
                if sys.platform != "linux":
                    os.fsync(file.handle)
                return file.size


class _Folders:
    """Finds the folders of paths through handles; no link on the way is followed.

    The last folder stays open, for the next path is mostly in it. Each thread has one of these.
    """

    def __init__(self, root: str) -> None:
        self._root, self._folder, self._handle = root, "", -1

    def __call__(self, path: str) -> tuple[str, int | None]:
        """Return a name and the handle of the folder that it is in, which is valid until the next call."""
        if not _HANDLES:
            return os.path.join(self._root, *path.split("/")), None
        folder, _, name = path.rpartition("/")
        if self._handle < 0 or folder != self._folder:
            self._enter(folder)
        return name, self._handle

    def _enter(self, folder: str) -> None:
        self.close()
        handle = os.open(self._root, _FOLDER_FLAGS)
        try:
            for name in folder.split("/") if folder else ():
                inner = os.open(name, _FOLDER_FLAGS, dir_fd=handle)
                os.close(handle)
                handle = inner
        except BaseException:
            os.close(handle)
            raise
        self._folder, self._handle = folder, handle

    def close(self) -> None:
        """Close the last folder."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> _Folders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _set_mode(at: _Folders, folder: str, mode: int) -> None:
    if not _HANDLES:
        return  # Windows keeps no such modes
    with translated("write", folder):
        name, parent = at(folder)
        handle = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
        try:
            os.fchmod(handle, mode)
        finally:
            os.close(handle)


def _blob(entry: Entry) -> Digest:
    if entry.blob is None:
        raise TreeError("a file without a blob", place=entry.path)
    return entry.blob


def _folders(entries: Iterable[Entry]) -> list[str]:
    """Return every folder, those that only a path implies too, parents first."""
    found: set[str] = set()
    for entry in entries:
        path = entry.path if entry.kind == "dir" else posixpath.dirname(entry.path)
        while path and path not in found:
            found.add(path)
            path = posixpath.dirname(path)
    return sorted(found, key=lambda path: path.count("/"))


def _refuse_existing(path: str) -> None:
    if os.path.lexists(path):
        raise TargetExists("is there already", operation="checkout", place=path, hint="name a new folder")


@contextlib.contextmanager
def _staging(path: str) -> Iterator[str]:
    """Give a fresh 0700 folder beside `path`; afterwards it is gone, and so are parents that were made for nothing."""
    parent, name = os.path.split(path)
    made: list[str] = []
    missing = parent
    while not os.path.isdir(missing):
        made.append(missing)
        missing = os.path.dirname(missing)
    staging = os.path.join(parent, f".{name}.{secrets.token_hex(8)}.part")
    try:
        with translated("make folder", parent):
            os.makedirs(parent, exist_ok=True)
            os.mkdir(staging, 0o700)
        yield staging
    except BaseException:
        if os.path.isdir(staging):
            _remove(staging)
        for folder in made:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                os.rmdir(folder)
        raise
    _remove(staging)


def _remove(staging: str) -> None:
    for folder, _, _ in os.walk(staging):
        os.chmod(folder, 0o700)  # folders that were made read-only cannot be emptied otherwise
    shutil.rmtree(staging)


def _folds(folder: str) -> bool:
    """Tell whether the file system takes names for equal that differ in case or normal form."""
    probe = os.path.join(folder, "pfreg-\u00e9")
    os.close(os.open(probe, _FILE_FLAGS, 0o600))
    try:
        return os.path.lexists(os.path.join(folder, "PFREG-\u00e9")) or os.path.lexists(
            os.path.join(folder, "pfreg-e\u0301")
        )
    finally:
        os.unlink(probe)


def _rename_exclusively(source: str, target: str) -> None:
    """Rename a folder; never over anything, not even an empty folder, which rename(2) would replace."""
    code = _exclusive_rename(os.fsencode(source), os.fsencode(target))
    if code == errno.EEXIST:
        _refuse_existing(target)
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # this kernel or file system has no such call
        _refuse_existing(target)
        os.rename(source, target)
    elif code:
        raise OSError(code, os.strerror(code), target)


def _exclusive_rename(source: bytes, target: bytes) -> int:
    if sys.platform == "win32":
        return errno.ENOSYS  # and os.rename does not replace there
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        failed = libc.renamex_np(source, target, _RENAME_EXCL)
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE)
    else:
        return errno.ENOSYS
    return ctypes.get_errno() if failed else 0
