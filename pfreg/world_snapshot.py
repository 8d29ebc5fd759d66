"""Making an image of a folder.

Rules
-----
- Everything is taken but what the user names: patterns in gitignore's syntax, given as arguments or in a ``.pfignore``
  at the top. There is no built-in list of names that are silently left out.
- A FIFO, a socket or a device cannot be in an image: it is left out, with a warning. A file that cannot be read is an
  error. So is a name that is not UTF-8, unless ``bad_names="skip"``.
- A file that changes while it is read is read again, and after that an error: an image holds no file that never was.
- Nothing is followed: a link is recorded as a link, and files are opened without following one.
- The image is recorded when every blob is durable. A tree that could not be checked out is refused here already.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Literal

import pathspec
from fsspec.callbacks import Callback

from pfreg import strict_json
from pfreg._version import __version__
from pfreg.blobs import SMALL
from pfreg.digest import CHUNK, Digest
from pfreg.environment import build_environment
from pfreg.errors import BadName, BadOption, FileChanged, FolderNotFound, PfregError, UnreadableFile
from pfreg.files import translated
from pfreg.fstree import Entry, Tree, check_restorable
from pfreg.ledger import build_ledger
from pfreg.manifest import CACHE_LAYOUT, Agent, Layers, Manifest
from pfreg.progress import Progress
from pfreg.store import Put, Store
from pfreg.transfer import run_all, workers

__all__ = ["IGNORE_FILE", "SkippedFile", "Snapshotted", "snapshot_folder"]

IGNORE_FILE = ".pfignore"
_BATCH_FILES = 64
_BATCH_BYTES = 4 << 20
_TRIES = 3
_YOUNG = 0.1  # seconds; a file that was written this lately may be written again without its times showing it
_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
_NO_PROCS = {"kind": "procs.unsupported.v1", "note": "pfreg does not capture running processes"}
_NO_DIFF = {"diff": {"adapters": [], "kind": "lora"}, "layout": "model.diff.v1"}
_NO_CACHE = {
    "dtype": "bf16",
    "head_dim": 0,
    "layout": CACHE_LAYOUT,
    "logical_seqs": [],
    "n_heads": 0,
    "n_layers": 0,
    "page_size_tokens": 16,
    "pages": [],
}


class SkippedFile(UserWarning):
    """A file that an image cannot hold was left out of a snapshot."""


@dataclass(frozen=True, slots=True)
class Snapshotted:
    """What a snapshot took.

    Parameters
    ----------
    cid : Digest
        The image.
    manifest : Manifest
        Its manifest.
    files, folders, links : int
        How many of each.
    size : int
        Bytes of the files.
    new_blobs, new_bytes : int
        Blobs that the store did not have, and their stored bytes.
    skipped : tuple of str
        FIFOs, sockets, devices, and names that are not UTF-8, which were left out.
    seconds : float
        How long it took.
    """

    cid: Digest
    manifest: Manifest
    files: int
    folders: int
    links: int
    size: int
    new_blobs: int
    new_bytes: int
    skipped: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        return str(self.cid)


def snapshot_folder(
    folder: str | os.PathLike[str],
    *,
    store: Store,
    agent_kind: str = "pfreg",
    messages: Sequence[Mapping[str, str]] = (),
    effects: Sequence[Mapping[str, str]] = (),
    env: Mapping[str, str] | None = None,
    redact: Sequence[str] = (),
    redact_secrets: bool = True,
    parents: Sequence[Digest] = (),
    exclude: Sequence[str] = (),
    bad_names: Literal["error", "skip"] = "error",
    jobs: int | None = None,
    callback: Callback | None = None,
) -> Snapshotted:
    """Take a folder, and what else is given, into a store as an image; see :func:`pfreg.snapshot`."""
    start = time.perf_counter()
    root = os.path.abspath(os.fspath(folder))
    if not os.path.isdir(root):
        raise FolderNotFound("no such folder", operation="snapshot", place=root)
    if bad_names not in ("error", "skip"):
        raise BadOption(f"bad_names is 'error' or 'skip', not {bad_names!r}")
    texts = [
        strict_json.dumps(_NO_DIFF),
        strict_json.dumps(_NO_CACHE),
        build_environment(env, cwd=os.fspath(folder), redact=redact, redact_secrets=redact_secrets),
        strict_json.dumps(_NO_PROCS | {"unsupported_on": sys.platform}),
        build_ledger(effects),
        _messages(messages),
        f"base:{_text('agent_kind', agent_kind)}".encode(),
    ]
    walk = _Walk(root, _ignored(root, exclude), skip_bad_names=bad_names == "skip", store=store)
    with _tidy(store):
        walk.run()
        reader = _Reader(walk, store, Progress(callback))
        tree = Tree.of([*walk.entries, *reader.run(threads=workers(jobs, store))])
        check_restorable(tree, limits=store.limits, set_id=True)
        done = store.stage_many([*texts, tree.to_bytes()])
        diff, cache, environment, procs, ledger, trace, base, fs = (put.digest for put in done)
        layers = Layers(base, diff, cache, fs, environment, procs, ledger, trace)
        agent = Agent(agent_kind, __version__, "pfreg")
        manifest = Manifest.build(layers, agent=agent, parents=tuple(parents))
        store.record(manifest)
    new = [put for put in (*done, *reader.puts) if put.stored]
    kinds = [entry.kind for entry in tree.entries]
    return Snapshotted(
        cid=manifest.cid,
        manifest=manifest,
        files=kinds.count("file"),
        folders=kinds.count("dir"),
        links=kinds.count("symlink"),
        size=sum(entry.size for entry in tree.entries if entry.kind == "file"),
        new_blobs=len({put.digest for put in new}),
        new_bytes=sum({put.digest: put.stored for put in new}.values()),
        skipped=tuple(walk.skipped),
        seconds=time.perf_counter() - start,
    )


@contextlib.contextmanager
def _tidy(store: Store) -> Iterator[None]:
    """When the block fails, let nothing stay under a temporary name: what is staged is whole, and may have its own."""
    try:
        yield
    except BaseException:
        store.files.flush()
        raise


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise BadOption(f"{name} is text, not {value!r}")
    return value


def _messages(messages: Sequence[Mapping[str, str]]) -> bytes:
    lines = []
    for message in messages:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise BadOption("a message is a mapping with the texts role and content")
        lines.append(strict_json.dumps(dict(message), sort_keys=True) + b"\n")
    return b"".join(lines)


def _ignored(root: str, exclude: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether a path, with a slash after a folder, is left out."""
    lines: list[str] = []
    if isinstance(exclude, str):
        raise BadOption("exclude is a list of patterns, not one text")
    path = os.path.join(root, IGNORE_FILE)
    with translated("read", path), contextlib.suppress(FileNotFoundError, IsADirectoryError):
        with open(path, encoding="utf-8") as stream:
            lines.extend(stream.read(SMALL).splitlines())
    lines.extend(exclude)
    if not lines:
        return lambda _: False
    try:
        spec = pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as e:
        raise BadOption(f"a malformed pattern: {e}", operation="snapshot", place=root) from None
    return lambda path: bool(spec.match_file(path))


@dataclass(frozen=True, slots=True)
class _File:
    """A regular file that is to be read."""

    path: str  # on the disk
    name: str  # in the image
    size: int


class _Walk:
    """Finds what there is below a folder: entries for folders and links, and files to read."""

    def __init__(self, root: str, ignored: Callable[[str], bool], *, skip_bad_names: bool, store: Store) -> None:
        self._root, self._ignored, self._skip_bad_names = root, ignored, skip_bad_names
        self._store_path = os.path.realpath(store.path)
        self._store = store
        self.entries: list[Entry] = []
        self.links: list[bytes] = []
        self.files: list[_File] = []
        self.skipped: list[str] = []

    def run(self) -> None:
        """Walk, and put the targets of links into the store."""
        self._refuse_store(self._root)
        pending = [(self._root, "")]
        while pending:
            folder, prefix = pending.pop()
            with self._reading(folder):
                with os.scandir(folder) as found:
                    entries = list(found)
            for entry in entries:
                name = prefix + entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if self._ignored(name + "/" if is_folder else name) or not self._well_named(name):
                    continue
                self._take(entry, name)
                if is_folder:
                    self._refuse_store(entry.path)
                    pending.append((entry.path, name + "/"))
        self._store.stage_many(self.links)

    def _take(self, entry: os.DirEntry[str], name: str) -> None:
        try:
            with self._reading(entry.path):
                status = entry.stat(follow_symlinks=False)
                kind = stat.S_IFMT(status.st_mode)
                target = os.readlink(entry.path) if kind == stat.S_IFLNK else ""
        except FileNotFoundError:
            return  # gone since the folder was listed: it is not part of the tree any more
        mode = stat.S_IMODE(status.st_mode)
        if kind == stat.S_IFDIR:
            self.entries.append(Entry(name, "dir", mode, 0))
        elif kind == stat.S_IFLNK and self._well_named(target):
            text = target.encode("utf-8")
            self.links.append(text)
            self.entries.append(Entry(name, "symlink", mode, len(text), Digest.of(text), target))
        elif kind == stat.S_IFREG:
            self.files.append(_File(entry.path, name, status.st_size))
        elif kind != stat.S_IFLNK:
            self.skipped.append(name)
            warnings.warn(f"left out, an image cannot hold it: {name}", SkippedFile, stacklevel=5)

    def _well_named(self, name: str) -> bool:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            shown = os.fsencode(name)
            if not self._skip_bad_names:
                raise BadName(
                    f"a name that is not UTF-8: {shown!r}",
                    operation="snapshot",
                    place=self._root,
                    hint="rename it, or say bad_names='skip'",
                ) from None
            self.skipped.append(repr(shown))
            return False
        return True

    def _refuse_store(self, folder: str) -> None:
        if os.path.realpath(folder) == self._store_path:
            raise BadOption(
                "the store is the folder, or lies inside it",
                operation="snapshot",
                place=folder,
                hint=f"move it, or exclude it, in {IGNORE_FILE} for instance",
            )

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        with _readable(path):
            yield


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    with translated("snapshot", path, absent_passes=True):
        try:
            yield
        except PermissionError:
            raise UnreadableFile(
                "permission denied", operation="snapshot", place=path, hint="exclude it, or make it readable"
            ) from None


class _Reader:
    """Reads files into the store; called from several threads."""

    def __init__(self, walk: _Walk, store: Store, progress: Progress) -> None:
        self._files, self._store, self._progress = walk.files, store, progress
        self.puts: list[Put] = []

    def run(self, *, threads: int) -> list[Entry]:
        """Read all files, in batches of small ones and large ones alone."""
        self._progress.expect(size=sum(file.size for file in self._files), blobs=len(self._files))
        calls: list[Callable[[], list[Entry]]] = []
        batch: list[_File] = []
        weight = 0
        for file in sorted(self._files, key=lambda file: file.size > SMALL, reverse=True):
            if file.size > SMALL:
                calls.append(partial(self._large, file))
                continue
            if len(batch) >= _BATCH_FILES or weight + file.size > _BATCH_BYTES:
                calls.append(partial(self._small, batch))
                batch, weight = [], 0
            batch.append(file)
            weight += file.size
        if batch:
            calls.append(partial(self._small, batch))
        try:
            return [entry for entries in run_all(calls, threads=threads) for entry in entries]
        finally:
            self._store.files.flush()

    def _small(self, files: Sequence[_File]) -> list[Entry]:
        read = [(file, _read_whole(file)) for file in files]
        there = [(file, *found) for file, found in read if found is not None]
        puts = self._store.stage_many([content for _, content, _ in there])
        self.puts.extend(puts)
        self._progress.advance(sum(file.size for file in files), blobs=len(files))
        return [_entry(file, mode, put) for (file, _, mode), put in zip(there, puts, strict=True)]

    def _large(self, file: _File) -> list[Entry]:
        for _ in range(_TRIES):
            with _readable(file.path):
                try:
                    with _opened(file.path) as stream:
                        before = os.fstat(stream.fileno())
                        put = self._store.stage_stream(_Watched(stream, self._progress, file.size))
                        after = os.fstat(stream.fileno())
                except FileNotFoundError as e:
                    if isinstance(e, PfregError):
                        raise  # it is the store that is gone
                    return []
            if _same(before, after) and put.size == after.st_size:
                self.puts.append(put)
                self._progress.advance(0)
                return [_entry(file, stat.S_IMODE(after.st_mode), put)]
        raise _changed(file.path)


class _Watched:
    """A stream that tells how far it has been read, up to what was announced."""

    def __init__(self, stream: BinaryIO, progress: Progress, size: int) -> None:
        self._stream, self._branch = stream, progress.branch(size)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._branch.relative_update(len(data))
        return data


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        handle = os.open(path, _OPEN)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):  # it has become a link, or a socket
            raise _changed(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _changed(path)
    with open(handle, "rb", buffering=0) as stream:
        yield stream


def _read_whole(file: _File) -> tuple[bytes, int] | None:
    """Return content and mode of a small file, None if it is gone."""
    for _ in range(_TRIES):
        with _readable(file.path):
            try:
                with _opened(file.path) as stream:
                    before = os.fstat(stream.fileno())
                    content = _all(stream, before.st_size)
                    young = time.time() - before.st_mtime < _YOUNG
                    if young:
                        stream.seek(0)
                    steady = not young or _all(stream, before.st_size) == content
                    after = os.fstat(stream.fileno())
            except FileNotFoundError:
                return None
        if steady and _same(before, after) and len(content) == after.st_size:
            return content, stat.S_IMODE(after.st_mode)
    raise _changed(file.path)


def _all(stream: BinaryIO, size: int) -> bytes:
    """Read to the end; a file of the announced size in one call. One that grows is noticed by its size."""
    data = stream.read(size + 1)
    while len(data) < size and (more := stream.read(CHUNK)):
        data += more
    return data


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    fields = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")
    return all(getattr(before, name) == getattr(after, name) for name in fields)


def _changed(path: str) -> FileChanged:
    return FileChanged(
        "keeps changing while it is read", operation="snapshot", place=path, hint="stop what writes it, or exclude it"
    )


def _entry(file: _File, mode: int, put: Put) -> Entry:
    return Entry(file.name, "file", mode, put.size, put.digest)
