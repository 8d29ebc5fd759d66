"""Verified content of blobs, kept so that nothing is fetched twice.

Rules
-----
- Only content that has been verified as a whole is handed out; a digest covers the whole blob, so opening a blob means
  reading all of it, once.
- Small content stays in memory, up to a total; anything else is streamed into a file that is named after its digest
  and appears complete or not at all. Memory does not grow with a blob.
- A folder that is given is kept for the next process, and must be the caller's own: files are believed by their names.
  Without one there is a temporary folder, readable by nobody else, which goes away with this process.
- A store may serve as a second level: what is fetched is put there as well, and a later pull finds it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from pfreg import codec
from pfreg.blobs import SMALL, BlobTree, stored_bound
from pfreg.digest import Digest
from pfreg.errors import IntegrityError
from pfreg.files import translated
from pfreg.layout import partial_name
from pfreg.local_files import copy_file, open_regular
from pfreg.store import Store

__all__ = ["BlobCache"]

_IN_MEMORY = 32 << 20
_BATCH = 16  # of at most 1 MiB each: half of what is kept


class BlobCache:
    """A cache over the blobs of one image; used from several threads.

    Parameters
    ----------
    source : BlobTree
        Where the blobs lie.
    folder : str, optional
        Where large content is kept.
    store : Store, optional
        Where blobs are looked for first, and put after they were fetched.
    """

    def __init__(self, source: BlobTree, *, folder: str | None = None, store: Store | None = None) -> None:
        self._source, self._store = source, store
        self._folder = folder
        self._memory: OrderedDict[Digest, bytes] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()
        self._busy: dict[Digest, threading.Lock] = {}

    def size(self, digest: Digest) -> int:
        """Return the bytes of a blob's content, which has to be read for that."""
        with self.open(digest, size=None) as stream:
            return stream.seek(0, os.SEEK_END)

    def content(self, digest: Digest, *, size: int | None, limit: int) -> bytes:
        """Return a blob's verified content, which must fit in memory and have `limit` bytes at most."""
        if size is None or size <= SMALL:
            return self._small(digest, limit if size is None else size, size)
        with self.open(digest, size=size) as stream:
            return stream.read()

    def open(self, digest: Digest, *, size: int | None) -> BinaryIO:
        """Return the verified content of a blob as a seekable stream.

        Parameters
        ----------
        digest : Digest
            The blob.
        size : int or None
            Bytes of its content, where known.

        Raises
        ------
        BlobNotFound, IntegrityError, LimitExceeded
            If it is not there, or not what it should be. Nothing of it has been handed out then.
        """
        kept = self._memory.get(digest)
        if kept is not None:
            return io.BytesIO(kept)
        if size is not None and size <= SMALL:
            return io.BytesIO(self._small(digest, size, size))
        path = self._path(digest)
        with self._alone(digest):
            if not os.path.exists(path):
                self._materialise(digest, path, size)
        return open(path, "rb")

    def prefetch(self, sizes: Mapping[Digest, int | None]) -> None:
        """Read small blobs in batches: as many requests, but under way together."""
        todo = [digest for digest in sizes if digest not in self._memory]
        if self._store is not None or len(todo) < 2:
            return
        for start in range(0, len(todo), _BATCH):
            batch = todo[start : start + _BATCH]
            for digest, data in zip(batch, self._source.stored(batch, limit=stored_bound(SMALL)), strict=True):
                with self._source.blaming(digest):
                    plain = codec.content(data, limit=SMALL)
                    if Digest.of(plain) != digest:
                        raise IntegrityError(f"content has the digest {Digest.of(plain)}")
                self._check_size(digest, sizes[digest], len(plain))
                self._remember(digest, plain)

    def _small(self, digest: Digest, limit: int, size: int | None) -> bytes:
        with self._lock:
            if digest in self._memory:
                self._memory.move_to_end(digest)
                return self._memory[digest]
        with self._alone(digest):
            data = self._memory.get(digest)
            if data is None:
                data = self._holder(digest).content(digest, limit=limit)
                self._check_size(digest, size, len(data))
                self._remember(digest, data)
        return data

    def _holder(self, digest: Digest) -> BlobTree:
        """Return who is to be asked for a blob: the store, into which it is brought first, or else the source."""
        store = self._store
        if store is None:
            return self._source
        if not store.present([digest]):
            with self._source.stored_file(digest) as path:
                self._source.check_file(digest, path, size=None)
                with store.files.incoming(store.path_of(digest)) as temporary:
                    copy_file(path, temporary)
            store.files.flush()
        return store

    def _remember(self, digest: Digest, data: bytes) -> None:
        if len(data) > SMALL:
            return
        with self._lock:
            self._memory[digest] = data
            self._used += len(data)
            while self._used > _IN_MEMORY:
                self._used -= len(self._memory.popitem(last=False)[1])

    def _materialise(self, digest: Digest, path: str, size: int | None) -> None:
        """Write the content of a blob to `path`, through a temporary name, if it is what it should be."""
        temporary = partial_name(path)
        try:
            holder = self._holder(digest)
            limit = holder.limits.blob_bytes if size is None else size
            with holder.stored_file(digest, limit=stored_bound(limit)) as stored, holder.blaming(digest):
                with open_regular(stored) as stream, translated("write", path), open(temporary, "xb") as output:
                    for chunk in codec.verified_contents(stream, digest, limit=limit):
                        output.write(chunk)
                    written = output.tell()
            self._check_size(digest, size, written)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def _check_size(self, digest: Digest, size: int | None, found: int) -> None:
        if size is not None and size != found:
            with self._source.blaming(digest):
                raise IntegrityError(f"content has {found} bytes, its tree says {size}")

    def _path(self, digest: Digest) -> str:
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="pfreg-cache-")
                weakref.finalize(self, _remove, self._folder, os.getpid())
            folder = f"{self._folder}/sha256/{digest.hex[:2]}"
        with translated("make folder", folder):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        return f"{folder}/{digest.hex}"

    @contextlib.contextmanager
    def _alone(self, digest: Digest) -> Iterator[None]:
        """Let one thread fetch a blob, while others wait for it."""
        with self._lock:
            mine = self._busy.setdefault(digest, threading.Lock())
        try:
            with mine:
                yield
        finally:
            with self._lock:
                self._busy.pop(digest, None)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child ends without taking its parent's cache along
        shutil.rmtree(folder, ignore_errors=True)
