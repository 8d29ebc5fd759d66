"""An opened file whose bytes are asked for when they are read.

Rules
-----
- Reading is ``cat_file`` of a filesystem, a range at a time; that it stays the same file is the filesystem's affair.
"""

from __future__ import annotations

import io
from typing import Any, Protocol

__all__ = ["RangeFile"]


class Readable(Protocol):
    """What an opened file asks of its filesystem."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a part of a file."""
        ...

    def info(self, path: str) -> dict[str, Any]:
        """Describe a file."""
        ...


class RangeFile(io.BufferedReader):
    """A file opened for reading: random access by ranges, and no look-up before the first byte.

    Parameters
    ----------
    fs : Readable
        The filesystem.
    path : str
        The path of the file.
    block_size : int
        Bytes read ahead.
    """

    def __init__(self, fs: Readable, path: str, block_size: int) -> None:
        self._ranges = _Ranges(fs, path)
        super().__init__(self._ranges, max(block_size, 1))
        self.path = path

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self._ranges.size


class _Ranges(io.RawIOBase):
    """The same without a buffer: every read is one request."""

    def __init__(self, fs: Readable, path: str) -> None:
        self._fs, self._path = fs, path
        self._at = 0
        self._size: int | None = None

    @property
    def size(self) -> int:
        if self._size is None:
            self._size = int(self._fs.info(self._path)["size"])
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}
        begin = self.size if whence == io.SEEK_END else origin[whence]
        self._at = max(offset + begin, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readall(self) -> bytes:
        data = self._fs.cat_file(self._path, self._at)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        if self._size is not None and self._at >= self._size:
            return 0
        data = self._fs.cat_file(self._path, self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        if len(data) < len(buffer) and data:
            self._size = self._at
        return len(data)
