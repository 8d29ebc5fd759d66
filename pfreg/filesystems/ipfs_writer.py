"""Sending an image to a node: each file as one CAR, then the directories, with the root pinned.

Rules
-----
- A file's CID is known before anything is sent. What the node holds already is not sent; of a large file whose root it
  holds, every other block is asked for as well, so that one that the node lost is sent anew.
- A large file is read twice, for its CID and for its transfer. If it changed in between, the transfer is broken off.
- Files are sent unpinned. Only the last request, which carries the directories, pins; so whatever is interrupted
  leaves nothing but garbage that the node's own collection removes.
- Without a node everything is built and nothing is sent: a dry run that names the same root.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from fsspec.transaction import Transaction
from multiformats import CID

from pfreg.errors import BadOption, FileChanged, TransferError
from pfreg.filesystems import car, cids, unixfs
from pfreg.filesystems.ipfs_http import Body
from pfreg.filesystems.ipfs_servers import Node

__all__ = ["Content", "IPFSTransaction", "RemotePin", "Writer"]

Content = Callable[[], BinaryIO]
"""Opens what is to be sent, from its beginning, as often as it is called."""


@dataclass(frozen=True, slots=True)
class RemotePin:
    """What became of the request to have a root pinned elsewhere.

    Parameters
    ----------
    service : str
        The node's name for the pinning service.
    status : str
        What the service says (``queued``, ``pinning``, ``pinned``, ...), or ``failed``.
    problem : str
        Why it failed; empty if it did not.
    """

    service: str
    status: str
    problem: str = ""


class IPFSTransaction(Transaction):  # type: ignore[misc]
    """Collects files by path; its end makes them one pinned root."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs)
        self.fs: Any = fs
        self.staged: dict[str, unixfs.Entry] = {}

    def start(self) -> None:
        """Begin; see :class:`fsspec.transaction.Transaction`."""
        if self.fs._intrans:
            raise BadOption("a transaction is open already", hint="transactions on ipfs:// do not nest")
        self.fs.committed = None
        self.fs.writer.begin()
        self.staged = {}
        self.fs._intrans = True

    def complete(self, commit: bool = True) -> None:
        """Publish what was staged, or forget it."""
        fs, staged = self.fs, self.staged
        try:
            if commit:
                fs._publish(staged)
        finally:
            self.staged = {}
            fs._intrans = False
            fs._transaction = None
            self.fs = None


class Writer:
    """Puts files and roots on a node.

    Parameters
    ----------
    node : Node or None
        Where to; None for a dry run.

    Attributes
    ----------
    sent : int
        Bytes of CARs that went out so far.
    directories : sequence of CID
        The directory blocks of the last image.
    """

    def __init__(self, node: Node | None) -> None:
        self._node = node
        self.sent = 0
        self.directories: Sequence[CID] = ()

    @property
    def is_dry(self) -> bool:
        """Whether nothing is sent."""
        return self._node is None

    def begin(self) -> None:
        """Start another image: what was found out about the node for the last one may hold no more."""
        if self._node is not None:
            self._node.misses = 0

    async def add(self, content: Content) -> unixfs.Entry:
        """Make sure that the node holds a file, and return what names it.

        Raises
        ------
        AccessDenied, TransferError
            If the node refused it or failed.
        FileChanged
            If `content` was not the same twice.
        """
        root, names = await asyncio.to_thread(_scan, content)
        if self._node is None:
            return root.entry
        held = await self._node.has(root.entry.cid)
        if len(names) == 1:
            if not held:
                await self._node.add(self._car(root.entry.cid, [root]), len(root.data))
            return root.entry
        missing = {name for name in names if not held or not await self._node.has(cids.decode(name))}
        if missing:
            await self._node.add(self._streamed_car(root.entry.cid, content, missing), root.entry.total)
        return root.entry

    async def publish(self, files: Mapping[str, unixfs.Entry]) -> CID:
        """Build the directories above `files`, pin the root, and return its CID.

        A root that the node pins already, with all its directories there, is not pinned again: the node would walk the
        whole image for it. If it merely holds the root block then it most likely holds all below, and is sent no more
        than that block; if it turns out to lack some, everything is sent after all.

        Raises
        ------
        AccessDenied, TransferError
            If the node did not confirm that the whole image is pinned.
        BadOption
            If a path is both a file and a folder.
        """
        blocks = await asyncio.to_thread(lambda: list(unixfs.tree_blocks(files)))
        root = blocks[-1].entry.cid
        self.directories = [block.entry.cid for block in blocks]
        if self._node is None:
            return root
        if await self.stands(root, self.directories):
            return root
        if await self._node.has(root):
            try:
                await self._pin(self._node, root, blocks[-1:])
            except TransferError:
                await self._pin(self._node, root, blocks)
        else:
            await self._pin(self._node, root, blocks)
        return root

    async def stands(self, root: CID, directories: Sequence[CID]) -> bool:
        """Tell whether the node pins `root` and has its `directories`."""
        if self._node is None or not await self._node.pins(root):
            return False
        for directory in directories:
            if not await self._node.has(directory):
                return False
        return True

    async def _pin(self, node: Node, root: CID, blocks: list[unixfs.Block]) -> None:
        await node.pin(root, self._car(root, blocks), sum(len(block.data) for block in blocks))

    def _car(self, root: CID, blocks: list[unixfs.Block]) -> Body:
        """Return a request's body with `blocks`, which are in memory."""

        async def body() -> AsyncIterator[bytes]:
            yield self._counted(car.header(root))
            for block in blocks:
                yield self._counted(car.section(block.entry.cid, block.data))

        return body

    def _streamed_car(self, root: CID, content: Content, missing: set[bytes]) -> Body:
        """Return a request's body with those blocks of a large file that are `missing`."""

        async def body() -> AsyncIterator[bytes]:
            yield self._counted(car.header(root))
            with await asyncio.to_thread(content) as stream:
                blocks = unixfs.file_blocks(unixfs.chunks(stream))
                built = None
                while block := await asyncio.to_thread(next, blocks, None):
                    built = block.entry.cid
                    if bytes(built) in missing:
                        yield self._counted(car.section(built, block.data))
            if built != root:
                raise FileChanged("a file changed while it was being sent", operation="push", hint="push again")

        return body

    def _counted(self, data: bytes) -> bytes:
        self.sent += len(data)
        return data


def _scan(content: Content) -> tuple[unixfs.Block, list[bytes]]:
    """Return the root block of a file, and the binary CIDs of all its blocks (some 70 bytes for each MiB)."""
    names = []
    with content() as stream:
        for block in unixfs.file_blocks(unixfs.chunks(stream)):
            names.append(bytes(block.entry.cid))
    return block, names
