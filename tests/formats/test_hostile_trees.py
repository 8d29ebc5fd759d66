"""No tree leads out of its target: each hostile one is refused, by the rules and end to end, and leaves nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pfreg
from pfreg import world_checkout
from pfreg.errors import IntegrityError, LayerError, LimitExceeded, TreeError
from pfreg.fstree import Tree, check_restorable
from tests.formats import hostile_trees as hostile
from tests.formats.images import in_root, in_store, says_one_line

REFUSED = {**hostile.MALFORMED, **hostile.UNSAFE}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """Give an empty folder, two levels below one in which nothing may appear, nor change."""
    (tmp_path / "outside").write_text("untouched")
    room = tmp_path / "house" / "room"
    room.mkdir(parents=True)
    yield room
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("store", "root")) == [
        "house",
        "outside",
    ]
    assert [path.name for path in (tmp_path / "house").iterdir()] == ["room"]
    assert (tmp_path / "outside").read_text() == "untouched"


def in_both(folder: Path, world: bytes) -> tuple[pfreg.Digest, pfreg.Store]:
    layers = {"world.fs": world}
    in_root(folder / "root", layers, hostile.BLOBS)
    store = pfreg.Store(folder / "store")
    return in_store(store, layers, hostile.BLOBS).cid, store


def test_there_are_enough_of_them() -> None:
    assert len(REFUSED) >= 40


@pytest.mark.parametrize("name", hostile.MALFORMED)
def test_a_malformed_tree_is_no_tree(name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Tree.from_bytes(hostile.MALFORMED[name])
    assert isinstance(caught.value, TreeError)
    assert says_one_line(caught.value)


@pytest.mark.parametrize("name", hostile.UNSAFE)
def test_an_unsafe_tree_is_not_restorable(name: str) -> None:
    tree = Tree.from_bytes(hostile.UNSAFE[name])
    with pytest.raises(TreeError if "too " not in name or "link" in name else LimitExceeded) as caught:
        check_restorable(tree)
    assert says_one_line(caught.value)


@pytest.mark.parametrize("name", hostile.FOLDING)
def test_a_tree_that_folds_is_refused_where_names_fold(name: str) -> None:
    tree = Tree.from_bytes(hostile.FOLDING[name])
    check_restorable(tree)
    for where in ({"folding": True}, {"windows": True}):
        with pytest.raises(TreeError) as caught:
            check_restorable(tree, **where)
        assert says_one_line(caught.value)


@pytest.mark.parametrize("name", hostile.WINDOWS)
def test_a_name_that_windows_takes_for_something_else_is_refused_there(name: str) -> None:
    tree = Tree.from_bytes(hostile.WINDOWS[name])
    check_restorable(tree)
    with pytest.raises(TreeError) as caught:
        check_restorable(tree, windows=True)
    assert says_one_line(caught.value)


@pytest.mark.parametrize("name", hostile.HARMLESS)
def test_a_harmless_tree_is_restorable(name: str) -> None:
    check_restorable(Tree.from_bytes(hostile.HARMLESS[name]))


@pytest.mark.parametrize("name", [*REFUSED, *hostile.LYING])
def test_checkout_and_clone_refuse_it_and_leave_nothing(name: str, tmp_path: Path, room: Path) -> None:
    cid, store = in_both(tmp_path, {**REFUSED, **hostile.LYING}[name])
    with pytest.raises(IntegrityError) as caught:
        pfreg.checkout(cid, room / "target", store=store)
    assert says_one_line(caught.value)
    with pytest.raises(type(caught.value)) as cloned:
        pfreg.clone(tmp_path / "root", room / "target")
    assert says_one_line(cloned.value)
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("name", hostile.MALFORMED)
def test_a_malformed_tree_is_neither_pulled_nor_pushed(name: str, tmp_path: Path) -> None:
    cid, store = in_both(tmp_path, hostile.MALFORMED[name])
    with pytest.raises(LayerError) as caught:
        pfreg.push(cid, tmp_path / "pushed", store=store)
    assert says_one_line(caught.value)
    assert not (tmp_path / "pushed").exists()
    receiver = pfreg.Store(tmp_path / "receiver")
    with pytest.raises(LayerError):
        pfreg.pull(tmp_path / "root", store=receiver)
    assert receiver.images() == []


@pytest.mark.parametrize("name", hostile.FOLDING)
def test_checkout_refuses_what_folds_on_a_folding_file_system(
    name: str, tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, store = in_both(tmp_path, hostile.FOLDING[name])
    monkeypatch.setattr(world_checkout, "_folds", lambda _: True)
    with pytest.raises(TreeError) as caught:
        pfreg.checkout(cid, room / "target", store=store)
    assert says_one_line(caught.value)
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("name", hostile.HARMLESS)
def test_checkout_writes_what_is_harmless(name: str, tmp_path: Path, room: Path) -> None:
    cid, store = in_both(tmp_path, hostile.HARMLESS[name])
    done = pfreg.checkout(cid, room / "target", store=store)
    entries = json.loads(hostile.HARMLESS[name])["entries"]
    assert done.files + done.folders + done.links == len(entries)
    for entry in entries:
        path = room / "target" / entry["path"]
        assert os.path.lexists(path)
        if "link_target" in entry:
            assert os.readlink(path) == entry["link_target"]
        elif "mode" in entry:
            assert f"{path.lstat().st_mode & 0o7777:04o}" == entry["mode"]
    for folder, _, _ in os.walk(room):
        os.chmod(folder, 0o700)  # so that the test's own folder can be removed


@pytest.mark.parametrize("mode, dropped", [("4755", 0o755), ("2755", 0o755), ("6711", 0o711)])
def test_set_id_bits_come_only_when_they_are_asked_for(mode: str, dropped: int, tmp_path: Path, room: Path) -> None:
    cid, store = in_both(tmp_path, hostile.tree(hostile.file("a", mode=mode)))
    with pytest.raises(TreeError):
        pfreg.checkout(cid, room / "target", store=store)
    pfreg.checkout(cid, room / "dropped", store=store, set_id="drop")
    assert (room / "dropped" / "a").stat().st_mode & 0o7777 == dropped
    pfreg.clone(tmp_path / "root", room / "kept", set_id="keep")
    assert (room / "kept" / "a").stat().st_mode & 0o7777 == int(mode, 8)


OUTSIDE = ["/etc/passwd", "..", "../..", "sub/../..", "../room/../../outside", "a/../../x"]
INSIDE = ["a", "sub", "./a", "sub/../a", "nowhere", "sub/./../sub/x", "..a"]


@pytest.mark.parametrize("target", OUTSIDE)
def test_links_out_of_the_tree_are_refused_when_asked(target: str, tmp_path: Path, room: Path) -> None:
    world = hostile.tree(hostile.folder("sub"), hostile.link("l", target))
    cid, store = in_both(tmp_path, world)
    with pytest.raises(TreeError) as caught:
        pfreg.checkout(cid, room / "target", store=store, links_inside=True)
    assert says_one_line(caught.value)
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("target", INSIDE)
def test_links_inside_the_tree_are_not(target: str) -> None:
    check_restorable(Tree.from_bytes(hostile.tree(hostile.link("l", target))), links_inside=True)


def test_a_link_is_measured_from_where_it_is() -> None:
    check_restorable(Tree.from_bytes(hostile.tree(hostile.link("s/l", "../a"))), links_inside=True)
    with pytest.raises(TreeError):
        check_restorable(Tree.from_bytes(hostile.tree(hostile.link("s/l", "../../a"))), links_inside=True)


@pytest.mark.parametrize("made", ["folder", "file", "link", "dangling link", "full folder"])
def test_a_target_that_exists_is_left_as_it_is(made: str, tmp_path: Path, room: Path) -> None:
    cid, store = in_both(tmp_path, hostile.HARMLESS["an equal file twice"])
    target = room / "target"
    if made == "file":
        target.write_text("mine")
    elif "link" in made:
        target.symlink_to(".." if made == "link" else "nowhere")
    else:
        target.mkdir()
        if made == "full folder":
            (target / "mine").write_text("mine")
    for call in (lambda: pfreg.checkout(cid, target, store=store), lambda: pfreg.clone(tmp_path / "root", target)):
        with pytest.raises(pfreg.TargetExists) as caught:
            call()
        assert says_one_line(caught.value)
    assert [path.name for path in room.iterdir()] == ["target"]
    assert made != "file" or target.read_text() == "mine"
    assert made != "folder" or list(target.iterdir()) == []
