"""An image as a folder of the operating system: fsspec's FUSE, mounted until somebody says stop.

Rules
-----
- The image is opened, and its signature judged, before anything is mounted.
- The mount is read-only, for the one who mounts it alone; set-uid bits and devices mean nothing in it.
- It is served by the thread that calls, which neither forks nor starts others: a fork would leave the connections of
  the image's filesystem behind. So it takes a process of its own, which must not read what it mounts.
- SIGINT, SIGTERM, SIGHUP and ``fusermount -u`` end it, unmounted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pfreg.errors import AccessDenied, FolderNotFound, MissingDependency, TargetExists
from pfreg.files import translated
from pfreg.imagefs import PfimgFileSystem

__all__ = ["mount"]

_DEVICE = "/dev/fuse"
_FOREVER = 86_400  # seconds that the system may believe what it has seen: an image does not change


def mount(fs: PfimgFileSystem, folder: str | os.PathLike[str], *, ready: Callable[[], None] = lambda: None) -> None:
    """Show an image in a folder; return when it has been unmounted.

    Parameters
    ----------
    fs : PfimgFileSystem
        The inside of the image.
    folder : str or path-like
        An empty folder.
    ready : callable
        Called once, when the mount is there.

    Raises
    ------
    FolderNotFound, TargetExists
        If the folder is not there, or not empty.
    MissingDependency
        If fusepy, libfuse or the system's FUSE is missing.
    AccessDenied
        If the system does not let this user mount.
    ImageNotFound, SignatureError, IntegrityError
        If there is no image, or it is not to be trusted.
    """
    place = os.path.abspath(os.path.expanduser(folder))
    _check(place)
    serve, operations = _fuse()
    name = f"pfimg-{fs.image.manifest.cid.hex[:12]}"
    try:
        serve(
            operations(fs, ready),
            place,
            foreground=True,
            nothreads=True,
            ro=True,
            fsname=name,
            kernel_cache=True,
            attr_timeout=_FOREVER,
            entry_timeout=_FOREVER,
        )
    except RuntimeError as e:  # libfuse has said more on standard error
        raise AccessDenied("the system refused the mount", operation="mount", place=place) from e


def _check(place: str) -> None:
    if not os.path.isdir(place):
        raise FolderNotFound("no such folder", operation="mount", place=place, hint="make it first")
    with translated("mount", place):
        if os.listdir(place):
            raise TargetExists("the folder is not empty", operation="mount", place=place)


def _fuse() -> tuple[Any, Any]:
    """Return what mounts, and the operations of an image."""
    try:
        import fuse

        from pfreg.mount_operations import ImageOperations
    except ImportError as e:
        hint = "pip install 'pfreg[mount]'"
        raise MissingDependency("needs the package fusepy", operation="mount", hint=hint) from e
    except OSError as e:
        raise MissingDependency("fusepy finds no libfuse 2", operation="mount", hint="apt-get install fuse") from e
    if sys.platform == "linux" and not os.access(_DEVICE, os.R_OK | os.W_OK):
        hint = "modprobe fuse; a container needs --device /dev/fuse --cap-add SYS_ADMIN"
        raise MissingDependency("is not there, or not yours to open", operation="mount", place=_DEVICE, hint=hint)
    return fuse.FUSE, ImageOperations
