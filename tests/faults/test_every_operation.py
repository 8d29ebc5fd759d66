"""The N-th operation on a registry fails, for every N, in eight ways, under every verb.

After each: success with the right bytes, or a PfregError. A root holds the old image or the new one, whole. A store
never holds an image whose closure is incomplete. The next run, without a fault, finishes and sends only the rest.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import layout
from pfreg.digest import Digest
from tests.conftest import listing

from .flaky import KINDS, LOUD, PROTOCOLS, World
from .trees import check_store, leftovers, published, reach

pytestmark = pytest.mark.usefixtures("quick")

everywhere = pytest.mark.parametrize("protocol", PROTOCOLS)
in_all_ways = pytest.mark.parametrize("kind", KINDS)


def failing(world: World, kind: str, files: dict[str, bytes], act: Callable[[], Any]) -> Iterator[Any]:
    """Do `act` once for each of its operations, while that one fails; yield what it returned or raised.

    It ends when no operation was left to fail, which is when `act` has to succeed.
    """
    for at in itertools.count():
        world.files = dict(files)
        world.arm(at, kind)
        result: Any
        try:
            result = act()
        except pfreg.PfregError as e:
            result = e
        struck, through = world.struck, at >= len(world.calls)
        world.arm()
        if struck is not None:
            told = isinstance(result, pfreg.PfregError)
            assert told or kind not in LOUD or tolerated(kind, struck[0]), f"{struck} was swallowed"
            assert not told or "\n" not in str(result)
            yield result
        elif through:
            assert not isinstance(result, pfreg.PfregError), result
            return
        elif isinstance(result, pfreg.PfregError):
            raise result


def tolerated(kind: str, operation: str) -> bool:
    """A forbidden listing is replaced by looking up; a folder that cannot be made is tried again."""
    return (kind, operation) == ("denied", "find") or operation == "makedirs"


def blob_paths(root: str, digests: set[Digest]) -> set[str]:
    return {f"{root}/{layout.blob_path(digest)}" for digest in digests}


@everywhere
@in_all_ways
@pytest.mark.parametrize("before", ["empty", "older"])
def test_push(
    world: World, scratch: Path, store: pfreg.Store, old: Any, new: Any, protocol: str, kind: str, before: str
) -> None:
    url = f"{protocol}://root"
    if before == "older":
        pfreg.push(old, url, store=store, jobs=1)
    wanted = blob_paths("root", reach(store, new))
    allowed = {new.cid, old.cid if before == "older" else None}
    whole = {f"root/{path.relative_to(store.path)}": path.read_bytes() for path in Path(store.path).rglob("*.zst")}
    for result in failing(world, kind, dict(world.files), lambda: pfreg.push(new, url, store=store, jobs=1)):
        holds = published(url)
        assert holds in allowed
        assert holds == new.cid or isinstance(result, pfreg.PfregError)
        missing = {path for path in wanted if len(world.files.get(path, b"")) != len(whole[path])}
        world.arm()
        again = pfreg.push(new, url, store=store, jobs=1)
        assert published(url) == new.cid
        assert {path for path in world.written() if layout.digest_of_blob(path)} == missing
        assert again.sent == len(missing)
        assert not list(scratch.iterdir())


@everywhere
@in_all_ways
def test_pull(
    world: World, scratch: Path, tmp_path: Path, store: pfreg.Store, old: Any, new: Any, protocol: str, kind: str
) -> None:
    url, here = f"{protocol}://root", tmp_path / "here"
    pfreg.push(new, url, store=store, jobs=1)

    def act() -> Any:
        shutil.rmtree(here, ignore_errors=True)
        return pfreg.pull(url, store=here, jobs=1)

    for result in failing(world, kind, dict(world.files), act):
        local = pfreg.Store(here)
        check_store(local)
        assert local.images() or isinstance(result, pfreg.PfregError)
        had = set(local.listing())
        again = pfreg.pull(url, store=local, jobs=1)
        assert again.received == len(reach(local, new) - had)
        local.verify(new.cid)
        assert not leftovers(here) and not list(scratch.iterdir())


@everywhere
@in_all_ways
@pytest.mark.parametrize("failing_side", ["source", "target"])
def test_copy(
    world: World,
    scratch: Path,
    tmp_path: Path,
    store: pfreg.Store,
    new: Any,
    protocol: str,
    kind: str,
    failing_side: str,
) -> None:
    url, local = f"{protocol}://root", tmp_path / "root"
    source, target = (url, str(local)) if failing_side == "source" else (str(local), url)
    pfreg.push(new, source, store=store, jobs=1)

    def act() -> Any:
        if failing_side == "source":
            shutil.rmtree(local, ignore_errors=True)
        return pfreg.copy(source, target, jobs=1)

    for result in failing(world, kind, dict(world.files), act):
        holds = published(target)
        assert holds in (None, new.cid)
        assert holds == new.cid or isinstance(result, pfreg.PfregError)
        pfreg.copy(source, target, jobs=1)
        assert published(target) == new.cid
        assert not leftovers(tmp_path) and not list(scratch.iterdir())


@everywhere
@in_all_ways
def test_clone(
    world: World, scratch: Path, tmp_path: Path, store: pfreg.Store, new: Any, protocol: str, kind: str
) -> None:
    url, out = f"{protocol}://root", tmp_path / "deep" / "out"
    pfreg.push(new, url, store=store, jobs=1)
    expected = listing(tmp_path / "new")

    def act() -> Any:
        shutil.rmtree(out.parent, ignore_errors=True)
        return pfreg.clone(url, out, jobs=1)

    for result in failing(world, kind, dict(world.files), act):
        if isinstance(result, pfreg.PfregError):
            assert not out.parent.exists()
            pfreg.clone(url, out, jobs=1)
        assert listing(out) == expected
        assert not leftovers(tmp_path) and not list(scratch.iterdir())


@everywhere
@in_all_ways
def test_verify(world: World, scratch: Path, store: pfreg.Store, new: Any, protocol: str, kind: str) -> None:
    url = f"{protocol}://root"
    pfreg.push(new, url, store=store, jobs=1)
    files = dict(world.files)
    for result in failing(world, kind, files, lambda: pfreg.verify(url, jobs=1)):
        assert isinstance(result, pfreg.PfregError) or result.cid == new.cid
        assert world.files == files
        assert not list(scratch.iterdir())


@everywhere
@in_all_ways
def test_prune(world: World, store: pfreg.Store, old: Any, new: Any, protocol: str, kind: str) -> None:
    url = f"{protocol}://root"
    pfreg.push(old, url, store=store, jobs=1)
    pfreg.push(new, url, store=store, jobs=1)
    reached = blob_paths("root", reach(store, new))

    def act() -> Any:
        return pfreg.prune(url, grace=0, dry_run=False)

    for _ in failing(world, kind, dict(world.files), act):
        assert published(url) == new.cid
        act()
        assert {path for path in world.files if layout.digest_of_blob(path)} == reached
