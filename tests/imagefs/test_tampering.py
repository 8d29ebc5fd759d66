"""Whatever is altered in an image, not a byte of it is handed out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import pfreg
from pfreg import codec
from tests.imagefs.conftest import CSV

PfimgFileSystem = pfreg.PfimgFileSystem
WRONG = (pfreg.IntegrityError, pfreg.SignatureError)


def blob(root: Path, digest: str | pfreg.Digest) -> Path:
    name = pfreg.Digest.parse(digest).hex
    return root / "blobs" / "sha256" / name[:2] / f"{name}.zst"


def other_content(path: Path) -> None:
    plain = codec.content(path.read_bytes(), limit=1 << 30)
    path.write_bytes(codec.compress(bytes([plain[0] ^ 1]) + plain[1:]))


def flipped_bit(path: Path) -> None:
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def longer(path: Path) -> None:
    path.write_bytes(codec.compress(codec.content(path.read_bytes(), limit=1 << 30) + b"more"))


def garbage_behind(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"garbage")


DAMAGES = [other_content, flipped_bit, truncated, longer, garbage_behind]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("path", ["world/fs/data/a.csv", "world/fs/large.bin", "trace/messages.jsonl"])
def test_a_blob(fs: PfimgFileSystem, root: Path, path: str, damage: Callable[[Path], None]) -> None:
    damage(blob(root, fs.checksum(path)))
    for call in (fs.open, fs.cat_file, lambda p: fs.cat([p, "world/fs/run.sh"]), lambda p: fs.cat_file(p, 0, 1)):
        with pytest.raises(pfreg.IntegrityError, match="sha256:"):
            call(path)
    assert fs.cat_file("world/fs/run.sh") == b"#!/bin/sh\n"


def test_damage_leaves_nothing_in_the_cache(root: Path, tmp_path: Path) -> None:
    fs = PfimgFileSystem(fo=str(root), cache=tmp_path / "cache", skip_instance_cache=True)
    other_content(blob(root, fs.checksum("world/fs/large.bin")))
    for _ in range(2):
        with pytest.raises(pfreg.IntegrityError):
            fs.open("world/fs/large.bin")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_tree(fs: PfimgFileSystem, root: Path, damage: Callable[[Path], None]) -> None:
    damage(blob(root, fs.image.manifest.layers.world_fs))
    for call in (fs.ls, fs.info, fs.find, fs.open, fs.cat_file, fs.exists, fs.isfile, fs.isdir):
        with pytest.raises(pfreg.IntegrityError):
            call("world/fs/data/a.csv")
    with pytest.raises(pfreg.IntegrityError):
        fs.glob("**/*.csv")


def test_a_missing_blob(fs: PfimgFileSystem, root: Path) -> None:
    blob(root, fs.checksum("world/fs/data/a.csv")).unlink()
    with pytest.raises(pfreg.BlobNotFound):
        fs.open("world/fs/data/a.csv")


def test_a_missing_tree_is_no_empty_folder(fs: PfimgFileSystem, root: Path) -> None:
    blob(root, fs.image.manifest.layers.world_fs).unlink()
    for call in (fs.exists, fs.isdir, fs.find, fs.glob, fs.du, lambda path: list(fs.walk(path))):
        with pytest.raises(pfreg.BlobNotFound):
            call("world/fs")
    for call in (fs.find, fs.du, lambda path: list(fs.walk(path))):
        with pytest.raises(pfreg.BlobNotFound):
            call("")
    assert fs.find("world/none") == [] and fs.glob("trace/*.csv") == []


def test_the_manifest(fs: PfimgFileSystem, root: Path) -> None:
    manifest = root / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"test"', b'"evil"'))
    for call in (fs.ls, fs.open, fs.cat_file, fs.info):
        with pytest.raises(WRONG):
            call("manifest.json")
    with pytest.raises(WRONG):
        PfimgFileSystem(fo=str(root), verify=False, skip_instance_cache=True).cat_file("manifest.json")


def test_the_signature(fs: PfimgFileSystem, root: Path) -> None:
    signature = json.loads((root / "manifest.json.sig").read_bytes())
    signature["signature"] = "0" * 64
    (root / "manifest.json.sig").write_text(json.dumps(signature))
    with pytest.raises(pfreg.SignatureError):
        fs.cat_file("world/fs/data/a.csv")
    (root / "manifest.json.sig").unlink()
    with pytest.raises(pfreg.SignatureError, match="missing"):
        fs.cat_file("world/fs/data/a.csv")


def test_an_image_in_a_store(snapshot: pfreg.Snapshotted, store: pfreg.Store) -> None:
    path = Path(store.path) / "images" / f"{snapshot.cid.hex}.json"
    fs = PfimgFileSystem(fo=str(path), skip_instance_cache=True)
    assert fs.cat_file("world/fs/data/a.csv") == CSV.encode()
    path.write_bytes(path.read_bytes().replace(b'"test"', b'"evil"'))
    fs.invalidate_cache()
    with pytest.raises(pfreg.IntegrityError, match="digest"):
        fs.ls("")
    with pytest.raises(pfreg.IntegrityError, match="no signatures"):
        PfimgFileSystem(fo=str(path), require_signature=True, skip_instance_cache=True).ls("")


def test_a_tree_that_leads_out(store: pfreg.Store, tmp_path: Path) -> None:
    digest = store.put(b"x")
    entry = {"path": "../manifest.json", "mode": "0644", "size": 1, "kind": "file", "blob": str(digest)}
    tree = store.put(json.dumps({"kind": "fs.tree.v1", "entries": [entry]}).encode())
    (tmp_path / "empty").mkdir()
    good = store.manifest(pfreg.snapshot(tmp_path / "empty", store=store).cid)
    raw = good.raw.replace(str(good.layers.world_fs).encode(), str(tree).encode())
    store.record(pfreg.Manifest.from_bytes(raw))
    fs = pfreg.open_image(pfreg.Digest.of(raw), store=store).fs
    with pytest.raises(pfreg.TreeError):
        fs.ls("world/fs")
