"""Reading files of the Hugging Face Hub: one request a file, resumed where it broke off.

Rules
-----
- A download streams: memory does not grow with the file. The redirect to the Hub's storage is followed without the
  token.
- After a lost connection only what is missing is asked for; a server that ignores the range is read past it.
- An answer shorter than it said it would be is an error of the HTTP library, never a short file.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from fsspec.callbacks import Callback
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from pfreg.filesystems.hf_calls import Patience, call

__all__ = ["HubFile", "Span", "download"]

CHUNK = 1 << 20
"""Bytes handled at a time."""

_BEYOND_THE_END = 416
_PARTIAL = 206


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file.

    Parameters
    ----------
    start : int
        Offset of its first byte.
    end : int or None
        Offset after its last byte; None for the end of the file.
    """

    start: int = 0
    end: int | None = None


def download(
    url: str,
    out: BinaryIO,
    *,
    token: str | bool | None,
    span: Span,
    callback: Callback,
    place: str,
    patience: Patience,
) -> None:
    """Stream a file, or a part of it, into `out`; go on where a lost connection broke off.

    Parameters
    ----------
    url : str
        Where the Hub has it.
    out : file
        Gets the bytes.
    token : str or bool or None
        As the filesystem was given it.
    span : Span
        What is wanted of the file.
    callback : Callback
        Is told about every piece.
    place : str
        What an error calls it.
    patience : Patience
        When to stop repeating.

    Raises
    ------
    FileNotFoundError
        If it is absent.
    AccessDenied, TransferError
        If the Hub refuses or fails.
    """
    arrived = _Arrived(span.start)
    headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
    call(
        lambda: _receive(url, headers, out, arrived, span.end, callback),
        operation="read",
        place=place,
        patience=patience,
    )


@dataclass(slots=True)
class _Arrived:
    """The offset in the file of the next byte that is needed."""

    position: int


def _receive(
    url: str, headers: dict[str, str], out: BinaryIO, arrived: _Arrived, end: int | None, callback: Callback
) -> None:
    """Write what is missing up to `end` into `out`; `arrived` moves on with every byte written."""
    wanted = dict(headers)
    if arrived.position or end is not None:
        wanted["Range"] = f"bytes={arrived.position}-{'' if end is None else end - 1}"
    with get_session().stream("GET", url, headers=wanted, follow_redirects=True) as response:
        if response.status_code == _BEYOND_THE_END:
            return
        hf_raise_for_status(response)
        at = arrived.position if response.status_code == _PARTIAL else 0
        for chunk in response.iter_bytes(CHUNK):
            piece = chunk[max(arrived.position - at, 0) : None if end is None else max(end - at, 0)]
            out.write(piece)
            arrived.position += len(piece)
            callback.relative_update(len(piece))
            at += len(chunk)
            if end is not None and at >= end:
                return


class Readable(Protocol):
    """What an opened file asks of its filesystem."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a part of a file."""
        ...

    def info(self, path: str) -> dict[str, Any]:
        """Describe a file."""
        ...


class HubFile(io.BufferedReader):
    """A file opened for reading: random access by ranges of its pinned commit, and no look-up before the first byte.

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
