"""The transaction of the OCI filesystem: the files of one coming commit.

Rules
-----
- One transaction writes one tag, and none is opened inside another.
- Its end puts one manifest, or nothing if the block raised; the blobs that went up by then are named by nothing, and
  the registry's own collector takes them.
- A manifest that would be too large is refused before the blob is sent that would make it so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fsspec.asyn import sync
from fsspec.transaction import Transaction

from pfreg.errors import LimitExceeded, UnsupportedRegistry
from pfreg.filesystems.oci_manifest import MAX_MANIFEST, MAX_SHARDS, Descriptor, layer_length
from pfreg.filesystems.oci_path import ArtifactName

__all__ = ["OciTransaction", "Staged", "refuse_nested", "too_many_files"]

_MANIFEST_OVERHEAD = 1024  # bytes of a manifest that are not layers


@dataclass(frozen=True, slots=True)
class Staged:
    """A file of the coming commit: its blob, and the local file that has the bytes if there is one."""

    descriptor: Descriptor
    source: str = ""


class OciTransaction(Transaction):  # type: ignore[misc]  # fsspec has no types
    """The files of one coming commit to one tag; its end puts the manifest."""

    fs: Any  # None once it is over, as in every fsspec transaction

    def __init__(self, fs: Any) -> None:
        super().__init__(fs)
        self.name: ArtifactName | None = None
        self.staged: dict[str, Staged] = {}
        self.looking = asyncio.Lock()
        self.present: dict[str, int] | None = None
        self._length = _MANIFEST_OVERHEAD

    def start(self) -> None:
        """Begin.

        Raises
        ------
        UnsupportedRegistry
            If a transaction is open on this filesystem already.
        """
        refuse_nested(self.fs)
        self.fs.committed = None
        super().start()

    def complete(self, commit: bool = True) -> None:
        """Put the manifest, or forget everything; either way the transaction is over."""
        try:
            if commit:
                self.fs.committed = sync(self.fs.loop, self.fs._commit, self)
        finally:
            self._end()

    async def __aenter__(self) -> OciTransaction:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.fs.committed = await self.fs._commit(self)
        finally:
            self._end()

    def _end(self) -> None:
        self.fs._intrans = False
        self.fs._transaction = None
        self.fs = None

    def reserve(self, name: ArtifactName, path: str, size: int, *, shard_layers: int) -> None:
        """Make room in the manifest for a file, before its blob is sent.

        Raises
        ------
        UnsupportedRegistry
            If the transaction writes another artifact.
        LimitExceeded
            If the manifest would become larger than registries take.
        """
        if self.name is None:
            self.name = name
        if self.name != name:
            raise UnsupportedRegistry("one transaction writes one artifact", operation="write", place=str(name))
        if path in self.staged:
            return
        self._length += layer_length(path, size)
        limit = MAX_SHARDS * shard_layers if shard_layers else 0
        if (limit and len(self.staged) >= limit) or (not limit and self._length > MAX_MANIFEST):
            raise too_many_files(str(name))


def refuse_nested(fs: Any) -> None:
    """Raise :class:`UnsupportedRegistry` if a transaction is open on `fs` already."""
    if fs._intrans:
        raise UnsupportedRegistry("a transaction inside a transaction", operation="write", place=fs.protocol)


def too_many_files(place: str) -> LimitExceeded:
    """Return the error for more files than a manifest can name."""
    return LimitExceeded(
        f"more files than a manifest of {MAX_MANIFEST} bytes can name",
        operation="write",
        place=place,
        hint="pass oci_shard=400 to write an index of shards",
    )
