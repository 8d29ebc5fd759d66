"""A disk that is full: every call that writes fails in turn, with one clear error and nothing left over."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import local_files
from tests.conftest import listing

from .flaky import World
from .trees import check_store, leftovers, published

pytestmark = pytest.mark.usefixtures("quick")

PROJECT = Path(__file__).parents[2]
CALLS = ("write", "open", "mkdir", "replace", "link", "symlink", "fsync", "copy_file_range")


class Disk:
    """Counts the calls that need space, and fails one of them, and all after it until there is space again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail_from: int | None = None
        self.calls = 0
        for name in CALLS:
            if hasattr(os, name):
                monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return call(*args, **kwargs)
            self.calls += 1
            if self.fail_from is not None and self.calls > self.fail_from:
                if name == "write":  # a full disk takes what still fits
                    call(args[0], bytes(args[1])[:1])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **kwargs)

        return wrapped

    @contextlib.contextmanager
    def spacious(self) -> Iterator[None]:
        """There is space inside this block, and what happens in it does not count."""
        fail, self.fail_from = self.fail_from, None
        yield
        self.calls, self.fail_from = 0, fail

    def filled(self, act: Callable[[], Any]) -> Iterator[None]:
        """Do `act` on a disk that is full from its N-th call on, for every N; yield after each failure."""
        for number in itertools.count():
            self.calls, self.fail_from = 0, number
            try:
                act()
            except pfreg.PfregError as e:
                assert isinstance(e, pfreg.StorageFull), repr(e)
                assert "No space left" in str(e)
                self.fail_from = None
                yield
            else:
                self.fail_from = None
                assert number > 10, "where were the writes?"
                return


@pytest.fixture
def disk(new: Any, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk, when everything that a test needs is on it already."""
    return Disk(monkeypatch)


def test_snapshot(tmp_path: Path, store: pfreg.Store, old: Any, new: Any, disk: Disk) -> None:
    here = tmp_path / "here"

    def act() -> Any:
        with disk.spacious():
            shutil.rmtree(here, ignore_errors=True)
            pfreg.Store(here)
        return pfreg.snapshot(tmp_path / "new", store=here, jobs=1)

    for _ in disk.filled(act):
        local = pfreg.Store(here)
        check_store(local)
        assert not leftovers(here)
        local.verify(pfreg.snapshot(tmp_path / "new", store=local, jobs=1).cid)


def test_pull(tmp_path: Path, store: pfreg.Store, new: Any, disk: Disk) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    pfreg.push(new, root, store=store)

    def act() -> Any:
        with disk.spacious():
            shutil.rmtree(here, ignore_errors=True)
            pfreg.Store(here)
        return pfreg.pull(root, store=here, jobs=1)

    for _ in disk.filled(act):
        local = pfreg.Store(here)
        check_store(local)
        assert local.verify() == len(local.listing())
        assert not leftovers(here)
        pfreg.pull(root, store=here, jobs=1)
        check_store(local)


@pytest.mark.parametrize("verb", ["push", "push with base", "copy"])
def test_at_a_target(tmp_path: Path, store: pfreg.Store, old: Any, new: Any, disk: Disk, verb: str) -> None:
    root, source, kept = tmp_path / "root", tmp_path / "source", tmp_path / "kept"
    pfreg.push(old, kept, store=store)
    pfreg.push(new, source, store=store)

    def act() -> Any:
        with disk.spacious():
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(kept, root)
        if verb == "copy":
            return pfreg.copy(source, root, jobs=1)
        return pfreg.push(new, root, store=store, base=source if verb == "push with base" else None, jobs=1)

    for _ in disk.filled(act):
        assert published(root) in (old.cid, new.cid)
        assert not leftovers(root)
        pfreg.push(new, root, store=store, jobs=1)
        assert published(root) == new.cid


@pytest.mark.parametrize("where", ["folder", "remote"])
def test_clone(
    tmp_path: Path, world: World, scratch: Path, store: pfreg.Store, new: Any, disk: Disk, where: str
) -> None:
    url, out = str(tmp_path / "root") if where == "folder" else "flaky://root", tmp_path / "deep" / "out"
    pfreg.push(new, url, store=store)

    def act() -> Any:
        shutil.rmtree(out.parent, ignore_errors=True)
        return pfreg.clone(url, out, jobs=1)

    for _ in disk.filled(act):
        assert not out.parent.exists() or listing(out) == listing(tmp_path / "new")
        assert not leftovers(tmp_path) and not list(scratch.iterdir())
    assert listing(out) == listing(tmp_path / "new")


LIMITED = """
import resource, signal, sys
import pfreg
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
verb, folder = sys.argv[1:]
try:
    if verb == "snapshot":
        pfreg.snapshot(folder + "/big", store=folder + "/target")
    if verb == "push":
        pfreg.push(sys.stdin.read(), folder + "/target", store=folder + "/store")
    if verb == "pull":
        pfreg.pull(folder + "/root", store=folder + "/target")
    if verb == "clone":
        pfreg.clone(folder + "/root", folder + "/target")
except pfreg.StorageFull as e:
    print(e)
    sys.exit(33)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("verb", ["snapshot", "push", "pull", "clone"])
def test_no_monkey_is_involved(tmp_path: Path, store: pfreg.Store, verb: str) -> None:
    """The operating system itself refuses to write a file of more than 1 MiB."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file").write_bytes(os.urandom(3 << 20))
    image = pfreg.snapshot(tmp_path / "big", store=store)
    pfreg.push(image, tmp_path / "root", store=store)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, verb, str(tmp_path)],
        cwd=PROJECT, input=str(image.cid), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 33, done.stderr
    assert "free some space" in done.stdout
    assert not leftovers(tmp_path)
    if verb == "clone":
        assert not (tmp_path / "target").exists()


def test_temporary_folder_is_full(
    tmp_path: Path, world: World, store: pfreg.Store, new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large blobs of a remote source pass through a temporary file."""
    pfreg.push(new, "flaky://root", store=store)

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(pfreg.StorageFull):
        pfreg.verify("flaky://root")
    with pytest.raises(pfreg.StorageFull):
        pfreg.copy("flaky://root", "flaky://other")
    assert published_raw(world) == {"root"}


def published_raw(world: World) -> set[str]:
    return {path.split("/")[0] for path in world.files if path.endswith("manifest.json")}


def test_staged_files_are_dropped_when_the_disk_is_full(
    tmp_path: Path, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for its name when the sync fails, goes."""
    files = local_files.LocalFiles()
    files.write_many([(str(tmp_path / "a"), b"1"), (str(tmp_path / "b"), b"2")])

    def full(handle: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(pfreg.StorageFull):
        files.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
