"""dag-pb nodes as they are read: what a block says, if it is consistent in itself. Pure functions, no I/O.

Rules
-----
- Any UnixFS is read, however it was built: any chunking, dag-pb leaves, plain directories and sharded ones (HAMT).
- A node that contradicts itself is refused: sizes that do not add up, a name twice, a name that is a path.
- A link's CID stays binary until somebody follows it, since a directory has thousands and a reader follows few.
- In a sharded directory an entry is found by the hash of its name, one block for each level, without a listing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import mmh3
from multiformats import varint

from pfreg.errors import IntegrityError, LimitExceeded

__all__ = [
    "MAX_LINKS",
    "MURMUR3_X64_64",
    "Kind",
    "Link",
    "Node",
    "decode_node",
    "shard_lookup",
    "shard_prefix_width",
    "shard_slot",
]

MAX_LINKS = 1 << 16
"""Links that a node may have when it is read; a directory of this many must have been sharded long before."""

MURMUR3_X64_64 = 0x22
"""The multihash code of the only hash that sharded directories use."""

_HASH_BITS = 64


class Kind(IntEnum):
    """What a UnixFS node is; the numbers are the format's."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    SHARD = 5


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a node that was read. `cid` stays binary until somebody follows it."""

    name: str
    cid: bytes
    total: int


@dataclass(frozen=True, slots=True)
class Node:
    """A dag-pb block that was read and is consistent in itself.

    Parameters
    ----------
    kind : Kind
        What the node is.
    data : bytes
        Content that lies in the node itself.
    size : int
        Bytes of the file's content.
    links : tuple of Link
        Its children in order.
    sizes : tuple of int
        Bytes of content below each child, for files.
    fanout : int
        Children that a shard may have.
    named : mapping of str to Link
        The links of a directory or shard by name.
    """

    kind: Kind
    data: bytes
    size: int
    links: tuple[Link, ...]
    sizes: tuple[int, ...]
    fanout: int
    named: Mapping[str, Link]


def decode_node(block: bytes) -> Node:
    """Read a dag-pb block.

    Raises
    ------
    IntegrityError
        If it is no dag-pb, holds no UnixFS, or contradicts itself.
    LimitExceeded
        If it has more than :data:`MAX_LINKS` links.
    """
    links: list[Link] = []
    payload: bytes | None = None
    for number, value in _fields(block):
        if number == 2 and isinstance(value, bytes):
            links.append(_decode_link(value))
        elif number == 1 and isinstance(value, bytes) and payload is None:
            payload = value
        else:
            raise IntegrityError("a block is no dag-pb node")
        if len(links) > MAX_LINKS:
            raise LimitExceeded(f"a node has more than {MAX_LINKS} links")
    if payload is None:
        raise IntegrityError("a dag-pb node holds no UnixFS data")
    return _consistent(tuple(links), payload)


def _decode_link(data: bytes) -> Link:
    name, cid, total = "", b"", 0
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            cid = value
        elif number == 2 and isinstance(value, bytes):
            try:
                name = value.decode()
            except UnicodeDecodeError as error:
                raise IntegrityError("the name of a link is not UTF-8") from error
        elif number == 3 and isinstance(value, int):
            total = value
        else:
            raise IntegrityError("a dag-pb node has a malformed link")
    return Link(name, cid, total)


def _consistent(links: tuple[Link, ...], payload: bytes) -> Node:
    numbers: dict[int, int] = {}
    sizes: list[int] = []
    data = b""
    for number, value in _fields(payload):
        if number == 2 and isinstance(value, bytes):
            data = value
        elif number == 4:
            sizes += [value] if isinstance(value, int) else _packed(value)
        elif isinstance(value, int):
            numbers[number] = value
        if len(sizes) > len(links):
            raise IntegrityError("a file node has more sizes than children")
    try:
        kind = Kind(numbers.get(1, -1))
    except ValueError as error:
        raise IntegrityError(f"a node is of unknown kind {numbers.get(1)}") from error
    if kind in (Kind.DIRECTORY, Kind.SHARD):
        return _directory(kind, links, data, numbers)
    size = len(data) + sum(sizes)
    if len(sizes) != len(links) or numbers.get(3, size) != size:
        raise IntegrityError("the sizes in a file node do not add up")
    return Node(kind, data, size, links, tuple(sizes), 0, MappingProxyType({}))


def _directory(kind: Kind, links: tuple[Link, ...], data: bytes, numbers: dict[int, int]) -> Node:
    fanout, width = 0, 0
    if kind is Kind.SHARD:
        fanout = numbers.get(6, 0)
        if numbers.get(5) != MURMUR3_X64_64 or not 8 <= fanout <= 1024 or fanout & (fanout - 1):
            raise IntegrityError("a sharded directory has an unknown hash or fanout")
        width = shard_prefix_width(fanout)
    named = {link.name: link for link in links}
    if len(named) != len(links):
        raise IntegrityError("a directory has two entries of one name")
    for name in named:
        own = name[width:]
        if own in (".", "..") or (not own and kind is Kind.DIRECTORY) or "/" in own or "\0" in own:
            raise IntegrityError(f"a directory has an entry whose name is a path: {name[:60]!r}")
    return Node(kind, data, 0, links, (), fanout, MappingProxyType(named))


def shard_prefix_width(fanout: int) -> int:
    """Return how many hex digits stand before each name in a shard of `fanout`."""
    return len(f"{fanout - 1:X}")


def shard_lookup(node: Node, name: str, depth: int) -> tuple[Link | None, bool]:
    """Take one step towards `name` in a sharded directory.

    Parameters
    ----------
    node : Node
        The shard that `depth` steps led to.
    name : str
        The entry to find.
    depth : int
        Steps taken already.

    Returns
    -------
    link : Link or None
        Where to go on; None says that the directory holds no such entry.
    found : bool
        True if `link` is the entry, False if it is the next shard.
    """
    if not name or (node.fanout.bit_length() - 1) * (depth + 1) > _HASH_BITS:
        return None, False
    prefix = f"{shard_slot(name, node.fanout, depth):0{shard_prefix_width(node.fanout)}X}"
    link = node.named.get(prefix + name)
    return (link, True) if link else (node.named.get(prefix), False)


def shard_slot(name: str, fanout: int, depth: int) -> int:
    """Return the place of `name` in a shard of `fanout`, `depth` steps below the directory."""
    bits = fanout.bit_length() - 1
    name_hash = int(mmh3.hash64(name.encode(), 0, x64arch=True, signed=False)[0])
    return (name_hash >> (_HASH_BITS - bits * (depth + 1))) & (fanout - 1)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message: varints as int, everything with a length as bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise IntegrityError("a block holds malformed protobuf")
        if position + length > len(data):
            raise IntegrityError("a block ends in the middle of a field")
        yield number, data[position : position + length]
        position += length


def _packed(data: bytes) -> list[int]:
    position, values = 0, []
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _varint(data: bytes, position: int) -> tuple[int, int]:
    if position < len(data) and data[position] < 0x80:  # nearly all are this short, and the library takes 10 us
        return data[position], position + 1
    try:
        value, length, _ = varint.decode_raw(data[position : position + 9])
    except ValueError as error:
        raise IntegrityError("a block holds a malformed varint") from error
    return value, position + length
