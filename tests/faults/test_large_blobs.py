"""A large blob between two local places is verified on its way, whether its bytes are copied or shared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import local_files

SIZE = 3 << 20


@pytest.fixture
def store(tmp_path: Path) -> pfreg.Store:
    return pfreg.Store(tmp_path / "store")


@pytest.fixture
def image(tmp_path: Path, store: pfreg.Store) -> pfreg.Snapshotted:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "large").write_bytes(os.urandom(SIZE))
    return pfreg.snapshot(tmp_path / "work", store=store)


def large_blob(place: Path) -> Path:
    return max(place.glob("blobs/sha256/*/*.zst"), key=lambda path: path.stat().st_size)


def share(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every file system have reflinks; return the list that grows by one for each."""
    shared: list[int] = []

    def ioctl(target: int, _request: int, source: int) -> Any:
        shared.append(os.write(target, os.pread(source, 2 * SIZE, 0)))

    monkeypatch.setattr(local_files.fcntl, "ioctl", ioctl)
    return shared


@pytest.mark.parametrize("reflinks", [False, True])
def test_stored_bytes_arrive_as_they_are(
    reflinks: bool, image: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reflinks and not hasattr(local_files, "fcntl"):
        pytest.skip("no fcntl on this system, and so no reflinks")
    shared = share(monkeypatch) if reflinks else []
    pfreg.push(image, tmp_path / "root", store=store)
    assert large_blob(tmp_path / "root").read_bytes() == large_blob(Path(store.path)).read_bytes()
    assert len(shared) == (1 if reflinks else 0)


@pytest.mark.parametrize("reflinks", [False, True])
@pytest.mark.parametrize("damage", ["flip", "cut", "add"])
def test_damage_is_found_and_nothing_is_left(
    reflinks: bool,
    damage: str,
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reflinks and not hasattr(local_files, "fcntl"):
        pytest.skip("no fcntl on this system, and so no reflinks")
    if reflinks:
        share(monkeypatch)
    blob = large_blob(Path(store.path))
    data = bytearray(blob.read_bytes())
    data[SIZE // 2] ^= damage == "flip"
    blob.write_bytes(data[: -1 if damage == "cut" else None] + (b"garbage" if damage == "add" else b""))
    with pytest.raises(pfreg.IntegrityError, match="sha256:"):
        pfreg.push(image, tmp_path / "root", store=store)
    left = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert blob.name not in {path.name for path in left}
    assert not [path for path in left if path.name.endswith(".part") or path.name.startswith("manifest")]
