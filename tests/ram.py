"""Fresh folders in memory, where the system has any.

Thousands of small images are written by tests of formats, and the original's SDK syncs every blob of them; on a disk,
most of the time would go into waiting for it. What these tests show does not depend on the disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_ENOUGH = 48 << 20


def _place() -> Path | None:
    if os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free > _ENOUGH:
        return _SHARED_MEMORY
    return None


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """Give an empty folder, which is gone afterwards, read-only parts and all."""
    folder = Path(tempfile.mkdtemp(prefix="pfreg-test-", dir=_place()))
    try:
        yield folder
    finally:
        for inner, _, _ in os.walk(folder):
            os.chmod(inner, 0o700)
        shutil.rmtree(folder)
