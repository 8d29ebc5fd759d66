"""Property tests without deadlines, for machines are shared; and folders in memory, for there are many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.ram import fresh_folder

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with fresh_folder() as folder:
        yield folder
