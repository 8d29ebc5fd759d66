"""One root: a folder on any filesystem that holds one image.

Rules
-----
- The manifest is written last; a reader who finds one finds everything that it reaches.
- Manifest and signature are two files. While one image replaces another, the signature file vouches for both
  (``signing.bridge``), so that the place holds a whole image whenever, and wherever, a publisher stops.
- A reader that sees the two disagree all the same reads both again, a few times, before it says "torn"; a publisher
  looks afterwards whether they agree, and mends it if another publisher came in between.
- In local folders, and in memory, publishing is serialised by a lock, and ``expect=`` is exact. So it is where the
  server can compare and swap: then both files are written on the condition that they are what was looked at. Elsewhere
  it is checked last thing before the manifest is written.
- What may not be read is not absent. A publisher that may write, but neither list nor read, goes on all the same.
- On a filesystem whose transaction is its commit, everything between blobs and manifest happens inside one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pfreg import layout
from pfreg.blobs import BlobTree
from pfreg.digest import Digest
from pfreg.errors import AccessDenied, BadOption, Conflict, ImageNotFound, IntegrityError, SignatureError, TornImage
from pfreg.files import translated
from pfreg.limits import DEFAULT_LIMITS, Limits
from pfreg.local_files import LocalFiles, locked
from pfreg.manifest import Manifest
from pfreg.reference import Location, locate
from pfreg.signing import Signature, Trust, Verifier, bridge, check_signature, signature_of

__all__ = [
    "ABSENT",
    "Announces",
    "CommitsByTransaction",
    "Foretells",
    "HasTags",
    "Keeps",
    "Published",
    "ReadsAtCommit",
    "Registry",
    "Swaps",
    "parse_expect",
]

ABSENT = "absent"
"""What ``expect=`` says when there must be no image yet."""

_LOOK = "somebody else published; look at it, then push with the new expectation"
_READS = 5
_PAUSE = 0.05  # seconds before the first new look at a torn image; it doubles
_IN_MEMORY = threading.Lock()


@runtime_checkable
class CommitsByTransaction(Protocol):
    """A filesystem whose transaction publishes everything at once."""

    transaction_is_commit: bool
    committed: str | None
    transaction: Any


@runtime_checkable
class Keeps(Protocol):
    """A filesystem whose commit replaces what was there, and so has to be told what stays."""

    def keep(self, paths: Sequence[str]) -> None:
        """Take files that are there already into the commit, without sending them."""
        ...


@runtime_checkable
class Announces(Protocol):
    """A filesystem that can refuse too much before anything is sent."""

    def announce(self, paths: Collection[str]) -> None:
        """Take note of every file that the commit is going to hold; raise LimitExceeded if they are too many."""
        ...


@runtime_checkable
class HasTags(Protocol):
    """A filesystem whose registry keeps names for commits."""

    def tags(self, path: str) -> Iterable[str]:
        """Return the names beside the one in `path`."""
        ...


@runtime_checkable
class ReadsAtCommit(Protocol):
    """A filesystem that reads everything at one commit."""

    def commit_of(self, place: str) -> str:
        """Return the commit that a path is read at."""
        ...


@runtime_checkable
class Swaps(Protocol):
    """A filesystem whose server may write a file only if nobody else has written it meanwhile."""

    def swaps(self, folder: str) -> bool:
        """Tell whether the server really does, found out with a file in `folder`."""
        ...

    def version(self, path: str) -> str | None:
        """Return what names the content of the file at `path` now, None where there is none."""
        ...

    def swap(self, path: str, data: bytes, *, version: str | None) -> str:
        """Write, and return the new version; raise FileExistsError if another is there than `version`."""
        ...


@runtime_checkable
class Foretells(Protocol):
    """A filesystem whose commits are named by what is in them, so that it can name one before it makes it."""

    def rehearsal(self) -> contextlib.AbstractContextManager[None]:
        """Give a block in which transactions send nothing; ``committed`` is then what they would have made."""
        ...

    def holds(self, commit: str) -> bool:
        """Tell whether the commit that a rehearsal named is there already, whole and kept."""
        ...


@dataclass(frozen=True, slots=True)
class Published:
    """An image as it was read from a root.

    Parameters
    ----------
    manifest : Manifest
        Its manifest.
    signature : bytes
        Its ``manifest.json.sig``, as received.
    trust : Trust
        What the signature is worth.
    """

    manifest: Manifest
    signature: bytes
    trust: Trust


class Registry(BlobTree):
    """A root.

    Parameters
    ----------
    location : Location
        Where it is.
    limits : Limits
        Bounds for what is read.
    """

    def __init__(self, location: Location, *, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(location.files, location.path, name=location.reference.text, limits=limits)
        self.location = location
        self.fs = location.fs

    @classmethod
    def open(
        cls, url: Any, *, storage_options: Mapping[str, Any] | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> Registry:
        """Return the root that a reference names; see :func:`pfreg.reference.locate`."""
        return cls(locate(url, storage_options=storage_options), limits=limits)

    def __repr__(self) -> str:
        return f"Registry({self.name!r})"

    @property
    def scheme(self) -> str:
        """The scheme of the reference."""
        return self.location.reference.scheme

    # -- reading -------------------------------------------------------------------------------------------------

    def current(self) -> tuple[bytes | None, bytes | None]:
        """Return manifest and signature as they are, None for what is absent. Nothing is verified."""
        return self._read(layout.MANIFEST, self.limits.manifest_bytes), self._read(
            layout.SIGNATURE, self.limits.signature_bytes
        )

    def readable(self) -> tuple[bytes | None, bytes | None]:
        """Return what :meth:`current` does, and nothing if neither that may be read, nor anything listed.

        S3 says of what is absent that it is forbidden to whoever may not list.
        """
        try:
            return self.current()
        except AccessDenied:
            try:
                self.files.find(self.path_in(layout.BLOBS))
            except AccessDenied:
                return None, None
            raise

    def has_image(self) -> bool:
        """Tell whether there is a manifest."""
        (found,) = self.files.info_many([self.path_in(layout.MANIFEST)])
        return found is not None

    def image(self, *, verifier: Verifier, require_signature: bool = False) -> Published:
        """Read the image: verify its signature over the bytes received, then parse those bytes.

        Raises
        ------
        ImageNotFound
            If there is none.
        SignatureError, ManifestError, LimitExceeded
            If it is not to be trusted, or no image.
        TornImage
            If manifest and signature never agreed.
        """
        for turn in range(_READS):
            manifest, signature = self.current()
            if manifest is None:
                hint = (
                    "is the reference right? pfreg exists tells"
                    if signature is None
                    else "a push is under way, or broke off"
                )
                raise ImageNotFound("no image here", operation="read", place=self.name, hint=hint)
            try:
                if signature is None:
                    raise SignatureError("manifest.json.sig is missing", hint="push the image again")
                ours = signature_of(manifest, signature, limits=self.limits)
                trust = check_signature(
                    manifest, ours, verifier=verifier, require_signature=require_signature, limits=self.limits
                )
                return Published(Manifest.from_bytes(manifest, limits=self.limits), ours, trust)
            except (SignatureError, IntegrityError) as e:
                error = e
            if self._settled(manifest, signature, turn):
                raise type(error)(error.problem, operation="read", place=self.name, hint=error.hint) from None
        raise TornImage(
            "manifest and signature kept changing",
            operation="read",
            place=self.name,
            hint="somebody is pushing; try again",
        )

    def _settled(self, manifest: bytes, signature: bytes | None, turn: int) -> bool:
        """Tell whether a second look shows the same; if not, or if it is early, a push may be under way."""
        time.sleep(_PAUSE * 2**turn)
        return turn >= 1 and self.current() == (manifest, signature)

    def _read(self, name: str, limit: int) -> bytes | None:
        path = self.path_in(name)
        if not self.files.bounded:
            (found,) = self.files.info_many([path])
            if found is None:
                return None
            if found.size > limit:
                raise IntegrityError(
                    f"{name} has {found.size} bytes, more than {limit}", operation="read", place=self.name
                )
        (data,) = self.files.read_many([path], limit=limit)
        return data

    def copies_from(self, other: Registry) -> bool:
        """Tell whether one server holds both roots, and copies from that one to this one by itself."""
        return self.files.copies_from(other.files) and not self.transactional

    # -- writing -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """Write inside this block: on a filesystem whose transaction is its commit, it is one."""
        if self.transactional:
            with self.fs.transaction:
                yield
        else:
            yield

    @property
    def transactional(self) -> bool:
        """Whether the filesystem's transaction is its commit, so that nothing is to be seen before it ends."""
        return isinstance(self.fs, CommitsByTransaction) and self.fs.transaction_is_commit

    def announce(self, digests: Iterable[Digest]) -> None:
        """Say what the commit is going to hold, where that can be too much."""
        if isinstance(self.fs, Announces):
            names = [layout.SIGNATURE, layout.MANIFEST, *map(layout.blob_path, digests)]
            self.fs.announce([self.path_in(name) for name in names])

    def keep(self, digests: Sequence[Digest]) -> None:
        """Name blobs that are there already, where the commit would drop them otherwise."""
        if isinstance(self.fs, Keeps):
            self.fs.keep([self.path_of(digest) for digest in digests])

    @property
    def committed(self) -> str | None:
        """What names the last commit, on a filesystem that makes commits."""
        return self.fs.committed if isinstance(self.fs, CommitsByTransaction) else None

    @property
    def commit_read(self) -> str | None:
        """What names the commit that the root is read at, on a filesystem that reads at one."""
        return self.fs.commit_of(self.path) if isinstance(self.fs, ReadsAtCommit) else None

    def publish(self, manifest: bytes, signature: bytes, *, expect: Digest | str | None = None) -> None:
        """Write signature and manifest, in this order, when all blobs are there.

        Raises
        ------
        Conflict
            If the root holds another image than `expect`.
        """
        if expect is not None and not self.transactional and isinstance(self.fs, Swaps):
            with translated("publish", self.name, secrets=self.location.secrets):
                if self.fs.swaps(self.path):
                    return self._swap_in(self.fs, manifest, signature, expect)
        with self._exclusively():
            self.check_expect(expect)
            before = signature if self.transactional else self._bridged(manifest, signature)
            self._write(layout.SIGNATURE, before)
            self._write(layout.MANIFEST, manifest)
            if before != signature:
                self._write(layout.SIGNATURE, signature)
        if not self.transactional:
            self._mend(manifest, signature)
        return None

    def _swap_in(self, fs: Swaps, manifest: bytes, signature: bytes, expect: Digest | str) -> None:
        # Versions first, and then what they name: what changes in between is found out by the swap.
        beside, there = (fs.version(self.path_in(name)) for name in (layout.SIGNATURE, layout.MANIFEST))
        self.check_expect(expect)
        before = self._bridged(manifest, signature)
        try:
            ours = self._swap(fs, layout.SIGNATURE, before, beside)
            self._swap(fs, layout.MANIFEST, manifest, there)
        except FileExistsError as e:
            problem = f"somebody else published while {expect} was to be replaced"
            raise Conflict(problem, operation="publish", place=self.name, hint=_LOOK) from e
        if before != signature:
            with contextlib.suppress(FileExistsError):  # who lost has written there: that is mended
                self._swap(fs, layout.SIGNATURE, signature, ours)
        self._mend(manifest, signature)

    def _swap(self, fs: Swaps, name: str, data: bytes, version: str | None) -> str:
        path = self.path_in(name)
        try:
            return fs.swap(path, data, version=version)
        except FileExistsError:
            now = fs.version(path)
            if now is None or self._read(name, max(self.limits.manifest_bytes, self.limits.signature_bytes)) != data:
                raise
            return now  # this is our own write: its answer was lost, and the library asked again

    def _bridged(self, manifest: bytes, signature: bytes) -> bytes:
        """Return the signature with the one of the image that is there, which stays whole until it is replaced."""
        there, beside = self.readable()
        if there is None or there == manifest or beside is None:
            return signature
        beside = signature_of(there, beside, limits=self.limits)
        if _signed_manifest(beside) != Digest.of(there):
            return signature
        return bridge(signature, beside, limits=self.limits)

    def check_expect(self, expect: Digest | str | None) -> None:
        """Raise Conflict if the root holds another image than `expect`; None expects nothing."""
        if expect is None:
            return
        raw = self._read(layout.MANIFEST, self.limits.manifest_bytes)
        holds = None if raw is None else Digest.of(raw)
        if holds != (None if expect == ABSENT else expect):
            raise Conflict(
                f"holds {holds or 'no image'}, not {expect}",
                operation="publish",
                place=self.name,
                hint=_LOOK,
            )

    def _write(self, name: str, data: bytes) -> None:
        self.files.write_many([(self.path_in(name), data)])
        self.files.flush()

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        if isinstance(self.files, LocalFiles):
            with locked(self.path, exclusive=True):
                yield
        elif "memory" in self.fs.protocol:
            with _IN_MEMORY:
                yield
        else:
            yield

    def _mend(self, manifest: bytes, signature: bytes) -> None:
        """Look whether manifest and signature agree; where two publishers crossed, put the right signature back."""
        if isinstance(self.files, LocalFiles) or "memory" in self.fs.protocol:
            return
        known = {Digest.of(manifest): signature}
        for turn in range(_READS):
            there, beside = self.readable()
            if there is None:
                return
            beside = None if beside is None else signature_of(there, beside, limits=self.limits)
            cid, signs = Digest.of(there), _signed_manifest(beside)
            if signs == cid:
                return
            if signs is not None and beside is not None:
                known[signs] = beside
            if cid in known:
                self._write(layout.SIGNATURE, known[cid])
            elif turn < _READS - 2:
                time.sleep(_PAUSE * 2**turn)
            else:  # nobody comes any more to sign what is there: what was asked for here takes its place
                self._write(layout.SIGNATURE, signature)
                self._write(layout.MANIFEST, manifest)
        raise TornImage(
            "manifest and signature do not agree after publishing",
            operation="publish",
            place=self.name,
            hint="others are publishing here, or the filesystem loses writes; push again",
        )


def parse_expect(expect: str | Digest | None) -> Digest | str | None:
    """Read an ``expect=`` argument.

    Raises
    ------
    BadOption
        If it is neither a CID nor ``"absent"``.
    """
    if expect is None or expect == ABSENT:
        return expect
    try:
        return Digest.parse(expect)
    except IntegrityError:
        raise BadOption(f"expect is a CID or {ABSENT!r}, not {str(expect)[:80]!r}") from None


def _signed_manifest(signature: bytes | None) -> Digest | None:
    """Return which manifest a signature says it signs, None for one that says nothing."""
    try:
        return None if signature is None else Signature.from_bytes(signature).manifest_digest
    except SignatureError:
        return None
