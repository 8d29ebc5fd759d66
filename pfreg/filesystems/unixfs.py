"""UnixFS as pfreg writes it: files and directories as blocks that name each other by CID. Pure functions, no I/O.

Rules
-----
- What is built is a function of names and contents alone, so the same image always has the same root CID:
  CIDv1, sha2-256, raw leaves, chunks of 1 MiB, at most 1,024 links in a node, directories sorted by the bytes of their
  names and sharded (HAMT, fanout 256, murmur3) when the names and CIDs of their entries pass 256 KiB.
- Blocks come out children first and root last. Who has the root of a finished transfer has everything below it.
- Building a file holds one row of links for each level of its tree, whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from multiformats import CID, varint

from pfreg.errors import BadOption
from pfreg.filesystems import cids
from pfreg.filesystems.dagpb import MURMUR3_X64_64, shard_prefix_width, shard_slot

__all__ = ["PROFILE", "Block", "Entry", "Profile", "chunks", "directory_blocks", "file_blocks", "tree_blocks"]

_SHARD_ABOVE = 256 * 1024
_FANOUT = 256


@dataclass(frozen=True, slots=True)
class Profile:
    """How a file is cut: bytes of a leaf, and links of a node."""

    chunk: int = 1 << 20
    links: int = 1024


PROFILE = Profile()
"""The profile of everything that pfreg writes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory as its parent names it.

    Parameters
    ----------
    cid : CID
        Its root block.
    total : int
        Bytes of all its blocks together (``Tsize``).
    size : int
        Bytes of its content; 0 for a directory.
    """

    cid: CID
    total: int
    size: int


@dataclass(frozen=True, slots=True)
class Block:
    """A block that was built, and what stands below it."""

    entry: Entry
    data: bytes = field(repr=False)


def chunks(stream: BinaryIO, profile: Profile = PROFILE) -> Iterator[bytes]:
    """Cut what is left in `stream` into leaves; an empty stream is one empty leaf."""
    chunk = stream.read(profile.chunk)
    yield chunk
    while chunk := stream.read(profile.chunk):
        yield chunk


def file_blocks(leaves: Iterable[bytes], profile: Profile = PROFILE) -> Iterator[Block]:
    """Build the blocks of a file, children first, root last.

    Parameters
    ----------
    leaves : iterable of bytes
        The content, cut by :func:`chunks`.
    profile : Profile
        The same profile that `leaves` was cut by.
    """
    rows: list[list[Entry]] = [[]]
    for leaf in leaves:
        entry = Entry(cids.of_block(cids.RAW, leaf), len(leaf), len(leaf))
        yield Block(entry, leaf)
        rows[0].append(entry)
        yield from _fold(rows, 0, profile.links)
    level = 0
    while level + 1 < len(rows) or len(rows[level]) > 1:
        if rows[level]:
            yield from _fold(rows, level, 1)
        level += 1


def _fold(rows: list[list[Entry]], level: int, when: int) -> Iterator[Block]:
    """Make a node of the row at `level` once it has `when` links, and so on upwards."""
    if len(rows[level]) < when:
        return
    node = _file_node(rows[level])
    yield node
    rows[level] = []
    if level + 1 == len(rows):
        rows.append([])
    rows[level + 1].append(node.entry)
    if when > 1:
        yield from _fold(rows, level + 1, when)


def _file_node(children: list[Entry]) -> Block:
    size = sum(child.size for child in children)
    sizes = b"".join(b"\x20" + varint.encode(child.size) for child in children)
    data = b"\x08\x02\x18" + varint.encode(size) + sizes
    return _dag_pb([("", child) for child in children], data, size)


def directory_blocks(entries: Mapping[str, Entry]) -> Iterator[Block]:
    """Build a directory: one block, or several when it is sharded; its own block comes last."""
    if sum(len(name.encode()) + len(bytes(entry.cid)) for name, entry in entries.items()) > _SHARD_ABOVE:
        yield from _shard_blocks(entries, 0)
    else:
        yield _dag_pb(sorted(entries.items(), key=lambda item: item[0].encode()), b"\x08\x01", 0)


def _shard_blocks(entries: Mapping[str, Entry], depth: int) -> Iterator[Block]:
    buckets: dict[int, dict[str, Entry]] = {}
    for name, entry in entries.items():
        buckets.setdefault(shard_slot(name, _FANOUT, depth), {})[name] = entry
    links, bitfield = [], 0
    for slot, bucket in sorted(buckets.items()):
        bitfield |= 1 << slot
        prefix = f"{slot:0{shard_prefix_width(_FANOUT)}X}"
        if len(bucket) == 1:
            [(name, child)] = bucket.items()
        else:
            name = ""
            for block in _shard_blocks(bucket, depth + 1):
                yield block
                child = block.entry
        links.append((prefix + name, child))
    bits = bitfield.to_bytes((bitfield.bit_length() + 7) // 8, "big")
    data = b"\x08\x05\x12" + varint.encode(len(bits)) + bits
    data += b"\x28" + varint.encode(MURMUR3_X64_64) + b"\x30" + varint.encode(_FANOUT)
    yield _dag_pb(links, data, 0)


def tree_blocks(files: Mapping[str, Entry]) -> Iterator[Block]:
    """Build the directories above `files`, innermost first, the root directory last.

    Parameters
    ----------
    files : mapping of str to Entry
        Files by their paths below the root, ``/`` between the parts.

    Raises
    ------
    BadOption
        If a path is both a file and a folder of others.
    """
    folders: dict[str, dict[str, Entry]] = {"": {}}
    for path in files:
        parent = path
        while parent:
            parent = parent.rpartition("/")[0]
            if parent in files:
                raise BadOption(f"{parent!r} is both a file and a folder")
            folders.setdefault(parent, {})
    for path, entry in files.items():
        parent, _, name = path.rpartition("/")
        folders[parent][name] = entry
    for folder in sorted(folders, key=lambda path: (-path.count("/") if path else 1, path)):
        for block in directory_blocks(folders[folder]):
            yield block
            root = block.entry
        if folder:
            parent, _, name = folder.rpartition("/")
            folders[parent][name] = root


def _dag_pb(links: Iterable[tuple[str, Entry]], data: bytes, size: int) -> Block:
    """Serialise a node; canonical dag-pb puts the links first and the data after them."""
    out, total = bytearray(), 0
    for name, child in links:
        link = b"\x0a" + _prefixed(bytes(child.cid)) + b"\x12" + _prefixed(name.encode())
        link += b"\x18" + varint.encode(child.total)
        out += b"\x12" + _prefixed(link)
        total += child.total
    out += b"\x0a" + _prefixed(data)
    block = bytes(out)
    return Block(Entry(cids.of_block(cids.DAG_PB, block), total + len(block), size), block)


def _prefixed(data: bytes) -> bytes:
    return varint.encode(len(data)) + data
