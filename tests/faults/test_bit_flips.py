"""Every bit of a small image is flipped once: that is noticed, or changes nothing.

A frame's header has bits that no content depends on; there, and only there, a flip may pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.digest import Digest
from tests.conftest import listing

from .flaky import World

pytestmark = pytest.mark.usefixtures("quick")

URL = "flaky://root"


@pytest.fixture
def small(tmp_path: Path, world: World) -> Path:
    """A folder with little in it, and its image at URL."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "a.txt").write_text("some text, some text, some text\n")
    (folder / "link").symlink_to("a.txt")
    store = pfreg.Store(tmp_path / "store")
    pfreg.push(pfreg.snapshot(folder, store=store), URL, store=store)
    return folder


def flipped(world: World, path: str, *, every: int = 1) -> Iterator[int]:
    """Flip one bit of a file after another, and put it back."""
    whole = world.files[path]
    for bit in range(0, 8 * len(whole), every):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        world.files[path] = bytes(raw)
        yield bit
    world.files[path] = whole


def passes(call: Any) -> bool:
    try:
        call()
    except (pfreg.IntegrityError, pfreg.SignatureError):
        return False
    return True


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig"])
def test_no_bit_of_manifest_and_signature_can_flip(world: World, small: Path, name: str) -> None:
    for bit in flipped(world, f"root/{name}"):
        assert not passes(lambda: pfreg.verify(URL, jobs=1)), f"bit {bit} of {name}"
    assert pfreg.verify(URL).blobs


def test_no_bit_of_a_blob_can_change_content(world: World, small: Path, tmp_path: Path) -> None:
    for path in [path for path in world.files if path.endswith(".zst")]:
        idle = []
        for bit in flipped(world, path):
            if passes(lambda: pfreg.verify(URL, jobs=1)):
                idle.append(bit)
                out = tmp_path / f"{path[-20:]}{bit}"
                pfreg.clone(URL, out, jobs=1)
                assert listing(out) == listing(small)
        assert len(idle) < 32, f"bits {idle} of {path}"  # most of them say how large a window may be


def test_pull_and_clone_notice_as_well(world: World, small: Path, tmp_path: Path) -> None:
    for name in sorted(world.files):
        for bit in flipped(world, name, every=61):
            local, out = pfreg.Store(tmp_path / "local" / f"{name[-20:]}{bit}"), tmp_path / "out" / f"{name[-20:]}{bit}"
            if passes(lambda: pfreg.pull(URL, store=local, jobs=1)):  # noqa: B023
                assert [local.verify(manifest.cid) for manifest in local.images()]
            else:
                assert not local.images()
                assert all(Digest.of(local.read(digest)) == digest for digest in local.listing())
            if passes(lambda: pfreg.clone(URL, out, jobs=1)):  # noqa: B023
                assert listing(out) == listing(small)
            else:
                assert not out.exists()
