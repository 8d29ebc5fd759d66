"""Reading files and directories block by block, each one verified before a byte of it is used.

Rules
-----
- The chain of trust is the CID: the root's CID is known, each block is checked against the CID that led to it, and so
  everything that comes out is what the root's author put there, whoever sent it.
- A range is read by fetching the blocks that it touches and no other. An entry of a directory, sharded or not, is found
  by fetching the nodes on its path and no other.
- Memory is bounded: a few blocks on their way, and a small cache of directory nodes (which never change).
- What an author can do wrong within a valid chain is refused: sizes that contradict, endless depth, endless listings.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from multiformats import CID

from pfreg.errors import IntegrityError, LimitExceeded, TransferError
from pfreg.filesystems import cids
from pfreg.filesystems.dagpb import Kind, Link, Node, decode_node, shard_lookup, shard_prefix_width
from pfreg.filesystems.ipfs_servers import BlockSource

__all__ = ["Dag", "Found"]

_AHEAD = 4
"""Blocks of one file that are on their way at once."""

_DEPTH = 16
_CACHED_BYTES = 8 << 20
_HASHED_INLINE = 64 * 1024  # below this many bytes a thread costs more than the hash
_LISTED = 1_000_000


@dataclass(frozen=True, slots=True)
class Found:
    """What a path leads to.

    Parameters
    ----------
    cid : CID
        Its root block.
    total : int or None
        Bytes of all its blocks, as its directory says; None for a root, which no directory names.
    """

    cid: CID
    total: int | None = None


@dataclass(frozen=True, slots=True)
class _Span:
    """A child of a file node, and which part of it is wanted."""

    cid: CID
    size: int
    start: int
    end: int


class Dag:
    """Verified reading from one server.

    Parameters
    ----------
    source : BlockSource
        Gives blocks; it is not believed.
    """

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self._nodes: OrderedDict[CID, tuple[Node, int]] = OrderedDict()
        self._cached = 0

    async def block(self, cid: CID, *, is_root: bool = False) -> bytes:
        """Fetch the block `cid` and verify it.

        Parameters
        ----------
        cid : CID
            Its name.
        is_root : bool
            Whether a user named it. If nobody has it then there is nothing; but if a verified node names a block
            that nobody has, then something is lost.

        Raises
        ------
        FileNotFoundError
            If the server says that it has no such root.
        IntegrityError
            If the server sent something else.
        TransferError
            If a block that must be there is not served.
        """
        data = await self._source.block(cid)
        if data is None and is_root:
            raise FileNotFoundError(f"nothing is served under {cids.text(cid)}")
        if data is None:
            raise TransferError(f"the block {cids.text(cid)} is not served", hint="ask a gateway or node that has it")
        if len(data) < _HASHED_INLINE:
            cids.verify(cid, data)
        else:
            await asyncio.to_thread(cids.verify, cid, data)
        return data

    async def walk(self, root: CID, path: str) -> Found:
        """Follow `path` down from `root`.

        Raises
        ------
        FileNotFoundError
            If a directory on the way, whose whole content is verified, has no such entry.
        IntegrityError, TransferError
            As in :meth:`block`.
        """
        found = Found(root)
        for name in filter(None, path.split("/")):
            link = None if found.cid.codec.name == cids.RAW else await self._entry(found, name)
            if link is None:
                raise FileNotFoundError(f"{cids.text(root)} has no {path}")
            found = Found(cids.decode(link.cid), link.total)
        return found

    async def size(self, found: Found) -> int | None:
        """Return the size in bytes of a file's content; None for a directory.

        A file of one block is not fetched for this: its size is its directory's word, which a reader of the block
        then checks.

        Raises
        ------
        FileNotFoundError, IntegrityError, TransferError
            As in :meth:`block`.
        """
        if found.cid.codec.name == cids.RAW:
            return len(await self.block(found.cid, is_root=True)) if found.total is None else found.total
        node = await self._node(found.cid, is_root=found.total is None)
        return None if node.kind in (Kind.DIRECTORY, Kind.SHARD) else _file(node).size

    async def entries(self, found: Found) -> AsyncGenerator[tuple[str, Found], None]:
        """List a directory: each name, and what it leads to."""
        count = 0
        pending = [(found.cid, found.total is None, 0)]
        while pending:
            cid, is_root, depth = pending.pop()
            node = await self._node(cid, is_root=is_root)
            if (node.kind is not Kind.DIRECTORY or depth) and node.kind is not Kind.SHARD:
                raise NotADirectoryError(f"{cids.text(cid)} is no directory")
            width = shard_prefix_width(node.fanout) if node.kind is Kind.SHARD else 0
            for link in node.links:
                if depth > _DEPTH or (count := count + 1) > _LISTED:
                    raise LimitExceeded(f"the directory {cids.text(found.cid)} is too large to list")
                if width and len(link.name) == width:
                    pending.append((cids.decode(link.cid), False, depth + 1))
                else:
                    yield link.name[width:], Found(cids.decode(link.cid), link.total)

    async def content(self, found: Found, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Give the content of a file from byte `start` up to `end`, piece by piece.

        Raises
        ------
        IsADirectoryError
            If it is no file.
        FileNotFoundError, IntegrityError, TransferError
            As in :meth:`block`.
        """
        size = await self.size(found)
        if size is None:
            raise IsADirectoryError(f"{cids.text(found.cid)} is a directory")
        span = _Span(found.cid, size, min(start, size), size if end is None else min(end, size))
        if found.cid.codec.name == cids.RAW:
            pieces = self._pieces(span, await self.block(found.cid, is_root=found.total is None), 0)
        else:
            pieces = self._below(span, await self._node(found.cid), 0)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _pieces(self, span: _Span, block: bytes, depth: int) -> AsyncGenerator[bytes, None]:
        if span.cid.codec.name == cids.RAW:
            _check_size(span, len(block))
            yield block[span.start : span.end]
            return
        async with aclosing(self._below(span, decode_node(block), depth)) as pieces:
            async for piece in pieces:
                yield piece

    async def _below(self, span: _Span, node: Node, depth: int) -> AsyncGenerator[bytes, None]:
        if depth > _DEPTH:
            raise LimitExceeded(f"the file {cids.text(span.cid)} is nested too deeply")
        _check_size(span, _file(node).size)
        if node.data[span.start : span.end]:
            yield node.data[span.start : span.end]
        async with aclosing(self._in_order(_touched(node, span))) as children:
            async for child, data in children:
                async with aclosing(self._pieces(child, data, depth + 1)) as pieces:
                    async for piece in pieces:
                        yield piece

    async def _in_order(self, spans: Iterator[_Span]) -> AsyncGenerator[tuple[_Span, bytes], None]:
        """Fetch the blocks of `spans`, a few at once, and give them in order."""
        coming: deque[tuple[_Span, asyncio.Task[bytes]]] = deque()
        try:
            while True:
                while len(coming) < _AHEAD and (span := next(spans, None)):
                    coming.append((span, asyncio.create_task(self.block(span.cid))))
                if not coming:
                    return
                yield coming[0][0], await coming[0][1]
                coming.popleft()
        finally:
            for _, task in coming:
                task.cancel()
            await asyncio.gather(*(task for _, task in coming), return_exceptions=True)

    async def _entry(self, found: Found, name: str) -> Link | None:
        node = await self._node(found.cid, is_root=found.total is None)
        for depth in range(_DEPTH):
            if node.kind is Kind.DIRECTORY and not depth:
                return node.named.get(name)
            if node.kind is not Kind.SHARD:
                break
            link, is_entry = shard_lookup(node, name, depth)
            if link is None or is_entry:
                return link
            node = await self._node(cids.decode(link.cid))
        if node.kind in (Kind.DIRECTORY, Kind.SHARD):
            raise IntegrityError(f"the sharded directory {cids.text(found.cid)} is malformed")
        return None

    async def _node(self, cid: CID, *, is_root: bool = False) -> Node:
        if cid in self._nodes:
            self._nodes.move_to_end(cid)
            return self._nodes[cid][0]
        if cid.codec.name == cids.RAW:
            raise NotADirectoryError(f"{cids.text(cid)} is a file")
        block = await self.block(cid, is_root=is_root)
        node = decode_node(block)
        if cid not in self._nodes:
            self._cached += len(block)
        self._nodes[cid] = (node, len(block))
        while self._cached > _CACHED_BYTES and len(self._nodes) > 1:
            self._cached -= self._nodes.popitem(last=False)[1][1]
        return node


def _file(node: Node) -> Node:
    if node.kind not in (Kind.FILE, Kind.RAW):
        raise IntegrityError(f"a {node.kind.name.lower()} stands where a file should be")
    return node


def _check_size(span: _Span, size: int) -> None:
    if size != span.size:
        raise IntegrityError(f"{cids.text(span.cid)} has {size} bytes where its parent says {span.size}")


def _touched(node: Node, span: _Span) -> Iterator[_Span]:
    offset = len(node.data)
    for link, size in zip(node.links, node.sizes, strict=True):
        if offset < span.end and offset + size > span.start:
            yield _Span(cids.decode(link.cid), size, max(span.start - offset, 0), min(span.end - offset, size))
        offset += size
