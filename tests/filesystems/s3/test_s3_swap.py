"""``expect=`` on S3: exact where the server honours conditions, which is found out and never assumed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.reference import locate
from pfreg.registry import Registry
from tests.filesystems.s3.conftest import HASTY, PATIENT, Through
from tests.servers.fault_proxy import Answer, FaultProxy, Meddled, Seen
from tests.servers.moto_s3 import moto_s3

CONDITIONS = frozenset({"if-match", "if-none-match"})


def conditional(seen: Seen) -> bool:
    return any(name.lower() in CONDITIONS for name in seen.headers)


def opened(through: Through, root: str, **more: Any) -> Any:
    return locate(root, storage_options=through.options(**more)).fs


def test_a_server_that_honours_conditions_is_found_to(through: Through, root: str) -> None:
    fs = opened(through, root)
    folder = root.removeprefix("s3://")
    assert fs.swaps(folder)
    assert fs.find(folder) == []  # nothing is left of the attempt
    through.proxy.seen.clear()
    assert fs.swaps(folder)
    assert through.proxy.seen == []  # once is enough


def test_swapping(through: Through, root: str) -> None:
    fs, path = opened(through, root), root.removeprefix("s3://") + "/file"
    assert fs.version(path) is None
    with pytest.raises(FileExistsError):
        fs.swap(path, b"0", version='"00000000000000000000000000000000"')
    first = fs.swap(path, b"1", version=None)
    assert fs.version(path) == first
    with pytest.raises(FileExistsError):
        fs.swap(path, b"2", version=None)
    second = fs.swap(path, b"3", version=first)
    assert second != first
    with pytest.raises(FileExistsError):
        fs.swap(path, b"4", version=first)
    assert fs.cat_file(path) == b"3"


@pytest.mark.parametrize("status", [501, 400])
def test_a_server_that_knows_no_conditions_is_found_out(
    status: int, image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    through.proxy.rule = lambda seen: Answer(status) if conditional(seen) else None
    check_without_conditions(image, newer, store, root, through.options(**HASTY))


def test_a_server_that_ignores_conditions_is_found_out(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, library: str, root: str
) -> None:
    with moto_s3() as options:  # which does not mind that a signed header is missing
        proxy = FaultProxy(options["endpoint_url"])
        proxy.rule = lambda seen: Meddled(without=CONDITIONS)
        ours = {**options, **HASTY, "endpoint_url": f"http://{proxy.host}", "library": library}
        try:
            check_without_conditions(image, newer, store, root, ours)
        finally:
            proxy.stop()


def check_without_conditions(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, root: str, options: dict[str, Any]
) -> None:
    """Check that the server is found not to honour conditions, and that ``expect=`` is checked all the same."""
    fs: Any = locate(root, storage_options=options).fs
    assert not fs.swaps(root.removeprefix("s3://"))
    pfreg.push(image, root, store=store, storage_options=options, expect="absent")
    with pytest.raises(pfreg.Conflict):
        pfreg.push(newer, root, store=store, storage_options=options, expect="absent")
    pfreg.push(newer, root, store=store, storage_options=options, expect=image.cid)
    assert pfreg.verify(root, storage_options=options).cid == newer.cid


def test_what_is_published_in_between_wins(
    image: pfreg.Snapshotted,
    newer: pfreg.Snapshotted,
    store: pfreg.Store,
    through: Through,
    root: str,
    tree: Path,
) -> None:
    """Another publisher comes between our last look and our write, at each of the two files."""
    (tree / "README.md").write_text("a third\n")
    third = pfreg.snapshot(tree, store=store, agent_kind="test")
    direct = through.server.options(library=through.library)
    for name in ("manifest.json.sig", "manifest.json"):
        url = f"{root}/{name}"
        pfreg.push(image, url, store=store, storage_options=direct)
        came: list[str] = []

        def between(seen: Seen, url: str = url, name: str = name, came: list[str] = came) -> None:
            if not came and conditional(seen) and seen.path.partition("?")[0].endswith(f"/{name}"):
                came.append(name)
                pushed = threading.Thread(target=pfreg.push, args=(third, url), kwargs=_with(store, direct))
                pushed.start()
                pushed.join(60)

        through.proxy.rule = between
        with pytest.raises(pfreg.Conflict):
            pfreg.push(newer, url, store=store, storage_options=through.options(), expect=image.cid)
        assert came == [name]
        through.proxy.rule = lambda seen: None
        assert pfreg.verify(url, storage_options=direct).cid == third.cid


def _with(store: pfreg.Store, options: dict[str, Any]) -> dict[str, Any]:
    return {"store": store, "storage_options": options}


def test_of_several_who_expect_the_same_one_wins(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tree: Path
) -> None:
    options = through.server.options(library=through.library)
    pfreg.push(image, root, store=store, storage_options=options)
    forks = []
    for i in range(5):
        (tree / "README.md").write_text(f"fork {i}\n")
        forks.append(pfreg.snapshot(tree, store=store, agent_kind="test"))
    results: list[Any] = []
    ready = threading.Barrier(len(forks))

    def push(fork: pfreg.Snapshotted) -> None:
        ready.wait(60)
        try:
            results.append(pfreg.push(fork, root, expect=image.cid, **_with(store, options)))
        except pfreg.Conflict as e:
            results.append(e)

    threads = [threading.Thread(target=push, args=(fork,)) for fork in forks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    won = [result for result in results if isinstance(result, pfreg.Pushed)]
    assert len(results) == len(forks) and len(won) == 1
    assert pfreg.verify(root, storage_options=options).cid == won[0].cid


@pytest.mark.parametrize("name", ["manifest.json.sig", "manifest.json"])
def test_a_write_whose_answer_is_lost_is_no_conflict(
    name: str, image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    """The library asks again, and finds its own write in the way."""
    options = through.options(**PATIENT)
    pfreg.push(image, root, store=store, storage_options=options)
    lost: list[Seen] = []

    def lose(seen: Seen) -> Meddled | None:
        if lost or not conditional(seen) or not seen.path.partition("?")[0].endswith(f"/{name}"):
            return None
        lost.append(seen)
        return Meddled(lost=True)

    through.proxy.rule = lose
    done = pfreg.push(newer, root, store=store, storage_options=options, expect=image.cid)
    assert lost and done.published
    assert pfreg.verify(root, storage_options=options).cid == newer.cid


@pytest.mark.parametrize("stop", ["manifest.json.sig", "manifest.json", "last"])
def test_wherever_a_publisher_stops_there_is_a_whole_image(
    stop: str, image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    options = through.options(**HASTY)
    pfreg.push(image, root, store=store, storage_options=options)
    written: list[str] = []

    def stopping(seen: Seen) -> Answer | None:
        name = seen.path.partition("?")[0].rpartition("/")[2]
        if seen.method != "PUT" or not name.startswith("manifest.json"):
            return None
        if name == stop or (stop == "last" and len(set(written)) == 2):
            return Answer(500)
        written.append(name)
        return None

    through.proxy.rule = stopping
    with pytest.raises(pfreg.PfregError):
        pfreg.push(newer, root, store=store, storage_options=options, expect=image.cid)
    through.proxy.rule = lambda seen: None
    holds = pfreg.verify(root, storage_options=options).cid
    assert holds == (newer.cid if stop == "last" else image.cid)
    pfreg.push(newer, root, store=store, storage_options=options, expect=holds)
    assert pfreg.verify(root, storage_options=options).cid == newer.cid


def test_an_image_that_is_already_there_is_left_alone(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    options = through.options()
    pfreg.push(image, root, store=store, storage_options=options, expect="absent")
    done, seen = through.count(lambda: pfreg.push(image, root, store=store, storage_options=options, expect=image.cid))
    assert not done.published
    assert not [s for s in seen if s.method == "PUT"]


def test_only_s3_among_the_ordinary_filesystems_swaps(through: Through, root: str, tmp_path: Path) -> None:
    from pfreg.registry import Swaps

    made: list[Callable[[], Registry]] = [
        lambda: Registry.open(root, storage_options=through.options()),
        lambda: Registry.open(tmp_path),
        lambda: Registry.open("memory://swaps"),
    ]
    assert [isinstance(make().fs, Swaps) for make in made] == [True, False, False]
