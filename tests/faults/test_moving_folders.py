"""Folders that change while a snapshot reads them, and things in them that an image cannot hold."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import world_snapshot
from pfreg.fstree import Tree

from .trees import LARGE, check_store, leftovers

pytestmark = [
    pytest.mark.usefixtures("quick"),
    pytest.mark.skipif(os.name == "nt", reason="about POSIX' files"),
]

SIZES = {"small": 100, "large": LARGE * 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file in it."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "other").write_text("steady")
    return path


def names(image: pfreg.Snapshotted, store: pfreg.Store) -> list[str]:
    return [entry.path for entry in Tree.from_bytes(store.read(image.manifest.layers.world_fs)).entries]


def content(image: pfreg.Snapshotted, store: pfreg.Store, name: str) -> bytes:
    tree = Tree.from_bytes(store.read(image.manifest.layers.world_fs))
    (blob,) = (entry.blob for entry in tree.entries if entry.path == name)
    assert blob is not None
    return store.read(blob)


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Do `act`, which is told how often it was done, between the opening of a file ``moving`` and its first read."""
    real, looks, turns = os.fstat, itertools.count(), itertools.count()

    def fstat(handle: int) -> os.stat_result:
        status = real(handle)
        # Three looks at each reading: whether it is a file, what it is before, and what it is after.
        if os.readlink(f"/proc/self/fd/{handle}").endswith("moving") and next(looks) % 3 == 1:
            act(next(turns))
        return status

    monkeypatch.setattr(os, "fstat", fstat)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to tell files by handle")


@needs_proc
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["grows", "shrinks", "same size"])
def test_a_file_that_keeps_changing(
    folder: Path, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch, how: str, size: str
) -> None:
    moving = folder / "moving"
    moving.write_bytes(b"0" * SIZES[size])

    def act(turn: int) -> None:
        length = {"grows": SIZES[size] + turn + 1, "shrinks": SIZES[size] - turn - 1, "same size": SIZES[size]}[how]
        moving.write_bytes(bytes([65 + turn]) * length)

    meanwhile(monkeypatch, act)
    with pytest.raises(pfreg.FileChanged) as caught:
        pfreg.snapshot(folder, store=store, jobs=1)
    assert "moving" in str(caught.value)
    assert not store.images()
    assert not leftovers(store.path)


@needs_proc
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_changes_once_is_read_again(
    folder: Path, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    moving = folder / "moving"
    moving.write_bytes(b"0" * SIZES[size])
    meanwhile(monkeypatch, lambda turn: None if turn else moving.write_bytes(b"1" * SIZES[size]))  # type: ignore[arg-type, func-returns-value]
    image = pfreg.snapshot(folder, store=store, jobs=1)
    assert content(image, store, "moving") == b"1" * SIZES[size]
    check_store(store)


def before_reading(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Do `act` when the folder has been listed, and nothing read yet."""
    real = world_snapshot._Reader.run

    def run(self: Any, **kwargs: Any) -> Any:
        act()
        return real(self, **kwargs)

    monkeypatch.setattr(world_snapshot._Reader, "run", run)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_vanishes_is_left_out(
    folder: Path, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    (folder / "moving").write_bytes(b"0" * SIZES[size])
    before_reading(monkeypatch, (folder / "moving").unlink)
    image = pfreg.snapshot(folder, store=store)
    assert names(image, store) == ["other"]
    check_store(store)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("what", ["link", "FIFO", "socket", "folder"])
def test_a_file_that_becomes_something_else(
    folder: Path, tmp_path: Path, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch, what: str, size: str
) -> None:
    """A link above all: what it points to is not in the folder, and must not come into the image."""
    moving, secret = folder / "moving", tmp_path / "secret"
    moving.write_bytes(b"0" * SIZES[size])
    secret.write_bytes(b"s" * SIZES[size])

    def change() -> None:
        moving.unlink()
        if what == "link":
            moving.symlink_to(secret)
        elif what == "FIFO":
            os.mkfifo(moving)
        elif what == "folder":
            moving.mkdir()
        else:
            bind(moving)

    before_reading(monkeypatch, change)
    with pytest.raises(pfreg.FileChanged) as caught:
        pfreg.snapshot(folder, store=store)
    assert "moving" in str(caught.value)
    assert not store.images()
    assert pfreg.Digest.of(secret.read_bytes()) not in store.listing()


def bind(path: Path) -> None:
    """Make a socket, whose path may be longer than an address can be."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def test_what_an_image_cannot_hold_is_left_out_with_a_warning(folder: Path, store: pfreg.Store) -> None:
    os.mkfifo(folder / "pipe")
    bind(folder / "socket")
    with pytest.warns(pfreg.SkippedFile) as caught:
        image = pfreg.snapshot(folder, store=store)
    assert sorted(image.skipped) == ["pipe", "socket"]
    assert len(caught) == 2
    assert names(image, store) == ["other"]


def test_an_unreadable_file_is_an_error(folder: Path, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown by a patch, for root reads everything."""
    (folder / "private").write_text("no")
    real = os.open

    def denied(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(pfreg.UnreadableFile) as caught:
        pfreg.snapshot(folder, store=store)
    assert "private" in str(caught.value)
    assert not store.images()
    assert pfreg.snapshot(folder, store=store, exclude=["private"]).files == 1


def test_an_unreadable_file_by_its_mode(folder: Path, store: pfreg.Store) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything: see the patched variant")
    (folder / "private").write_text("no")
    (folder / "private").chmod(0)
    with pytest.raises(pfreg.UnreadableFile):
        pfreg.snapshot(folder, store=store)


def test_an_unreadable_folder_is_an_error(folder: Path, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "closed").mkdir()
    real = os.scandir

    def denied(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(pfreg.UnreadableFile):
        pfreg.snapshot(folder, store=store)


@pytest.mark.parametrize("what", ["a file", "a folder", "a link's target"])
def test_a_name_that_is_not_utf8(folder: Path, store: pfreg.Store, what: str) -> None:
    bad = os.fsencode(folder) + b"/bad\xff"
    try:
        if what == "a file":
            os.close(os.open(bad, os.O_CREAT | os.O_WRONLY))
        elif what == "a folder":
            os.mkdir(bad)
            os.close(os.open(bad + b"/inside", os.O_CREAT | os.O_WRONLY))
        else:
            os.symlink(b"bad\xff", os.fsencode(folder) + b"/link")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(pfreg.BadName) as caught:
        pfreg.snapshot(folder, store=store)
    assert r"bad\xff" in str(caught.value)
    str(caught.value).encode("utf-8")
    assert not store.images()
    image = pfreg.snapshot(folder, store=store, bad_names="skip")
    assert names(image, store) == ["other"]
    assert len(image.skipped) == 1


@pytest.mark.parametrize("where", ["store", "deep/er/store"])
def test_a_store_inside_the_folder(folder: Path, where: str) -> None:
    inside = pfreg.Store(folder / where)
    with pytest.raises(pfreg.BadOption) as caught:
        pfreg.snapshot(folder, store=inside)
    assert "exclude" in str(caught.value)
    assert not inside.images()
    image = pfreg.snapshot(folder, store=inside, exclude=["/store", "/deep"])
    assert names(image, inside) == ["other"]


def test_the_folder_is_the_store(tmp_path: Path) -> None:
    inside = pfreg.Store(tmp_path / "store")
    with pytest.raises(pfreg.BadOption):
        pfreg.snapshot(tmp_path / "store", store=inside)
