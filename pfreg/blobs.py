"""Blobs below a folder of any filesystem: what a root and a store have in common.

Rules
-----
- A blob is read under its digest and verified against it; nothing unverified is handed out as content.
- A stored blob is bounded by its size in the listing, its content by the size that a tree states, or by the limits.
- A blob of more than 1 MiB, and a little (stored), is never held in memory: it passes through a local file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import BinaryIO, Protocol, runtime_checkable

from fsspec.callbacks import Callback, NoOpCallback

from pfreg import codec, layout
from pfreg.digest import Digest
from pfreg.errors import AccessDenied, BlobNotFound, IntegrityError, LimitExceeded, PfregError
from pfreg.files import Files, Found, translated
from pfreg.limits import DEFAULT_LIMITS, Limits
from pfreg.local_files import LocalFiles, NewFile, new_file, open_regular

__all__ = ["SMALL", "BlobTree", "ListingRefused", "Staging", "check_content"]

SMALL = (1 << 20) + (1 << 16)
"""Stored bytes up to which a blob is handled in memory, and in batches: 1 MiB that did not compress is among them."""

_FEW = 4  # looking up this many blobs costs less than a listing
NO_CALLBACK = NoOpCallback()


class ListingRefused(UserWarning):
    """A registry may be read or written, but not listed, which makes everything slower."""


@runtime_checkable
class Staging(Protocol):
    """Files that a complete local file can be moved into, because they are local themselves."""

    def incoming(self, path: str) -> contextlib.AbstractContextManager[str]:
        """Give a temporary path; adopt what is there as `path` when the block ends well."""
        ...


class BlobTree:
    """The blobs below one folder.

    Parameters
    ----------
    files : Files
        The filesystem.
    path : str
        The folder that holds ``blobs/``, as the filesystem spells it.
    name : str
        What to call it in errors.
    limits : Limits
        Bounds for what is read.
    """

    own_frames = False
    """Whether a blob here may be compressed in its own way; if so, another size does not mean another content."""

    def __init__(self, files: Files, path: str, *, name: str, limits: Limits = DEFAULT_LIMITS) -> None:
        self.files = files
        self.path = path
        self.name = name
        self.limits = limits

    def path_in(self, relative: str) -> str:
        """Return the full path of something below the folder."""
        if not self.path or self.path.endswith("/"):
            return self.path + relative
        return f"{self.path}/{relative}"

    def path_of(self, digest: Digest) -> str:
        """Return the full path of a blob."""
        return self.path_in(layout.blob_path(digest))

    def listing(self) -> dict[Digest, Found]:
        """Return every blob that is here, by one listing.

        Raises
        ------
        NotImplementedError
            If the filesystem cannot list.
        """
        named = (
            (layout.digest_of_blob(path), found) for path, found in self.files.find(self.path_in(layout.BLOBS)).items()
        )
        return {digest: found for digest, found in named if digest is not None}

    def present(self, digests: Collection[Digest], *, surely: bool = True) -> dict[Digest, int]:
        """Return which of `digests` are here, with their stored sizes in bytes.

        Parameters
        ----------
        digests : collection of Digest
            What is asked about.
        surely : bool
            Whether it is an error when the filesystem refuses to list, and then to tell about a blob. If not, that blob
            is left out: S3 says of what is absent that it is forbidden to whoever may not list.

        Warns
        -----
        ListingRefused
            If each has to be looked up, because listing is forbidden.
        """
        refused = False
        if len(digests) > _FEW:
            # Where listing is impossible or forbidden, looking up is still possible.
            try:
                wanted_hex = {digest.hex: digest for digest in digests}
                listed = self.files.find(self.path_in(layout.BLOBS))
                named = ((wanted_hex.get(layout.hex_of_blob(path)), found.size) for path, found in listed.items())
                return {digest: size for digest, size in named if digest is not None}
            except NotImplementedError:
                pass
            except AccessDenied:
                refused = True
                what = f"{self.name}: listing is refused, so {len(digests)} blobs are looked up one by one"
                warnings.warn(what, ListingRefused, stacklevel=2)
        wanted = list(digests)
        found = self.files.info_many([self.path_of(digest) for digest in wanted], surely=surely or not refused)
        return {digest: info.size for digest, info in zip(wanted, found, strict=True) if info is not None}

    def stored(self, digests: Sequence[Digest], *, limit: int) -> list[bytes]:
        """Return the stored bytes of blobs, unverified.

        Raises
        ------
        BlobNotFound
            If one is absent.
        LimitExceeded
            If one has more than `limit` stored bytes.
        """
        result: list[bytes] = []
        for digest, data in zip(
            digests, self.files.read_many([self.path_of(d) for d in digests], limit=limit), strict=True
        ):
            if data is None:
                raise self.missing(digest)
            result.append(data)
        return result

    def content(self, digest: Digest, *, limit: int) -> bytes:
        """Return the verified content of one blob that must fit in memory.

        Raises
        ------
        BlobNotFound
            If it is absent.
        LimitExceeded
            If it has more than `limit` bytes.
        IntegrityError
            If its content is not what its digest says.
        """
        (data,) = self.stored([digest], limit=stored_bound(limit))
        with self.blaming(digest):
            plain = codec.content(data, limit=limit)
            if Digest.of(plain) != digest:
                raise IntegrityError(f"content has the digest {Digest.of(plain)}")
        return plain

    @contextlib.contextmanager
    def stored_file(
        self, digest: Digest, *, limit: int | None = None, callback: Callback = NO_CALLBACK
    ) -> Iterator[str]:
        """Give the path of a local file with the stored bytes of one blob, unverified: the blob itself, or a copy.

        Raises
        ------
        BlobNotFound
            If the blob is absent.
        """
        if isinstance(self.files, LocalFiles):
            if not os.path.lexists(self.path_of(digest)):
                raise self.missing(digest)
            yield self.path_of(digest)
            return
        with translated("write", "temporary file"):
            handle, temporary = tempfile.mkstemp(prefix="pfreg-", suffix=".zst")
        os.close(handle)
        try:
            self.fetch(digest, temporary, limit=limit, callback=callback)
            yield temporary
        finally:
            os.unlink(temporary)

    def fetch(self, digest: Digest, local: str, *, limit: int | None, callback: Callback = NO_CALLBACK) -> None:
        """Copy the stored bytes of one blob into the local file `local`, unverified."""
        bound = stored_bound(self.limits.blob_bytes) if limit is None else limit
        try:
            self.files.read_to(self.path_of(digest), local, limit=bound, callback=callback)
        except FileNotFoundError:
            raise self.missing(digest) from None

    def fetch_checked(
        self, digest: Digest, local: str, *, limit: int, size: int | None, callback: Callback = NO_CALLBACK
    ) -> None:
        """Copy the stored bytes of one blob into the new local file `local`, and verify those very bytes.

        Where both are local, and no reflink is to be had, they are verified on their way, which reads them once.
        """
        if not isinstance(self.files, LocalFiles):
            self.fetch(digest, local, limit=limit, callback=callback)
        else:
            with self._opened(digest, self.path_of(digest)) as source, new_file(local) as copy:
                if not self.files.clone(source.fileno(), copy.handle):
                    self._check(digest, _Copied(source, copy, limit, callback), size=size)
                    return
        self.check_file(digest, local, size=size)

    def check_file(self, digest: Digest, path: str, *, size: int | None) -> int:
        """Verify that the local file `path` is this blob, in constant memory; return its content's length in bytes."""
        with self._opened(digest, path) as stream:
            return self._check(digest, stream, size=size)

    def _check(self, digest: Digest, stream: codec.Readable, *, size: int | None) -> int:
        limit = self.limits.blob_bytes if size is None else size
        found = sum(map(len, codec.verified_contents(stream, digest, limit=limit)))
        if size is not None and found != size:
            raise IntegrityError(f"content has {found} bytes, its tree says {size}")
        return found

    @contextlib.contextmanager
    def _opened(self, digest: Digest, path: str) -> Iterator[BinaryIO]:
        """Open the local file that is to be this blob; whatever is wrong with it is told as the blob's."""
        try:
            with translated("read", path, absent_passes=True), self.blaming(digest), open_regular(path) as stream:
                yield stream
        except FileNotFoundError as e:
            raise e if isinstance(e, PfregError) else self.missing(digest) from None

    def missing(self, digest: Digest) -> BlobNotFound:
        """Return the error that says that a blob is not here."""
        return BlobNotFound(
            f"blob {digest} is missing",
            operation="read",
            place=self.name,
            hint="push the image again from a whole copy",
        )

    @contextlib.contextmanager
    def blaming(self, digest: Digest) -> Iterator[None]:
        """Add to an integrity error which blob it is, and where."""
        try:
            yield
        except IntegrityError as e:
            kind = LimitExceeded if isinstance(e, LimitExceeded) else IntegrityError
            raise kind(
                f"blob {digest}: {e.problem}",
                operation="verify",
                place=self.name,
                hint="the copy here is damaged; push it again from a whole one",
            ) from None


class _Copied:
    """A stream whose bytes are written to a file as they are read."""

    def __init__(self, stream: codec.Readable, copy: NewFile, limit: int, callback: Callback) -> None:
        self._stream, self._copy, self._limit, self._callback = stream, copy, limit, callback

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if self._copy.size + len(data) > self._limit:
            raise LimitExceeded(f"more than {self._limit} stored bytes")
        self._copy.write(data)
        self._callback.relative_update(len(data))
        return data


def check_content(digest: Digest, data: bytes, *, size: int | None, limits: Limits) -> int:
    """Verify stored bytes in memory; return their content's length in bytes.

    Raises
    ------
    IntegrityError
        If they are not the blob, or not of `size` bytes where that is known.
    """
    found, length = codec.digest_of(data, limit=limits.blob_bytes if size is None else size)
    if found != digest:
        raise IntegrityError(f"content has the digest {found}")
    if size is not None and length != size:
        raise IntegrityError(f"content has {length} bytes, its tree says {size}")
    return length


def stored_bound(content: int) -> int:
    """Return the most bytes that `content` bytes can take when stored, in frames as anybody makes them."""
    return content + (content >> 8) + (1 << 16)
