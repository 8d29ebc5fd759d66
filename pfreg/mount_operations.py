"""What the operating system asks of a mounted image, answered by ``pfimg://``.

Rules
-----
- fsspec's own operations list and read. What is added here is what they lack for an image: links, modes, one time for
  everything, whose the mount is, and an error number for every error.
- A link that stays inside the image is a link, and the system follows it there. Of one that leads out, or nowhere, the
  target is not told, for the system would go and look: it is listed, and whoever follows it finds nothing.
- Damaged content is EIO, never a byte of it; a warning says what is wrong.

Importing this module needs fusepy and libfuse.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Callable
from typing import Any

from fsspec.fuse import FUSEr
from fuse import FuseOSError

from pfreg.errors import AccessDenied, IsFolder, PathNotFound, PfregError, ReadOnlyImage
from pfreg.imagefs import PfimgFileSystem

__all__ = ["ImageOperations"]

_NUMBERS: dict[type[Exception], int] = {
    PathNotFound: errno.ENOENT,
    IsFolder: errno.EISDIR,
    ReadOnlyImage: errno.EROFS,
    AccessDenied: errno.EACCES,
}
_QUIET = (errno.ENOENT, errno.EISDIR, errno.EROFS)  # the user's own doing, and nothing that is wrong with the image


class ImageOperations(FUSEr):  # type: ignore[misc]
    """The operations of an image's whole tree.

    Parameters
    ----------
    fs : PfimgFileSystem
        The inside of the image.
    ready : callable
        Called once, when the system has taken the mount.
    """

    use_ns = True

    def __init__(self, fs: PfimgFileSystem, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(fs, "")
        self._ready = ready
        self._time = int(fs.created("").timestamp()) * 10**9

    def __call__(self, op: str, *args: Any) -> Any:
        """Run an operation; whatever it raises gets a number."""
        try:
            return super().__call__(op, *args)
        except FuseOSError:
            raise
        except (PfregError, OSError) as e:
            number = _number(e)
            if number not in _QUIET:
                warnings.warn(str(e), stacklevel=1)
            raise FuseOSError(number) from e

    def init(self, path: str) -> None:
        """Tell that the mount is there."""
        self._ready()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Return what stat(2) says."""
        entry = self.fs.info(path)
        size = 0
        if entry.get("islink"):
            kind, size = stat.S_IFLNK | 0o777, len(os.fsencode(entry["destination"]))
        elif entry["type"] == "directory":
            kind = stat.S_IFDIR | entry.get("mode", 0o555)
        else:
            kind, size = stat.S_IFREG | entry.get("mode", 0o444), entry["size"]
        return {
            "st_mode": kind,
            "st_size": size,
            "st_blocks": -(-size // 512),
            "st_nlink": 1,
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
            "st_atime": self._time,
            "st_ctime": self._time,
            "st_mtime": self._time,
        }

    def readlink(self, path: str) -> str:
        """Return where a link points, if that is inside the image."""
        entry = self.fs.info(path)
        if entry["type"] == "link":
            raise PathNotFound("a link that leads nowhere inside the image", operation="follow", place=path)
        return str(entry["destination"])


def _number(error: Exception) -> int:
    own = error.errno if isinstance(error, OSError) else None
    return _NUMBERS.get(type(error), own or errno.EIO)
