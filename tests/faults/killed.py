"""Kill one verb at each of its writes, in forks of this process; a program of its own, for it must not have threads.

``python -m tests.faults.killed VERB FOLDER`` prints how many times it killed. What must be true afterwards is asserted.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pfreg
from pfreg import local_files, registry
from tests.conftest import listing

from .trees import check_store, leftovers, make_tree, published, reach, stored_blobs

_EVENTS = frozenset(
    f"os.{name}" for name in ("rename", "link", "symlink", "mkdir", "rmdir", "remove", "chmod", "utime", "truncate")
) | {"fcntl.flock", "shutil.rmtree"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def survives(number: int, act: Callable[[], Any]) -> bool:
    """Do `act` in a fork that is killed at its write number `number`; tell whether it had that many."""
    child = os.fork()
    if child == 0:
        _die_at(number)
        try:
            act()
        except BaseException:  # noqa: BLE001 - the parent sees the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.waitstatus_to_exitcode(status) == 0
    return True


def _die_at(number: int) -> None:
    seen = itertools.count()

    def strike() -> None:
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING):
            strike()

    write, copy = os.write, getattr(os, "copy_file_range", None)

    def half(handle: int, data: Any) -> int:
        written = write(handle, memoryview(data)[: (len(data) + 1) // 2])
        strike()
        return written

    def copy_half(source: int, target: int, count: int) -> int:
        copied = copy(source, target, (count + 1) // 2) if copy else 0
        strike()
        return copied

    os.write = half
    os.fsync = lambda handle: strike()
    if copy is not None:
        os.copy_file_range = copy_half
    sys.addaudithook(audit)


class Scene:
    """Two images, and everything that a verb may leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old_tree = make_tree(folder / "old tree", seed=1, files=2)
        self.new_tree = make_tree(folder / "new tree", seed=2, files=2)
        self.store = pfreg.Store(folder / "store")
        self.old = pfreg.snapshot(self.old_tree, store=self.store, jobs=1)
        self.new = pfreg.snapshot(self.new_tree, store=self.store, parents=[self.old], jobs=1)
        self.root, self.source, self.place = folder / "root", folder / "source", folder / "place"
        pfreg.push(self.new, self.source, store=self.store, jobs=1)

    def fresh(self, kind: str) -> None:
        """Make `place` what it was: a root or a store that holds the old image, or nothing at all."""
        shutil.rmtree(self.place, ignore_errors=True)
        for staging in self.folder.glob(".place.*.part"):
            shutil.rmtree(staging)
        if kind == "nothing":
            return
        kept = self.folder / f"kept {kind}"
        if not kept.exists():
            pfreg.push(self.old, self.root, store=self.store, jobs=1)
            if kind == "fat root":
                pfreg.push(self.new, self.root, store=self.store, jobs=1)
            if "root" in kind:
                shutil.copytree(self.root, kept)
            else:
                pfreg.pull(self.root, store=kept, jobs=1)
        shutil.copytree(kept, self.place)


def snapshot(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        return pfreg.snapshot(scene.new_tree, store=pfreg.Store(scene.place), jobs=1)

    def check() -> None:
        local = pfreg.Store(scene.place)
        check_store(local)
        assert scene.old.cid in [manifest.cid for manifest in local.images()]
        again = act()
        assert again.manifest.layers.world_fs == scene.new.manifest.layers.world_fs
        local.verify(again.cid)
        local.gc(grace=0)
        check_store(local)
        assert not leftovers(scene.place)

    return "store", act, check


def push(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        return pfreg.push(scene.new, scene.place, store=scene.store, jobs=1)

    return "root", act, lambda: _check_root(scene, act)


def first_push(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    return "nothing", push(scene)[1], push(scene)[2]


def push_with_base(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        return pfreg.push(scene.new, scene.place, store=scene.store, base=scene.source, jobs=1)

    return "root", act, lambda: _check_root(scene, act)


def copy(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        return pfreg.copy(scene.source, scene.place, jobs=1)

    return "root", act, lambda: _check_root(scene, act)


def prune(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        return pfreg.prune(scene.place, grace=0, dry_run=False)

    def check() -> None:
        assert published(scene.place) == scene.new.cid
        act()
        assert set(stored_blobs(scene.place)) == reach(scene.store, scene.new)

    return "fat root", act, check


def pull(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        return pfreg.pull(scene.source, store=scene.place, jobs=1)

    def check() -> None:
        local = pfreg.Store(scene.place)
        check_store(local)
        had = set(local.listing())
        again = act()
        assert again.received == len(reach(local, scene.new) - had)
        local.gc(grace=0)
        check_store(local)
        assert {manifest.cid for manifest in local.images()} == {scene.old.cid, scene.new.cid}
        assert not leftovers(scene.place)

    return "store", act, check


def clone(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        return pfreg.clone(scene.source, scene.place, jobs=1)

    def check() -> None:
        if not scene.place.exists():
            act()
        assert listing(scene.place) == listing(scene.new_tree)

    return "nothing", act, check


def gc(scene: Scene) -> tuple[str, Callable[[], Any], Callable[[], None]]:
    def act() -> Any:
        local = pfreg.Store(scene.place)
        local.put(b"nobody's")
        return local.gc(grace=0)

    def check() -> None:
        check_store(pfreg.Store(scene.place))
        act()
        assert pfreg.Store(scene.place).images()

    return "store", act, check


def _check_root(scene: Scene, act: Callable[[], Any]) -> None:
    holds = published(scene.place)
    assert holds in (scene.old.cid, scene.new.cid, None)
    missing = reach(scene.store, scene.new) - set(stored_blobs(scene.place))
    again = act()
    assert again.sent + again.copied == len(missing)
    assert published(scene.place) == scene.new.cid
    pfreg.prune(scene.place, grace=0, dry_run=False)
    assert published(scene.place) == scene.new.cid
    assert not leftovers(scene.place)


VERBS = {verb.__name__: verb for verb in (snapshot, first_push, push, push_with_base, copy, pull, clone, prune, gc)}


def main(verb: str, folder: str) -> None:
    """Kill `verb` at every write; see the module."""
    local_files._SYNCFS = None  # every sync is a call that can be killed at
    os.fsync = lambda handle: None  # and no sync takes time: nobody cuts the power here
    registry._PAUSE = 0.0
    scene = Scene(Path(folder))
    kind, act, check = VERBS[verb](scene)
    for number in itertools.count():
        scene.fresh(kind)
        through = survives(number, act)
        check()
        if through:
            print(number)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
