"""Every image that the original made travels through us: the same CID, the same stored bytes, readable at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import processfork
import pytest

import pfreg
from pfreg.closure import closure
from tests import golden
from tests.golden import GOLDEN
from tests.interop import original

every_image = pytest.mark.parametrize("store, name, cid", golden.IMAGES, ids=golden.IMAGE_NAMES)
MERGED = GOLDEN["store-merged"]
LEDGERS = [json.loads(MERGED["ledger_text"])[name] for name in ("parent_a", "parent_b", "ancestor")]


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PF_FILE_REG_SIGN_KEY", raising=False)


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Iterator[str]:
    url = f"memory://golden/{abs(hash(request.node.nodeid))}"
    yield url
    fs = pfreg.reference.locate(url).fs
    if fs.exists(url):
        fs.rm(url, recursive=True)


def stored(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("blobs/sha256/*/*.zst")}


@every_image
def test_it_is_pushed_pulled_verified_cloned_and_restored(
    store: str, name: str, cid: str, tmp_path: Path, memory: str
) -> None:
    source = golden.opened(store, tmp_path)
    pushed = pfreg.push(cid, tmp_path / "root", store=source)
    assert str(pushed.cid) == cid
    root, frames = stored(tmp_path / "root"), golden.frames()
    reach = closure(source.manifest(cid), source.content)
    assert root == {f"{d.hex}.zst": frames[d.hex] for d in reach}

    assert str(pfreg.copy(tmp_path / "root", memory).cid) == cid
    verified = pfreg.verify(memory)
    assert (str(verified.cid), verified.blobs, verified.trust.status if verified.trust else "") == (
        cid,
        len(reach),
        "unsigned",
    )

    pulled = pfreg.Store(tmp_path / "pulled")
    assert str(pfreg.pull(memory, store=pulled).cid) == cid
    manifest = (golden.VECTORS / store / "images" / f"{cid[7:]}.json").read_bytes()
    assert pulled.manifest(cid).raw == manifest
    assert all(stored(tmp_path / "pulled")[file] == raw for file, raw in root.items())

    pfreg.checkout(cid, tmp_path / "checkout", store=pulled)
    pfreg.clone(memory, tmp_path / "clone")
    theirs = original.checkout(tmp_path / "pulled", cid, tmp_path / "theirs")
    assert original.listing(tmp_path / "checkout") == original.listing(tmp_path / "clone") == original.listing(theirs)


@pytest.mark.parametrize("store, name", [("store-small", "parent"), ("store-small", "child"), ("store-cache", "kv")])
def test_it_is_restored_as_the_original_told(store: str, name: str, tmp_path: Path) -> None:
    pfreg.checkout(GOLDEN[store][name], tmp_path / "out", store=golden.opened(store, tmp_path))
    found = original.listing(tmp_path / "out")
    told = GOLDEN["checkout"][name]
    assert found.keys() == told.keys()
    for path, (kind, mode, what) in told.items():
        assert found[path][0] == kind
        if kind == "symlink":
            assert found[path][1] == what
        else:
            assert f"{found[path][1]:04o}" == mode
        if kind == "file":
            assert pfreg.Digest.of(found[path][2]).hex == what


def test_a_root_of_ours_is_the_originals_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = golden.opened("store-small", tmp_path)
    for root, name, secret in (("registry-small", "parent", None), ("registry-keyed", "child", "secret-key-1")):
        if secret:
            monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", secret)
        pfreg.push(GOLDEN["store-small"][name], tmp_path / root, store=source)
        ours, theirs = (
            {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}
            for top in (tmp_path / root, golden.VECTORS / root)
        )
        assert {path: raw for path, raw in ours.items() if path in theirs} == theirs
        assert ours.keys() == theirs.keys()


def test_pushing_onto_a_root_of_the_originals_sends_nothing(tmp_path: Path) -> None:
    root = golden.copied("registry-small", tmp_path)
    done = pfreg.push(GOLDEN["store-small"]["parent"], root, store=golden.opened("store-small", tmp_path))
    assert (done.sent, done.published, done.skipped) == (0, False, GOLDEN["registry-small"]["n_blobs"])


def test_the_keyed_root_verifies_with_its_secret_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = golden.copied("registry-keyed", tmp_path)
    for secret in (None, "secret-key-2", "secret-key-1\n"):
        if secret is not None:
            monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", secret)
        for verb in (lambda: pfreg.verify(root), lambda: pfreg.pull(root, store=tmp_path / "store")):
            with pytest.raises(pfreg.SignatureError):
                verb()
        with pytest.raises(pfreg.SignatureError):
            pfreg.clone(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", "secret-key-1")
    assert pfreg.verify(root, require_signature=True).trust == pfreg.Trust("verified", "PF_FILE_REG_SIGN_KEY")
    pulled = pfreg.pull(root, store=tmp_path / "store", require_signature=True)
    assert str(pulled.cid) == GOLDEN["registry-keyed"]["cid"]
    with pytest.raises(pfreg.SignatureError):  # the default key does not count any more
        pfreg.verify(golden.copied("registry-small", tmp_path))


def test_a_merged_image_keeps_its_three_ledgers(tmp_path: Path, memory: str) -> None:
    source = golden.opened("store-merged", tmp_path)
    pfreg.push(MERGED["merged"], tmp_path / "root", store=source)
    pfreg.copy(tmp_path / "root", memory)
    pfreg.pull(memory, store=tmp_path / "pulled")
    theirs = processfork.PfStore.open(str(tmp_path / "pulled"))
    for digest in LEDGERS:
        content = processfork.read_blob(theirs, digest)
        assert processfork.digest_of(content) == digest
        assert pfreg.ledger.verify_ledger(content) == 1
    assert len({*LEDGERS}) == 3


def test_the_original_merges_what_we_pulled_with_its_history(tmp_path: Path, memory: str) -> None:
    source = golden.opened("store-merged", tmp_path)
    for side in ("a", "b"):
        assert pfreg.push(MERGED[side], f"{memory}/{side}", store=source, history="all").images == 2
        assert pfreg.pull(f"{memory}/{side}", store=tmp_path / "pulled", history="all").images == 2
    theirs = processfork.PfStore.open(str(tmp_path / "pulled"))
    report = processfork.merge(theirs, MERGED["a"], MERGED["b"])
    assert report["ancestor"] == MERGED["base"]
    ours = pfreg.Store(tmp_path / "pulled")
    merged = ours.manifest(report["merged_cid"])
    assert {str(parent) for parent in merged.parents} == {MERGED["a"], MERGED["b"]}
    assert merged.layers.effects_ledger in closure(merged, ours.content)
    assert {str(digest) for digest in closure(merged, ours.content)} >= set(LEDGERS)
    pfreg.push(merged.cid, tmp_path / "merged", store=ours)
    assert pfreg.verify(tmp_path / "merged").cid == merged.cid


def test_without_its_history_the_original_cannot_merge(tmp_path: Path) -> None:
    """What ``history`` is for: the test above would prove nothing if this passed."""
    source = golden.opened("store-merged", tmp_path)
    for side in ("a", "b"):
        pfreg.push(MERGED[side], tmp_path / side, store=source)
        pfreg.pull(tmp_path / side, store=tmp_path / "pulled")
    theirs = processfork.PfStore.open(str(tmp_path / "pulled"))
    with pytest.raises(RuntimeError):
        processfork.merge(theirs, MERGED["a"], MERGED["b"])


@pytest.mark.parametrize("history, images", [(0, 1), (1, 3), (2, 3), ("all", 3)])
def test_the_grandchild_takes_its_generations_along(history: int | str, images: int, tmp_path: Path) -> None:
    source = golden.opened("store-small", tmp_path)
    cid = GOLDEN["store-small"]["grandchild"]
    assert pfreg.push(cid, tmp_path / "root", store=source, history=history).images == images
    pulled = pfreg.Store(tmp_path / "pulled")
    assert pfreg.pull(tmp_path / "root", store=pulled, history="all").images == images
    assert len(pulled.images()) == images


@pytest.mark.parametrize("store", golden.STORES)
def test_a_store_of_the_originals_is_opened_listed_verified_and_collected(store: str, tmp_path: Path) -> None:
    opened = golden.opened(store, tmp_path)
    cids = {cid for folder, _, cid in golden.IMAGES if folder == store}
    assert {str(manifest.cid) for manifest in opened.images()} == cids
    assert opened.verify() == len(opened.listing())
    before = opened.listing().keys()
    removed = opened.gc(grace=0).removed
    assert all(opened.verify(cid) for cid in cids)
    assert len(before) - len(removed) == len(opened.listing())
    theirs = processfork.PfStore.open(opened.path)
    for cid in cids:
        original.checkout(tmp_path / store, cid, tmp_path / cid[7:])
        assert processfork.read_manifest(theirs, cid)["schema_version"] == 1


def test_the_original_opens_a_store_of_ours(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    ours = pfreg.Store(tmp_path / "ours")
    image = pfreg.snapshot(
        tmp_path / "tree",
        store=ours,
        agent_kind="test",
        messages=[{"role": "user", "content": "hi"}],
        env={"LANG": "C"},
    )
    child = pfreg.snapshot(tmp_path / "tree", store=ours, parents=[image])
    theirs = processfork.PfStore.open(str(tmp_path / "ours"))
    assert processfork.read_manifest(theirs, str(image.cid)) == json.loads(image.manifest.raw)
    assert processfork.read_manifest(theirs, str(child.cid))["parents"] == [str(image.cid)]
    for digest in closure(image.manifest, ours.content):
        assert processfork.read_blob(theirs, str(digest)) == ours.read(digest)
    assert theirs.physical_bytes() == sum(found.size for found in ours.listing().values())


def test_both_work_in_one_store(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    theirs = original.snapshot(tmp_path / "tree", tmp_path / "store")
    ours = pfreg.snapshot(tmp_path / "tree", store=tmp_path / "store", parents=[theirs])
    (tmp_path / "tree" / "file").write_text("changed")
    again = original.snapshot(tmp_path / "tree", tmp_path / "store", parents=[str(ours.cid)])
    store = pfreg.Store(tmp_path / "store")
    assert {str(manifest.cid) for manifest in store.images()} == {theirs, str(ours.cid), again}
    assert store.verify() == len(store.listing())
    pfreg.push(again, tmp_path / "root", store=store, history="all")
    assert pfreg.verify(tmp_path / "root", history="all").images == 3
