"""Collecting garbage: never what an image reaches, nothing young, and never in the way of a snapshot."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import local_files
from pfreg.digest import Digest
from pfreg.files import Found

from .trees import check_store, make_tree, reach, stored_blobs

ROUNDS = 12
DAY = 86400.0


def age(store: pfreg.Store, seconds: float, *digests: Digest) -> None:
    """Make blobs, all by default, older."""
    for path in map(store.path_of, digests or list(store.listing())):
        os.utime(path, (time.time() - seconds,) * 2)


def make_old(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass: a file's ctime, which counts too, cannot be set."""
    now = time.time
    monkeypatch.setattr("pfreg.store.time.time", lambda: now() + seconds)


def test_what_an_image_reaches_stays(
    store: pfreg.Store, old: Any, new: Any, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    both = reach(store, old) | reach(store, new) | {old.cid, new.cid}
    junk = store.put(b"nobody reaches this")
    make_old(monkeypatch, 2 * DAY)
    assert set(store.gc(dry_run=True).removed) == {str(junk)}
    assert set(stored_blobs(store.path)) == both | {junk}
    assert set(store.gc().removed) == {str(junk)}
    assert set(stored_blobs(store.path)) == both
    store.remove(old.cid)
    store.gc()
    assert set(stored_blobs(store.path)) == reach(store, new) | {new.cid}
    check_store(store)


def test_grace_is_respected(store: pfreg.Store, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    junk = store.put(b"nobody reaches this")
    assert not store.gc().removed
    make_old(monkeypatch, DAY - 60)
    assert not store.gc().removed
    make_old(monkeypatch, 120)
    assert store.gc().removed == (str(junk),)


def test_a_put_makes_its_blob_young_again(store: pfreg.Store, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    junk = store.put(b"reached by nobody yet")
    age(store, 2 * DAY)
    before = os.stat(store.path_of(junk)).st_mtime
    store.put(b"reached by nobody yet")
    assert os.stat(store.path_of(junk)).st_mtime > before + DAY


@pytest.mark.parametrize("damage", ["missing", "malformed"])
def test_nothing_is_removed_when_a_layer_cannot_be_read(
    store: pfreg.Store, old: Any, damage: str, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    store.put(b"nobody reaches this")
    layer = Path(store.path_of(old.manifest.layers.world_fs))
    whole = layer.read_bytes()
    layer.unlink()
    if damage == "malformed":
        layer.write_bytes(whole[:-3])
    make_old(monkeypatch, 2 * DAY)
    before = set(stored_blobs(store.path))
    with pytest.raises(pfreg.PfregError) as caught:
        store.gc()
    assert str(old.cid) in str(caught.value)
    assert set(stored_blobs(store.path)) == before


def collect(place: str, start: Any, removed: Any) -> None:
    """Collect, round after round, what nobody has touched for five seconds."""
    local_files._found = lambda status: Found(status.st_size, status.st_mtime)  # a ctime cannot be made old
    store = pfreg.Store(place)
    for _ in range(ROUNDS):
        start.wait(60)
        for _ in range(8):
            removed.value += len(store.gc(grace=5.0).removed)


def test_snapshots_that_race_with_collections(tmp_path: Path, quick: None) -> None:
    """Each round's files are in the store already, old and reached by nobody: ripe for collection, and used again."""
    context = multiprocessing.get_context("spawn")
    store = pfreg.Store(tmp_path / "store")
    start, removed = context.Barrier(2), context.Value("i", 0)
    collector = context.Process(target=collect, args=(str(tmp_path / "store"), start, removed))
    collector.start()
    try:
        for number in range(ROUNDS):
            tree = make_tree(tmp_path / f"tree{number}", seed=number, files=12)
            for path in tree.rglob("*"):
                if path.is_file():
                    store.put(path)
            reached = {digest for manifest in store.images() for digest in reach(store, manifest)}
            age(store, 60, *(set(store.listing()) - reached))
            start.wait(60)
            image = pfreg.snapshot(tree, store=store)
            store.verify(image.cid)
        check_store(store)
    finally:
        collector.join(60)
        alive = collector.is_alive()
        if alive:
            collector.kill()
    assert not alive
    assert collector.exitcode == 0
    assert removed.value > 0, "nothing was collected, so nothing was raced with"
