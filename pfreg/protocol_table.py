"""What there is to know about the filesystems of fsspec, by protocol. This is data: the engine knows none of them.

Rules
-----
- How a file appears whole is a property of the protocol: object stores put atomically; folders reached over a network
  are written aside and renamed. Local folders have a module of their own (``local_files.py``), for fsspec promises
  nothing about them.
- What is not listed in :data:`WRITES` is taken for an object store that promises nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

__all__ = ["WRITES", "Parts", "Writes", "writes_of"]


class Parts(NamedTuple):
    """How a large file is to be cut on its way: bytes of a part, how many are under way, and how many there may be."""

    size: int
    at_once: int
    most: int

    def options(self, size: int) -> dict[str, int]:
        """Return what ``_put_file`` and ``_get_file`` are told about a file of `size` bytes."""
        return {"chunksize": max(self.size, -(-size // self.most)), "max_concurrency": self.at_once}


class Writes(NamedTuple):
    """How a protocol writes, and reads.

    Parameters
    ----------
    bytes_at_once, file_at_once : bool
        Whether bytes, and a local file, appear all at once.
    shared : bool
        Whether threads can share one connection.
    own_positions : bool
        Whether each open file has a position of its own.
    ranged : bool
        Whether the server sends the beginning of a file of unknown length, in one request.
    parts : Parts or None
        How large files are cut.
    acknowledged : bool
        Whether "written" is a promise that needs no second look.
    copies : bool
        Whether the server itself copies.
    put, get : mapping
        What else ``_put_file`` and ``_get_file`` are told, lest they hold a large file in memory.
    held : int
        How many bytes of a large file, copies counted, they hold all the same.
    """

    bytes_at_once: bool
    file_at_once: bool
    shared: bool
    own_positions: bool = True
    ranged: bool = False
    parts: Parts | None = None
    acknowledged: bool = False
    copies: bool = False
    put: Mapping[str, Any] = MappingProxyType({})
    get: Mapping[str, Any] = MappingProxyType({})
    held: int = 0


_OBJECT_STORE = Writes(bytes_at_once=True, file_at_once=True, shared=True)
_FOLDER = Writes(bytes_at_once=False, file_at_once=False, shared=False)
_S3 = _OBJECT_STORE._replace(ranged=True, parts=Parts(8 << 20, 2, 9_500), held=32 << 20, acknowledged=True, copies=True)
# gcsfs reads from several places at once, into many buffers, unless it is given headers.
_GS = _OBJECT_STORE._replace(ranged=True, put={"chunksize": 8 << 20}, get={"headers": {}}, held=32 << 20, copies=True)
# Azure's library puts up to 64 MiB in one piece, and gets the first 32 MiB so; beyond, adlfs would have 128 pieces.
_ABFS = _OBJECT_STORE._replace(
    ranged=True, put={"max_concurrency": 4}, get={"max_concurrency": 4}, held=192 << 20, copies=True
)

WRITES: Mapping[str, Writes] = {
    # In memory, bytes appear at once, but a file piece by piece; and all who open one share a position.
    "memory": Writes(bytes_at_once=True, file_at_once=False, shared=True, own_positions=False),
    "s3": _S3,
    "s3a": _S3,
    "gs": _GS,
    "abfs": _ABFS,
    **dict.fromkeys(("sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs", "arrow_hdfs", "webdav", "dav", "jlab"), _FOLDER),
}
"""What is not listed here puts like an object store."""


def writes_of(fs: AbstractFileSystem) -> Writes:
    """Return what is known of a filesystem."""
    first = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return WRITES.get(first, _OBJECT_STORE)
