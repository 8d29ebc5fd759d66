"""The local store: a folder of many images, in ProcessFork's layout.

Rules
-----
- The original opens what is written here, and its stores are opened here: ``blobs/sha256/<aa>/<hex>.zst`` and
  ``images/<hex>.json``, a manifest being both.
- Several processes may work in one store. A put makes its blob young, even one that was there; collection removes only
  what is unreachable *and* older than a grace period; putting and removing exclude each other by a lock on the folder.
- A blob that is there already is used again only if its frames are whole; a truncated one is replaced.
- An image is recorded last, when all that it reaches is durable.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pfreg import codec, layout
from pfreg.blobs import BlobTree
from pfreg.closure import closure
from pfreg.digest import CHUNK, Digest
from pfreg.errors import BadOption, FolderNotFound, ImageNotFound, IntegrityError, PfregError
from pfreg.files import translated
from pfreg.limits import DEFAULT_LIMITS, Limits
from pfreg.local_files import LocalFiles, locked, new_file, open_regular
from pfreg.manifest import Manifest

__all__ = ["GRACE", "Collected", "Put", "Store"]

GRACE = 24 * 3600.0
"""Seconds for which nothing is collected: longer than any snapshot or pull that may be under way."""


@dataclass(frozen=True, slots=True)
class Put:
    """What became of content that was put into a store.

    Parameters
    ----------
    digest : Digest
        Its name.
    size : int
        Its bytes.
    stored : int
        Bytes written; 0 if the store had it.
    """

    digest: Digest
    size: int
    stored: int


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection found.

    Parameters
    ----------
    removed : tuple of str
        Digests of the blobs, and names of abandoned temporary files, that were removed, or would be in a dry run.
    freed : int
        Their stored bytes.
    kept : int
        Blobs that stay.
    dry_run : bool
        Whether nothing was removed.
    """

    removed: tuple[str, ...]
    freed: int
    kept: int
    dry_run: bool


class Store(BlobTree):
    """A store.

    Parameters
    ----------
    path : path-like, optional
        The folder; ``$PF_STORE``, else ``~/.processfork``, by default.
    level : int
        zstd's level for what is put here. 19 is the original's.
    create : bool
        Make the folder if it is not there; otherwise that is an error.
    limits : Limits
        Bounds for what is read.

    Raises
    ------
    FolderNotFound
        If there is no store, and `create` is false.
    """

    own_frames = True
    files: LocalFiles

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        level: int = codec.DEFAULT_LEVEL,
        create: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        folder = os.environ.get("PF_STORE") or "~/.processfork" if path is None else os.fspath(path)
        if not folder:
            raise BadOption("a store is a folder, not an empty path")
        codec.Compressor(level)  # a wrong level shows here, not in the middle of a snapshot
        root = Path(os.path.abspath(os.path.expanduser(folder))).as_posix()
        super().__init__(LocalFiles(), root, name=root, limits=limits)
        self.level = level
        if not create and not os.path.isdir(f"{root}/{layout.IMAGES}"):
            hint = "name another with --store, store= or PF_STORE"
            raise FolderNotFound("no store here", operation="open store", place=root, hint=hint)
        with translated("open store", root):
            os.makedirs(f"{root}/{layout.BLOBS}/sha256", exist_ok=True)
            os.makedirs(f"{root}/{layout.IMAGES}", exist_ok=True)

    def __repr__(self) -> str:
        return f"Store({self.path!r})"

    # -- blobs ---------------------------------------------------------------------------------------------------

    def put(self, content: bytes | str | os.PathLike[str] | BinaryIO) -> Digest:
        """Put content into the store, durably.

        Parameters
        ----------
        content : bytes, path-like or binary file
            The bytes themselves, or where to read them, in constant memory.

        Returns
        -------
        Digest
            The blob's name.
        """
        if isinstance(content, bytes | bytearray | memoryview):
            (done,) = self.stage_many([bytes(content)])
        elif isinstance(content, str | os.PathLike):
            with translated("read", os.fspath(content), absent_passes=True), open_regular(os.fspath(content)) as stream:
                done = self.stage_stream(stream)
        else:
            done = self.stage_stream(content)
        self.files.flush()
        return done.digest

    def stage_many(self, contents: Sequence[bytes]) -> list[Put]:
        """Put small contents; they are visible and durable after ``files.flush()``."""
        digests = [Digest.of(content) for content in contents]
        here = self._whole(set(digests))
        done: list[Put] = []
        items: list[tuple[str, bytes]] = []
        for digest, content in zip(digests, contents, strict=True):
            if digest in here:
                done.append(Put(digest, len(content), 0))
                continue
            here.add(digest)
            stored = codec.compress(content, level=self.level)
            items.append((self.path_of(digest), stored))
            done.append(Put(digest, len(content), len(stored)))
        self.files.write_many(items)
        return done

    def stage_stream(self, stream: codec.Readable) -> Put:
        """Put a stream, in constant memory; it is visible and durable after ``files.flush()``."""
        temporary = self.path_in(layout.partial_name(f"{layout.BLOBS}/incoming"))
        hasher = codec.StreamHasher()
        try:
            with translated("write", temporary):
                file = new_file(temporary)
            with file:
                for piece in _compressed(stream, hasher, self.level):
                    with translated("write", temporary):
                        file.write(piece)
            digest = hasher.digest()
            if self._whole({digest}):
                os.unlink(temporary)
                return Put(digest, hasher.size, 0)
            self.files.adopt(temporary, self.path_of(digest))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        finally:
            hasher.close()
        return Put(digest, hasher.size, file.size)

    def read(self, digest: str | Digest) -> bytes:
        """Return a blob's verified content, which must fit in memory.

        Raises
        ------
        BlobNotFound, IntegrityError, LimitExceeded
            See :meth:`BlobTree.content`.
        """
        return self.content(Digest.parse(digest), limit=self.limits.blob_bytes)

    def present(self, digests: Collection[Digest], *, surely: bool = True) -> dict[Digest, int]:
        """Return which of `digests` are here, with their stored sizes; they are young from now on."""
        sizes: dict[Digest, int] = {}
        with locked(self.path, exclusive=False):
            for digest in digests:
                path = self.path_of(digest)
                try:
                    sizes[digest] = os.stat(path).st_size
                except (FileNotFoundError, NotADirectoryError):
                    continue
                try:
                    os.utime(path)
                except (FileNotFoundError, PermissionError):  # a store that is only read from
                    pass
        return sizes

    def _whole(self, digests: Collection[Digest]) -> set[Digest]:
        """Return which of `digests` are here in whole frames; which is cheap to see, unlike a flipped bit."""
        return {digest for digest in self.present(digests) if _is_whole(self.path_of(digest))}

    # -- images --------------------------------------------------------------------------------------------------

    def manifest(self, cid: str | Digest) -> Manifest:
        """Return the manifest of an image.

        Raises
        ------
        ImageNotFound
            If the store has no such image.
        IntegrityError
            If its file is not what `cid` names.
        """
        digest = Digest.parse(cid)
        path = self.path_in(layout.image_path(digest))
        (raw,) = self.files.read_many([path], limit=self.limits.manifest_bytes)
        if raw is None:
            raise ImageNotFound(
                f"no image {digest}", operation="read", place=self.name, hint="pfreg log lists the images of a store"
            )
        if Digest.of(raw) != digest:
            raise IntegrityError(f"manifest has the digest {Digest.of(raw)}", operation="read", place=path)
        return Manifest.from_bytes(raw, limits=self.limits)

    def record(self, manifest: Manifest) -> None:
        """Record an image whose closure is in the store.

        It is written as a blob first, then as an image, which makes it exist.
        """
        self.stage_many([manifest.raw])
        self.files.flush()
        self.files.write_many([(self.path_in(layout.image_path(manifest.cid)), manifest.raw)])
        self.files.flush()

    def images(self) -> list[Manifest]:
        """Return the manifests of all images, oldest first."""
        folder = self.path_in(layout.IMAGES)
        with translated("list", folder):
            names = sorted(os.listdir(folder))
        cids = (layout.digest_of_image(name) for name in names)
        found: list[Manifest] = []
        for cid in cids:
            if cid is not None:
                with contextlib.suppress(ImageNotFound):  # removed since it was listed
                    found.append(self.manifest(cid))
        return sorted(found, key=lambda manifest: (manifest.created_at, manifest.cid))

    def remove(self, cid: str | Digest) -> None:
        """Forget an image. Its blobs stay until :meth:`gc`.

        Raises
        ------
        ImageNotFound
            If the store has no such image.
        """
        manifest = self.manifest(cid)
        self.files.remove_many([self.path_in(layout.image_path(manifest.cid))])

    # -- care ----------------------------------------------------------------------------------------------------

    def verify(self, cid: str | Digest | None = None) -> int:
        """Read and verify every blob that an image reaches, or every blob of the store.

        Returns
        -------
        int
            How many blobs were verified.

        Raises
        ------
        IntegrityError, BlobNotFound
            At the first blob that is damaged or missing.
        """
        if cid is None:
            wanted: dict[Digest, int | None] = dict.fromkeys(sorted(self.listing()))
        else:
            wanted = closure(self.manifest(cid), self.content, limits=self.limits)
        for digest, size in wanted.items():
            with self.stored_file(digest) as path:
                self.check_file(digest, path, size=size)
        return len(wanted)

    def gc(self, *, grace: float = GRACE, dry_run: bool = False) -> Collected:
        """Remove what no image reaches.

        Parameters
        ----------
        grace : float
            Seconds; anything younger stays, for somebody may be about to record the image that reaches it.
        dry_run : bool
            Only tell what would be removed.

        Raises
        ------
        IntegrityError, BlobNotFound
            If what an image reaches cannot be established; then nothing is removed.
        """
        check_grace(grace)
        with locked(self.path, exclusive=True):
            before = time.time() - grace
            reachable = self._reachable()
            removed: list[str] = []
            freed = kept = 0
            here = self.files.find(self.path_in(layout.BLOBS)) | self.files.find(self.path_in(layout.IMAGES))
            for path, found in here.items():
                digest = layout.digest_of_blob(path)
                stale = found.modified is not None and found.modified < before
                if stale and (layout.is_partial(path) if digest is None else digest not in reachable):
                    removed.append(os.path.basename(path) if digest is None else str(digest))
                    freed += found.size
                    if not dry_run:
                        self.files.remove_many([path])
                elif digest is not None:
                    kept += 1
        return Collected(tuple(removed), freed, kept, dry_run)

    def _reachable(self) -> set[Digest]:
        reachable: set[Digest] = set()
        for manifest in self.images():
            reachable.add(manifest.cid)
            try:
                reachable.update(closure(manifest, self.content, limits=self.limits))
            except PfregError as e:
                hint = f"restore image {manifest.cid}, or remove it, then collect again"
                raise type(e)(e.problem, operation="gc", place=self.name, hint=hint) from e
        return reachable


def check_grace(grace: float) -> None:
    """Raise BadOption if a grace period is no number of seconds."""
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not grace >= 0:
        raise BadOption(f"a grace period is a number of seconds, not {grace!r}")


def _compressed(stream: codec.Readable, hasher: codec.StreamHasher, level: int) -> Iterator[bytes]:
    compressor = codec.Compressor(level)
    while chunk := stream.read(CHUNK):
        hasher.update(chunk)
        yield compressor.update(chunk)
    yield compressor.finish()


def _is_whole(path: str) -> bool:
    scanner = codec.FrameScanner()
    try:
        with open_regular(path) as stream:
            while chunk := stream.read(CHUNK):
                scanner.feed(chunk)
        scanner.finish()
    except (IntegrityError, FileNotFoundError):
        return False
    return True
