"""Buckets: an ordinary filesystem, and images on it, published by write order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.filesystems.hf_bucket import HfBucketFileSystem
from tests.conftest import make_tree
from tests.servers.hf_hub import Hub

ROOT = "buckets/alice/store"
LARGE = os.urandom(1_500_000)
FILES = {"a.json": b"{}", "deep/er/b.zst": LARGE, "deep/c": b"c", "deeper/d": b"d"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub; buckets know nothing but Xet."""
    pytest.importorskip("hf_xet", reason="pip install hf_xet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with Hub(tmp_path / "hub") as hub:
        hub.add_user("alice")
        hub.add_user("bob")
        yield hub


def connect(hub: Hub, user: str | None = "alice", **options: Any) -> HfBucketFileSystem:
    return HfBucketFileSystem(endpoint=hub.url, token=f"hf_{user}" if user else False, **options)


@pytest.fixture
def filled(hub: Hub) -> Hub:
    connect(hub).pipe({f"{ROOT}/{path}": data for path, data in FILES.items()})
    return hub


def test_what_is_written_is_read(filled: Hub, tmp_path: Path) -> None:
    fs = connect(filled)
    assert filled.buckets["alice/store"].private
    assert {name: entry["size"] for name, entry in fs.find(ROOT, detail=True, on_error="raise").items()} == {
        f"{ROOT}/{path}": len(data) for path, data in FILES.items()
    }
    assert fs.find(f"{ROOT}/deep") == [f"{ROOT}/deep/c", f"{ROOT}/deep/er/b.zst"]
    assert fs.find(f"{ROOT}/nothing") == []
    assert fs.ls(f"{ROOT}/deep", detail=False) == [f"{ROOT}/deep/c", f"{ROOT}/deep/er"]
    for path, data in FILES.items():
        assert fs.cat_file(f"{ROOT}/{path}") == data
        fs.get_file(f"{ROOT}/{path}", str(tmp_path / "out" / path))
        assert (tmp_path / "out" / path).read_bytes() == data
    assert fs.cat_file(f"{ROOT}/deep/er/b.zst", 10, -10) == LARGE[10:-10]
    with fs.open(f"{ROOT}/deep/er/b.zst") as file:
        assert file.read(2_000_000) == LARGE


def test_writing_copying_removing(filled: Hub, tmp_path: Path) -> None:
    fs = connect(filled)
    (tmp_path / "local").write_bytes(b"local")
    fs.put_file(str(tmp_path / "local"), f"{ROOT}/put")
    with fs.open(f"{ROOT}/opened", "wb") as out:
        out.write(b"opened")
    with pytest.raises(ZeroDivisionError), fs.open(f"{ROOT}/failed", "wb") as out:
        raise ZeroDivisionError
    fs.cp_file(f"{ROOT}/deep/er/b.zst", f"{ROOT}/copy.zst")
    fs.rm(f"{ROOT}/deep", recursive=True)
    assert fs.cat_file(f"{ROOT}/copy.zst") == LARGE
    assert fs.find(ROOT) == [f"{ROOT}/{name}" for name in ("a.json", "copy.zst", "deeper/d", "opened", "put")]
    with pytest.raises(pfreg.TargetExists):
        fs.pipe_file(f"{ROOT}/put", b"again", mode="create")
    with pytest.raises(FileNotFoundError):
        fs.rm_file(f"{ROOT}/nothing")


def test_absent_is_absent_and_denied_is_denied(filled: Hub) -> None:
    fs = connect(filled)
    for action in (fs.info, fs.cat_file, fs.ls):
        with pytest.raises(FileNotFoundError):
            action(f"{ROOT}/nothing")
    with pytest.raises(FileNotFoundError):
        fs.find("buckets/alice/nothing")
    assert not fs.exists("buckets/alice/nothing/x")
    with pytest.raises(pfreg.AccessDenied):
        connect(filled, None).exists(f"{ROOT}/a.json")
    with pytest.raises(pfreg.AccessDenied):
        connect(filled, "bob").pipe_file("buckets/alice/new/a", b"a")
    for bad in ("alice/store", "buckets/alice", ""):
        with pytest.raises(pfreg.BadReference):
            fs.info(bad)


def test_an_image_in_a_bucket(hub: Hub, tmp_path: Path) -> None:
    store = pfreg.Store(tmp_path / "store")
    image = pfreg.snapshot(make_tree(tmp_path / "tree"), store=store)
    options = {"endpoint": hub.url, "token": "hf_alice"}
    url = "hf://buckets/alice/store/images/one"
    assert not pfreg.exists(url, storage_options=options)
    done = pfreg.push(image, url, store=store, storage_options=options)
    assert done.committed is None
    assert list(hub.buckets["alice/store"].files)[-1] == "images/one/manifest.json", "the manifest comes last"
    assert pfreg.verify(url, storage_options=options).cid == image.cid
    assert pfreg.push(image, url, store=store, storage_options=options).sent == 0
    assert pfreg.pull(url, store=pfreg.Store(tmp_path / "other"), storage_options=options).cid == image.cid
