"""``UPath("pfimg://world/fs::s3://bucket/agents/a")``: what universal_pathlib loads for ``pfimg``, by its entry point.

Rules
-----
- Loading this makes the filesystem known first: how universal_pathlib takes a path apart is the filesystem's to say.

Importing this module needs universal_pathlib.
"""

from __future__ import annotations

from fsspec import get_filesystem_class
from upath import UPath

__all__ = ["ImagePath"]

get_filesystem_class("pfimg")


class ImagePath(UPath):
    """A path inside an image."""

    __slots__ = ()
