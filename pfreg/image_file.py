"""An open file inside an image.

Rules
-----
- All of it has been verified before there is a handle, so reading is reading memory or a local file, at its speed.
- A handle crosses to another process as a path, a digest and a position. Whoever opens it there gets the same content,
  or an error if another image has been pushed in between.
"""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from pfreg.digest import Digest
from pfreg.errors import IntegrityError

__all__ = ["ImageFile"]


class ImageFile(io.BufferedIOBase):
    """A file opened for reading: seekable, picklable.

    Parameters
    ----------
    fs : AbstractFileSystem
        Where it was opened.
    path : str
        Its path inside the image.
    digest : Digest or None
        Its content.
    stream : binary file
        The verified content, which is closed with this file.

    Attributes
    ----------
    size : int
        Bytes.
    """

    mode = "rb"
    blocksize = 1 << 20

    def __init__(self, fs: AbstractFileSystem, path: str, digest: Digest | None, stream: BinaryIO) -> None:
        self.fs, self.path, self.digest = fs, path, digest
        self._stream: Any = stream
        self.size = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def __repr__(self) -> str:
        return f"<{'closed' if self.closed else 'open'} file {self.path!r} in {self.fs!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.fs, self.path, self.digest, self.tell())

    @property
    def full_name(self) -> str:
        """The path with its scheme."""
        return str(self.fs.unstrip_protocol(self.path))

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that positions can be chosen."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the local file with the content, where there is one."""
        return int(self._stream.fileno())

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, or all that are left."""
        return bytes(self._stream.read(size))

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, as many as are there at once."""
        return bytes(self._stream.read1(size))

    def readinto(self, buffer: Any, /) -> int:
        """Read into `buffer`; return how many bytes."""
        return int(self._stream.readinto(buffer))

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line, or up to `size` bytes of it."""
        return bytes(self._stream.readline(-1 if size is None else size))

    def __next__(self) -> bytes:
        return bytes(next(self._stream))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Choose a position; return it."""
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        """Return the position."""
        return int(self._stream.tell())

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._stream.close()
            super().close()


def _reopened(fs: AbstractFileSystem, path: str, digest: Digest | None, position: int) -> ImageFile:
    stream: ImageFile = fs.open(path, "rb")
    if stream.digest != digest:
        stream.close()
        raise IntegrityError(
            "another image has been pushed since this file was opened",
            operation="open",
            place=path,
            hint="open the file anew, or pin the image with expected_digest=",
        )
    stream.seek(position)
    return stream
