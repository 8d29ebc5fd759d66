"""Local files on either side of a transfer.

Rules
-----
- A file that is fetched gets its name when it is whole; until then it has another, and after a failure none.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

__all__ = ["appearing_whole", "opened"]


def opened(path: str) -> BinaryIO:
    """Open a file to send it."""
    return open(path, "rb")


@contextmanager
def appearing_whole(path: str) -> Iterator[BinaryIO]:
    """Give a file to write that gets the name `path` at the end, and vanishes if there is an error."""
    temporary = f"{path}.{secrets.token_hex(6)}.part"
    try:
        with open(temporary, "xb") as out:
            yield out
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
