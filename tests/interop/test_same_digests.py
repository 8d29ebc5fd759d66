"""For the same tree, our ``world.fs`` is the original's, and each side restores what the other took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import processfork
import pytest
from hypothesis import HealthCheck, given, settings

import pfreg
from pfreg import layout
from pfreg.fstree import Tree
from tests.interop import original
from tests.interop.trees import TREES, build, trees
from tests.ram import fresh_folder

every_tree = pytest.mark.parametrize("name", TREES)


@pytest.fixture
def tree(name: str, tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    TREES[name](root)
    return root


@every_tree
def test_both_sides_take_the_same_bits_and_we_restore_what_the_original_takes(
    name: str, tree: Path, tmp_path: Path
) -> None:
    cid = original.snapshot(tree, tmp_path / "theirs")
    theirs, content = original.layer(tmp_path / "theirs", cid, "world", "fs")
    store = pfreg.Store(tmp_path / "ours", level=19)
    ours = pfreg.snapshot(tree, store=store).manifest.layers.world_fs
    assert store.read(ours) == content
    assert str(ours) == theirs
    for digest in (ours, *Tree.from_bytes(content).blobs()):
        file = layout.blob_path(digest)
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    pfreg.checkout(cid, tmp_path / "restored", store=tmp_path / "theirs")
    assert original.listing(tmp_path / "restored") == original.listing(tree)


@every_tree
def test_the_original_restores_what_we_take(name: str, tree: Path, tmp_path: Path) -> None:
    image = pfreg.snapshot(tree, store=tmp_path / "ours")
    restored = original.checkout(tmp_path / "ours", str(image.cid), tmp_path / "restored")
    assert original.listing(restored) == original.listing(tree)


@every_tree
def test_the_original_restores_what_we_pull(name: str, tree: Path, tmp_path: Path) -> None:
    image = pfreg.snapshot(tree, store=tmp_path / "ours")
    pfreg.push(image, tmp_path / "root", store=tmp_path / "ours")
    pfreg.pull(tmp_path / "root", store=tmp_path / "pulled")
    restored = original.checkout(tmp_path / "pulled", str(image.cid), tmp_path / "restored")
    assert original.listing(restored) == original.listing(tree)


@given(trees)
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_any_tree_has_the_originals_digest(made: Mapping[str, object]) -> None:
    with fresh_folder() as room:
        root, theirs, ours = (room / name for name in ("tree", "theirs", "ours"))
        root.mkdir()
        build(made, root)
        digest, content = original.layer(theirs, original.snapshot(root, theirs), "world", "fs")
        image = pfreg.snapshot(root, store=ours)
        assert image.files + image.folders + image.links == len(original.listing(root))
        assert pfreg.Store(ours).read(image.manifest.layers.world_fs) == content
        assert str(image.manifest.layers.world_fs) == digest


def test_the_original_leaves_an_absolute_link_out_of_a_checkout_and_we_do_not(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "absolute").symlink_to("/etc/hostname")
    (tmp_path / "tree" / "file").write_text("x")
    image = pfreg.snapshot(tmp_path / "tree", store=tmp_path / "store")
    restored = original.checkout(tmp_path / "store", str(image.cid), tmp_path / "theirs")
    assert set(original.listing(restored)) == {"file"}
    pfreg.checkout(image, tmp_path / "ours", store=tmp_path / "store")
    assert original.listing(tmp_path / "ours") == original.listing(tmp_path / "tree")


def test_what_the_original_leaves_out_silently_is_in_our_images(tmp_path: Path) -> None:
    """Why the trees above avoid these names; a newer SDK that keeps them will be noticed here."""
    expected = set()
    for number, name in enumerate([*sorted(original.LEFT_OUT), "module.pyc", "module.pyo"]):
        for path in (f"folder {number}/{name}/file", f"file {number}/{name}"):
            (tmp_path / "tree" / path).parent.mkdir(parents=True)
            (tmp_path / "tree" / path).write_text("x")
        expected |= {f"folder {number}", f"folder {number}/{name}", f"folder {number}/{name}/file"}
        expected |= {f"file {number}", f"file {number}/{name}"}
    image = pfreg.snapshot(tmp_path / "tree", store=tmp_path / "ours")
    assert original.paths(tmp_path / "ours", str(image.cid)) == expected
    theirs = original.snapshot(tmp_path / "tree", tmp_path / "theirs")
    assert original.paths(tmp_path / "theirs", theirs) == {path for path in expected if "/" not in path}


def test_patterns_leave_out_what_the_original_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "tree" / "node_modules" / "x").mkdir(parents=True)
    (tmp_path / "tree" / "a.pyc").write_text("x")
    (tmp_path / "tree" / "a.py").write_text("x")
    image = pfreg.snapshot(tmp_path / "tree", store=tmp_path / "ours", exclude=["node_modules", "*.pyc"])
    theirs, _ = original.layer(
        tmp_path / "theirs", original.snapshot(tmp_path / "tree", tmp_path / "theirs"), "world", "fs"
    )
    assert str(image.manifest.layers.world_fs) == theirs


MESSAGES = [{"role": "user", "content": 'hi "there"\nsecond ☃'}, {"role": "assistant", "content": ""}]


def test_messages_model_and_cache_have_the_originals_digests(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    cid = original.snapshot(tmp_path / "tree", tmp_path / "theirs", agent_kind="claude-code", messages=MESSAGES)
    image = pfreg.snapshot(tmp_path / "tree", store=tmp_path / "ours", agent_kind="claude-code", messages=MESSAGES)
    ours = {name: str(digest) for name, digest in image.manifest.layers}
    for group, name in (
        ("trace", "messages"),
        ("model", "base"),
        ("model", "diff"),
        ("cache", "manifest"),
        ("world", "fs"),
    ):
        assert ours[f"{group}.{name}"] == original.layer(tmp_path / "theirs", cid, group, name)[0]


ENV = {
    "LANG": "C",
    "OPENAI_API_KEY": "sk-1",
    "GITHUB_TOKEN": "t",
    "DB_PASSWORD": "p",
    "A_SECRET": "s",
    "PWD": "/x",
    "Q": '"\\\n☃',
}


def test_the_environment_has_the_originals_digest(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    cid = original.snapshot(tmp_path / "tree", tmp_path / "theirs", env=ENV)
    image = pfreg.snapshot(tmp_path / "tree", store=tmp_path / "ours", env=ENV)
    digest, content = original.layer(tmp_path / "theirs", cid, "world", "env")
    assert json.loads(pfreg.Store(tmp_path / "ours").read(image.manifest.layers.world_env)) == json.loads(content)
    assert str(image.manifest.layers.world_env) == digest


EFFECTS = [
    {"tool_id": "send", "args_hash": "sha256:" + "1" * 64, "result_hash": "sha256:" + "2" * 64, "idempotency_key": "k1",
     "side_effect_class": "irreversible", "ts": "2026-01-02T03:04:05Z"},
    {"tool_id": "get", "args_hash": "sha256:" + "3" * 64, "result_hash": "sha256:" + "4" * 64, "idempotency_key": "k2",
     "side_effect_class": "network-only", "ts": "2026-01-02T03:04:06.500Z"},
]  # fmt: skip


def test_the_ledger_verifies_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    monkeypatch.delenv("PF_SESSION_SECRET", raising=False)
    cid = original.snapshot(tmp_path / "tree", tmp_path / "theirs", effects=EFFECTS)
    _, content = original.layer(tmp_path / "theirs", cid, "effects", "ledger")
    assert pfreg.ledger.verify_ledger(content) == 2
    image = pfreg.snapshot(tmp_path / "tree", store=tmp_path / "ours", effects=EFFECTS)
    _, ours = original.layer(tmp_path / "ours", str(image.cid), "effects", "ledger")
    assert [list(json.loads(line)) for line in ours.splitlines()] == [
        list(json.loads(line)) for line in content.splitlines()
    ]


def test_content_that_is_put_is_stored_as_the_original_stores_it(tmp_path: Path) -> None:
    theirs = processfork.PfStore.open(str(tmp_path / "theirs"))
    ours = pfreg.Store(tmp_path / "ours", level=19)
    for content in (b"", b"x", b"hello " * 5000, bytes(range(256)) * 3000, b"\0" * 400_000):
        digest = processfork.put_blob(theirs, content)
        assert digest == str(ours.put(content)) == processfork.digest_of(content)
        file = pfreg.layout.blob_path(pfreg.Digest.parse(digest))
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
