"""Every blob of an image in turn is missing, truncated, empty, another's, too large or a bomb, at either end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import codec, layout
from pfreg.digest import Digest
from tests.conftest import listing

from .flaky import World
from .trees import published, reach, stored_blobs

pytestmark = pytest.mark.usefixtures("quick")

BOMB = codec.compress(bytes(32 << 20))
OTHER = codec.compress(b"a valid frame of something else")
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda whole: None,
    "empty": lambda whole: b"",
    "first half": lambda whole: whole[: len(whole) // 2],
    "a byte short": lambda whole: whole[:-1],
    "a header": lambda whole: whole[:6],
    "another blob": lambda whole: OTHER,
    "no frame": lambda whole: b"\xff" * len(whole),
    "trailing garbage": lambda whole: whole + b"xyz",
    "a frame too many": lambda whole: whole + OTHER,
    "oversized": lambda whole: whole + codec.compress(os.urandom(70_000)),
    "a bomb": lambda whole: BOMB,
}
in_all_ways = pytest.mark.parametrize("damage", DAMAGES)


def blames(digest: Digest, call: Callable[[], Any]) -> pfreg.PfregError:
    """`call` fails, with an error that says which blob is the bad one."""
    with pytest.raises((pfreg.IntegrityError, pfreg.BlobNotFound)) as caught:
        call()
    assert digest.hex in str(caught.value)
    return caught.value


@in_all_ways
@pytest.mark.parametrize("where", ["folder", "remote"])
def test_in_a_registry(
    tmp_path: Path, world: World, scratch: Path, store: pfreg.Store, new: Any, where: str, damage: str
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    url = str(root) if where == "folder" else "flaky://root"
    pfreg.push(new, url, store=store, jobs=1)
    in_tree = {Digest.of(path.read_bytes()) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    for digest in reach(store, new):
        path = layout.blob_path(digest)
        whole = (root / path).read_bytes() if where == "folder" else world.files[f"root/{path}"]
        set_blob(url, world, path, DAMAGES[damage](whole))
        blames(digest, lambda: pfreg.verify(url, jobs=1))
        here = pfreg.Store(tmp_path / "here" / digest.short)
        blames(digest, lambda: pfreg.pull(url, store=here, jobs=1))  # noqa: B023
        assert not here.images()
        assert here.verify() == len(here.listing())  # what came is whole
        if digest in in_tree or digest == new.manifest.layers.world_fs:
            blames(digest, lambda: pfreg.clone(url, out, jobs=1))
            assert not out.exists()
        place = tmp_path / "copy" / digest.short
        blames(digest, lambda: pfreg.copy(url, place, jobs=1))  # noqa: B023
        assert published(place) is None
        set_blob(url, world, path, whole)
        assert pfreg.pull(url, store=here, jobs=1).cid == new.cid
        here.verify(new.cid)
    assert pfreg.clone(url, out, jobs=1).cid == new.cid
    assert listing(out) == listing(tmp_path / "new")
    assert not list(scratch.iterdir())


def set_blob(url: str, world: World, path: str, data: bytes | None) -> None:
    if url.startswith("flaky"):
        world.files.pop(f"root/{path}", None)
        if data is not None:
            world.files[f"root/{path}"] = data
    else:
        place = Path(url) / path
        place.unlink(missing_ok=True)
        if data is not None:
            place.write_bytes(data)


@in_all_ways
def test_in_the_store(tmp_path: Path, store: pfreg.Store, old: Any, new: Any, damage: str) -> None:
    root = tmp_path / "root"
    pfreg.push(old, root, store=store, jobs=1)
    before = listing(root)
    fresh = reach(store, new) - set(stored_blobs(root))
    for digest in fresh:
        path = Path(store.path_of(digest))
        whole = path.read_bytes()
        set_blob(str(store.path), World(), layout.blob_path(digest), DAMAGES[damage](whole))
        blames(digest, lambda: pfreg.push(new, root, store=store, jobs=1))
        assert published(root) == old.cid
        path.write_bytes(whole)
        shutil.rmtree(root)
        pfreg.push(old, root, store=store, jobs=1)
    assert len(fresh) > 3
    assert listing(root) == before


@pytest.mark.parametrize("where", ["folder", "remote"])
@pytest.mark.parametrize("damage", ["missing", "empty", "first half", "a byte short", "trailing garbage", "a bomb"])
def test_at_the_target_it_is_replaced(
    tmp_path: Path, world: World, store: pfreg.Store, new: Any, where: str, damage: str
) -> None:
    url = str(tmp_path / "root") if where == "folder" else "flaky://root"
    pfreg.push(new, url, store=store, jobs=1)
    for digest in reach(store, new):
        path = layout.blob_path(digest)
        set_blob(url, world, path, DAMAGES[damage](Path(store.path_of(digest)).read_bytes()))
        assert pfreg.push(new, url, store=store, jobs=1).sent == 1
        assert published(url) == new.cid


@pytest.mark.parametrize("damage", ["missing", "empty", "first half", "a byte short", "trailing garbage"])
def test_a_store_is_healed_by_snapshot_and_by_pull(tmp_path: Path, store: pfreg.Store, new: Any, damage: str) -> None:
    root = tmp_path / "root"
    pfreg.push(new, root, store=store, jobs=1)
    files = {Digest.of(path.read_bytes()) for path in (tmp_path / "new").rglob("*.txt") if not path.is_symlink()}
    for digest in files:
        set_blob(str(store.path), World(), layout.blob_path(digest), DAMAGES[damage](OTHER))
    again = pfreg.snapshot(tmp_path / "new", store=store, jobs=1)
    assert again.new_blobs >= len(files)
    store.verify(again.cid)
    for digest in reach(store, new):
        set_blob(str(store.path), World(), layout.blob_path(digest), DAMAGES[damage](OTHER))
    assert pfreg.pull(root, store=store, jobs=1).received == len(reach(store, new))
    store.verify(new.cid)
