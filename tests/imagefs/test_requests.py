"""Only what is needed travels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.fstree import Entry, Tree
from pfreg.layout import blob_path
from tests.imagefs.conftest import LARGE
from tests.imagefs.counting import CountingFileSystem
from tests.servers.fault_proxy import FaultProxy

KIBIBYTE = b"one of ten thousand\n" * 51 + b"end\n"


@pytest.fixture
def many(tmp_path: Path, store: pfreg.Store) -> pfreg.Manifest:
    """An image of 10,000 files, of which the store has only one."""
    names = [f"{folder:02}/{name:02}" for folder in range(100) for name in range(100)]
    entries = [Entry(name, "file", 0o644, len(KIBIBYTE), pfreg.Digest.of(name.encode())) for name in names]
    entries[4217] = replace(entries[4217], blob=store.put(KIBIBYTE))
    tree = store.put(Tree.of(entries).to_bytes())
    (tmp_path / "empty").mkdir()
    small = store.manifest(pfreg.snapshot(tmp_path / "empty", store=store).cid)
    return pfreg.Manifest.build(replace(small.layers, world_fs=tree), agent=small.agent)


@pytest.fixture
def proxy(s3: dict[str, Any]) -> Iterator[FaultProxy]:
    """What stands before S3, and counts."""
    before = FaultProxy(s3["endpoint_url"])
    yield before
    before.stop()


@pytest.mark.parametrize("library", ["obstore", "s3fs"])
def test_one_file_of_ten_thousand_on_s3(
    many: pfreg.Manifest, store: pfreg.Store, s3: dict[str, Any], proxy: FaultProxy, library: str
) -> None:
    import s3fs

    signature = pfreg.HmacSigner().sign(many.raw)
    stored = {digest: Path(store.path_of(digest)) for digest in (many.layers.world_fs, pfreg.Digest.of(KIBIBYTE))}
    remote = s3fs.S3FileSystem(**s3)
    for digest, path in stored.items():
        remote.put_file(str(path), f"images/many/{blob_path(digest)}")
    remote.pipe({"images/many/manifest.json": many.raw, "images/many/manifest.json.sig": signature})
    options = {**s3, "endpoint_url": f"http://{proxy.host}", "library": library}
    fs = pfreg.PfimgFileSystem(fo="s3://images/many", target_options=options, skip_instance_cache=True)
    with fs.open("world/fs/42/17") as stream:
        assert stream.read() == KIBIBYTE
    asked = [f"{seen.method} {seen.path.partition('?')[0]}" for seen in proxy.seen]
    names = ["manifest.json", "manifest.json.sig", *map(blob_path, stored)]
    assert sorted(asked) == sorted(f"GET /images/many/{name}" for name in names)  # four; five are promised
    assert proxy.passed == len(many.raw) + len(signature) + sum(path.stat().st_size for path in stored.values())
    proxy.seen.clear()
    assert len(fs.ls("world/fs/43")) == 100 and len(fs.find("world/fs")) == 10_000 and fs.du("world/fs") > 0
    assert fs.cat_file("world/fs/42/17") == KIBIBYTE
    assert proxy.seen == []


@pytest.fixture
def counted(snapshot: pfreg.Snapshotted, store: pfreg.Store) -> list[tuple[str, str]]:
    pfreg.push(snapshot, "counting://images/a", store=store)
    CountingFileSystem.asked.clear()
    return CountingFileSystem.asked


def opened() -> pfreg.PfimgFileSystem:
    return pfreg.PfimgFileSystem(fo="counting://images/a", skip_instance_cache=True)


def names(asked: list[tuple[str, str]]) -> list[str]:
    return [path.rpartition("/")[2].removesuffix(".zst") for verb, path in asked if verb == "open"]


def test_nothing_is_read_before_it_is_asked_for(counted: list[tuple[str, str]]) -> None:
    fs = opened()
    assert counted == []
    fs.ls("")
    assert names(counted) == ["manifest.json", "manifest.json.sig"]
    fs.cat_file("manifest.json")
    fs.ls("world")
    assert len(names(counted)) == 2
    fs.ls("world/fs")
    assert names(counted)[2:] == [fs.image.manifest.layers.world_fs.hex]


def test_nothing_is_read_twice(counted: list[tuple[str, str]]) -> None:
    fs = opened()
    for _ in range(3):
        fs.cat_file("world/fs/data/a.csv")
        fs.cat_file("world/fs/large.bin", 5, 9)
        fs.info("trace/messages.jsonl")
        fs.cat(["world/fs/run.sh", "world/fs/data/deep/b.csv"])
        with fs.open("world/fs/large.bin") as stream:
            assert stream.read(4) == LARGE[:4]
    read = names(counted)
    assert len(read) == len(set(read)) == 7


def test_a_folder_that_is_kept_serves_the_next_process(counted: list[tuple[str, str]], tmp_path: Path) -> None:
    for turn in range(2):
        fs = pfreg.PfimgFileSystem(fo="counting://images/a", cache=tmp_path / "cache", skip_instance_cache=True)
        assert fs.cat_file("world/fs/large.bin") == LARGE
        large = pfreg.Digest.parse(fs.checksum("world/fs/large.bin")).hex
        assert names(counted).count(large) == 1, turn


def test_a_store_as_cache_spares_the_pull(counted: list[tuple[str, str]], tmp_path: Path) -> None:
    cache = pfreg.Store(tmp_path / "cache")
    fs = pfreg.PfimgFileSystem(fo="counting://images/a", store=cache.path, skip_instance_cache=True)
    assert fs.cat_file("world/fs/large.bin") == LARGE
    fs.cat_file("world/fs/data/a.csv")
    layers = fs.image.manifest.layers
    kept = {layers.world_fs, *map(pfreg.Digest.parse, map(fs.checksum, ["world/fs/large.bin", "world/fs/data/a.csv"]))}
    assert set(cache.present(kept)) == kept
    counted.clear()
    assert pfreg.pull("counting://images/a", store=cache).cid == fs.image.manifest.cid
    assert not {digest.hex for digest in kept} & set(names(counted))
    again = pfreg.PfimgFileSystem(fo="counting://images/a", store=cache.path, skip_instance_cache=True)
    counted.clear()
    assert again.cat_file("world/fs/large.bin") == LARGE
    assert names(counted) == ["manifest.json", "manifest.json.sig"]
