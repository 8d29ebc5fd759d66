"""Places that refuse, vanish, exist already, or hold what is no file."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import layout

from .trees import check_store, leftovers, published

pytestmark = pytest.mark.usefixtures("quick")

needs_fifos = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")


def forbid(monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
    """Let nothing be written below a folder, for root either, whom no mode stops."""
    real_open, real_mkdir = os.open, os.mkdir

    def denied(path: Any) -> bool:
        return str(path).startswith(str(below))

    def guarded_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and denied(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_open(path, flags, *args, **kwargs)

    def guarded_mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        if denied(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        real_mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded_open)
    monkeypatch.setattr(os, "mkdir", guarded_mkdir)


WRITING: dict[str, Callable[[Any, Path, Path, Path], Any]] = {
    "push": lambda new, store, root, target: pfreg.push(new, target / "place", store=store),
    "pull": lambda new, store, root, target: pfreg.pull(root, store=target / "place"),
    "copy": lambda new, store, root, target: pfreg.copy(root, target / "place"),
    "clone": lambda new, store, root, target: pfreg.clone(root, target / "place"),
    "checkout": lambda new, store, root, target: pfreg.checkout(new, target / "place", store=store),
    "snapshot": lambda new, store, root, target: pfreg.snapshot(root, store=target / "place"),
}


@pytest.mark.parametrize("verb", WRITING)
@pytest.mark.parametrize("how", ["patched", "chmod", "a file in the way"])
def test_a_target_that_cannot_be_written(
    tmp_path: Path, store: pfreg.Store, new: Any, monkeypatch: pytest.MonkeyPatch, verb: str, how: str
) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    pfreg.push(new, root, store=store)
    target.mkdir()
    expected: type[pfreg.PfregError] = pfreg.AccessDenied
    if how == "chmod":
        if os.name == "nt" or os.geteuid() == 0:
            pytest.skip("for root, and on Windows, a mode forbids nothing: see the patched variant")
        target.chmod(0o555)
    elif how == "patched":
        forbid(monkeypatch, target)
    else:
        target.rmdir()
        target.write_bytes(b"no folder")
        expected = pfreg.PfregError
    with pytest.raises(expected) as caught:
        WRITING[verb](new, Path(store.path), root, target)
    assert "target" in str(caught.value)
    if how == "a file in the way":
        assert target.read_bytes() == b"no folder"
    else:
        target.chmod(0o755)
        assert not list(target.iterdir())
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("what", ["a folder", "an empty folder", "a file", "a dangling link"])
@pytest.mark.parametrize("verb", ["clone", "checkout"])
def test_a_target_that_exists(tmp_path: Path, store: pfreg.Store, new: Any, verb: str, what: str) -> None:
    root, target = tmp_path / "root", tmp_path / "target" / "place"
    pfreg.push(new, root, store=store)
    target.parent.mkdir()
    if what == "a file":
        target.write_bytes(b"mine")
    elif what == "a dangling link":
        target.symlink_to("nowhere")
    else:
        target.mkdir()
        if what == "a folder":
            (target / "mine").touch()
    before = target.lstat()
    with pytest.raises(pfreg.TargetExists):
        WRITING[verb](new, Path(store.path), root, target.parent)
    assert target.lstat().st_ino == before.st_ino
    assert [path.name for path in target.parent.iterdir()] == ["place"]


def test_a_target_that_comes_to_exist_meanwhile(
    tmp_path: Path, store: pfreg.Store, new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step never replaces anything: not even an empty folder, which rename(2) would."""
    target = tmp_path / "out"
    real = pfreg.world_checkout._rename_exclusively

    def late(source: str, place: str) -> None:
        target.mkdir()
        real(source, place)

    monkeypatch.setattr(pfreg.world_checkout, "_rename_exclusively", late)
    with pytest.raises(pfreg.TargetExists):
        pfreg.checkout(new, target, store=store)
    assert not list(target.iterdir())
    assert not leftovers(tmp_path)


def vanish_after(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Remove `folder` when the `number`-th file has been created anywhere."""
    seen, real = iter(range(10_000)), os.open

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        handle = real(path, flags, *args, **kwargs)
        if flags & os.O_CREAT and next(seen) == number:
            shutil.rmtree(folder)
        return handle

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize("number", range(0, 24, 3))
@pytest.mark.parametrize("verb", ["push", "pull", "pull from", "clone from", "clone", "snapshot"])
def test_a_folder_removed_in_the_middle(
    tmp_path: Path, store: pfreg.Store, new: Any, monkeypatch: pytest.MonkeyPatch, verb: str, number: int
) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    pfreg.push(new, root, store=store)
    target.mkdir()
    with monkeypatch.context() as patch:
        vanish_after(patch, root if verb.endswith("from") else target, number)
        try:
            if verb == "snapshot":
                pfreg.snapshot(tmp_path / "new", store=target / "place", jobs=1)
            else:
                WRITING[verb.split()[0]](new, Path(store.path), root, target)
        except pfreg.PfregError as e:
            assert "\n" not in str(e)
    if not root.exists():
        pfreg.push(new, root, store=store)
    target.mkdir(exist_ok=True)
    if verb == "push":
        pfreg.push(new, target / "place", store=store)
        assert published(target / "place") == new.cid
    elif verb in ("pull", "pull from", "snapshot"):
        pfreg.pull(root, store=target / "place")
        check_store(pfreg.Store(target / "place"))


@needs_fifos
@pytest.mark.parametrize("what", ["a FIFO", "a folder", "a device"])
@pytest.mark.parametrize("which", ["manifest", "signature", "blob", "layer"])
def test_what_is_no_file_in_a_registry(tmp_path: Path, store: pfreg.Store, new: Any, which: str, what: str) -> None:
    """Nobody waits for the other end of a FIFO."""
    root = tmp_path / "root"
    pfreg.push(new, root, store=store)
    layers = new.manifest.layers
    path = {
        "manifest": root / layout.MANIFEST,
        "signature": root / layout.SIGNATURE,
        "blob": root / layout.blob_path(layers.trace_messages),
        "layer": root / layout.blob_path(layers.world_fs),
    }[which]
    path.unlink()
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    else:
        path.symlink_to(os.devnull)
    for call in (
        lambda: pfreg.verify(root),
        lambda: pfreg.pull(root, store=tmp_path / "here"),
        lambda: pfreg.copy(root, tmp_path / "copy"),
    ):
        with pytest.raises(pfreg.PfregError) as caught:
            call()
        assert "root" in str(caught.value)
    if which != "blob":
        with pytest.raises(pfreg.PfregError):
            pfreg.clone(root, tmp_path / "out")
    assert not pfreg.Store(tmp_path / "here").images()
    assert not leftovers(tmp_path)
    try:
        pfreg.push(new, root, store=store)
    except pfreg.PfregError:
        assert what == "a folder" or which in ("manifest", "signature")
    else:
        assert published(root) == new.cid


@needs_fifos
def test_what_is_no_file_in_a_store(tmp_path: Path, store: pfreg.Store, new: Any) -> None:
    path = Path(store.path_of(new.manifest.layers.trace_messages))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(pfreg.PfregError):
        pfreg.push(new, tmp_path / "root", store=store)
    assert published(tmp_path / "root") is None
    with pytest.raises(pfreg.PfregError):
        store.verify(new.cid)
