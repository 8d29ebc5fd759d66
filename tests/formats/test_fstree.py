"""The format of file trees: lenient in reading where producers differ, strict in writing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg.digest import Digest
from pfreg.errors import LimitExceeded, PfregError, TreeError
from pfreg.fstree import Entry, Tree, check_restorable, sort_key
from pfreg.limits import Limits
from tests import golden
from tests.formats.hostile_trees import CONTENT, file, folder, link, tree, without
from tests.formats.images import compact

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
digests = st.binary(max_size=4).map(Digest.of)
modes = st.integers(0, 0o7777)


def to(path: str, mode: int, target: str) -> Entry:
    text = target.encode()
    return Entry(path, "symlink", mode, len(text), Digest.of(text), target)


entries = st.one_of(
    st.builds(Entry, paths, st.just("file"), modes, st.integers(0, 2**63), digests),
    st.builds(Entry, paths, st.just("dir"), modes, st.just(0)),
    st.builds(to, paths, modes, names),
)


def only(raw: bytes) -> Entry:
    (entry,) = Tree.from_bytes(raw).entries
    return entry


def test_entries_are_sorted_component_by_component_as_bytes() -> None:
    # As whole strings, "a b" and "a-b" would come before "a/b".
    right = ["a", "a/b", "a/b/c", "a/b c", "a b", "a-b", "a.txt", "b", "\u00e9", "\uffff", "\U0001f600"]
    shuffled = random.Random(1).sample(right, len(right))
    assert sorted(shuffled, key=sort_key) == right
    made = Tree.of(Entry(path, "dir", 0o755, 0) for path in shuffled)
    assert [entry.path for entry in made.entries] == right


def test_code_points_beyond_the_first_plane_come_last() -> None:
    # In UTF-16, which some languages sort by, U+1F600 comes before U+FFFF.
    assert sorted(["\U0001f600", "\uffff"], key=sort_key) == ["\uffff", "\U0001f600"]


@pytest.mark.parametrize("store, name, cid", golden.IMAGES, ids=golden.IMAGE_NAMES)
def test_golden_trees_are_written_again_byte_for_byte(store: str, name: str, cid: str, tmp_path: Path) -> None:
    opened = golden.opened(store, tmp_path)
    raw = opened.read(opened.manifest(cid).layers.world_fs)
    found = Tree.from_bytes(raw)
    assert found.to_bytes() == raw
    assert Tree.of(random.Random(2).sample(found.entries, len(found.entries))).to_bytes() == raw
    check_restorable(found)


@pytest.mark.parametrize("name", ["parent", "child"])
def test_a_golden_tree_says_what_the_originals_checkout_showed(name: str) -> None:
    layers, told = golden.GOLDEN["layers"][name], golden.GOLDEN["checkout"][name]
    found = {entry.path: entry for entry in Tree.from_bytes(layers["fs"].encode()).entries}
    assert found.keys() == told.keys()
    for path, (kind, mode, what) in told.items():
        entry = found[path]
        assert entry.kind == kind
        assert mode is None or f"{entry.mode:04o}" == mode
        assert what == (entry.link_target if kind == "symlink" else entry.blob and entry.blob.hex)


def test_what_producers_leave_out_is_filled_in() -> None:
    assert only(tree(without(file("a"), "mode"))).mode == 0o644
    assert only(tree(file("a", mode=None))).mode == 0o644
    assert only(tree(without(folder("a"), "mode"))).mode == 0o755
    assert only(tree(without(link("a"), "mode"))).mode == 0o777
    assert only(tree(without(file("a"), "kind"))).kind == "file"
    assert only(tree(without(folder("a"), "size"))).size == 0
    assert only(tree(file("a", link_target=None))).link_target is None
    assert only(tree(folder("a", blob=None))).blob is None


def test_unknown_fields_and_any_order_are_read() -> None:
    raw = compact({"extra": 1, "entries": [{**file("b"), "mtime": 5}, file("a")], "kind": "fs.tree.v1"})
    assert [entry.path for entry in Tree.from_bytes(raw).entries] == ["b", "a"]


def test_writing_is_exact() -> None:
    digest = Digest.of(CONTENT)
    made = Tree.of(
        [
            Entry("l", "symlink", 0o777, 1, Digest.of(b"a"), "a"),
            Entry("b \u2603", "file", 0o4600, 17, digest),
            Entry("a", "dir", 0o1777, 0),
        ]
    )
    assert made.to_bytes().decode() == (
        '{"kind":"fs.tree.v1","entries":['
        '{"path":"a","mode":"1777","size":0,"kind":"dir"},'
        f'{{"path":"b \u2603","mode":"4600","size":17,"kind":"file","blob":"{digest}"}},'
        f'{{"path":"l","mode":"0777","size":1,"kind":"symlink","blob":"{Digest.of(b"a")}","link_target":"a"}}]}}'
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Entry(7, "file", 0, 0, Digest.of(b"")),  # type: ignore[arg-type]
        lambda: Entry("a", "fifo", 0, 0),  # type: ignore[arg-type]
        lambda: Entry("a", "file", 0o10000, 0, Digest.of(b"")),
        lambda: Entry("a", "file", -1, 0, Digest.of(b"")),
        lambda: Entry("a", "file", 0o644, -1, Digest.of(b"")),
        lambda: Entry("a", "file", 0o644, True, Digest.of(b"")),
        lambda: Entry("a", "file", 0o644, 0),
        lambda: Entry("a", "dir", 0o755, 0, Digest.of(b"")),
        lambda: Entry("a", "symlink", 0o777, 1, Digest.of(b"a")),
        lambda: Entry("a", "file", 0o644, 0, Digest.of(b""), "target"),
    ],
)
def test_an_entry_that_contradicts_itself_cannot_be_made(make: object) -> None:
    with pytest.raises(TreeError):
        make()  # type: ignore[operator]


@given(st.lists(entries, max_size=8, unique_by=lambda entry: entry.path))
def test_any_tree_is_written_and_read_back(found: list[Entry]) -> None:
    made = Tree.of(found)
    assert Tree.from_bytes(made.to_bytes()) == made
    assert Tree.of(reversed(found)).to_bytes() == made.to_bytes()


@given(st.lists(entries, max_size=8))
def test_a_tree_that_passes_leads_nowhere_else(found: list[Entry]) -> None:
    try:
        check_restorable(Tree(tuple(found)), set_id=True)
    except PfregError:
        return
    kinds = {entry.path: entry.kind for entry in found}
    assert len(kinds) == len(found)
    for path in kinds:
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert all(kinds.get("/".join(parts[:end]), "dir") == "dir" for end in range(1, len(parts)))


def test_blobs_are_named_once_with_their_size() -> None:
    found = Tree.from_bytes(tree(file("a"), file("b"), folder("c"), link("l", "a")))
    assert found.blobs() == {Digest.of(CONTENT): len(CONTENT), Digest.of(b"a"): 1}


def test_limits_bound_entries_bytes_and_names() -> None:
    raw = tree(file("abc"), file("d/e"))
    for limits in (Limits(tree_entries=1), Limits(layer_bytes=len(raw) - 1), Limits(json_depth=2)):
        with pytest.raises(LimitExceeded):
            Tree.from_bytes(raw, limits=limits)
    found = Tree.from_bytes(raw, limits=Limits(tree_entries=2, layer_bytes=len(raw), json_depth=3))
    check_restorable(found, limits=Limits(name_bytes=3, path_bytes=3))
    for limits in (Limits(name_bytes=2), Limits(path_bytes=2)):
        with pytest.raises(LimitExceeded):
            check_restorable(found, limits=limits)


def test_what_a_snapshot_takes_can_be_checked_out_anywhere_it_says(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".Git").mkdir()
    with pytest.raises(TreeError) as caught:
        pfreg.snapshot(tmp_path / "tree", store=tmp_path / "store")
    assert caught.value.place == ".Git"
