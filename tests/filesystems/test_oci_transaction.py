"""Writing: one transaction is one manifest, and costs no more requests than it must. On a real registry."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from pathlib import Path

import fsspec
import pytest
from fsspec.asyn import sync

from pfreg.errors import (
    BadOption,
    BadReference,
    BlobNotFound,
    ImageNotFound,
    IntegrityError,
    LimitExceeded,
    ManifestError,
    UnsupportedRegistry,
)
from pfreg.filesystems import oci_manifest, oci_transaction
from pfreg.filesystems.oci import OciFileSystem
from pfreg.filesystems.oci_manifest import INDEX, MANIFEST
from tests.filesystems.conftest import Faulty, write
from tests.servers.fault_proxy import Answer, FaultProxy, Seen
from tests.servers.oci_registry import DockerRegistry

FILES = {
    "blobs/a.zst": b"one",
    "blobs/b/c.zst": b"two" * 1000,
    "manifest.json": b"{}",
    "manifest.json.sig": b"sig",
    "0": b"",
}


@pytest.fixture
def root(oci_registry: DockerRegistry, repository: str) -> str:
    return f"{oci_registry.host}/{repository}:v1"


def test_what_is_written_is_read(root: str) -> None:
    digest = write(OciFileSystem(), root, FILES)
    fs = OciFileSystem()
    assert {path: info["size"] for path, info in fs.find(root, detail=True).items()} == {
        f"{root}/{path}": len(data) for path, data in FILES.items()
    }
    assert {path: fs.cat_file(f"{root}/{path}") for path in FILES} == FILES
    assert fs.info(root)["digest"] == digest
    pinned = f"{root.removesuffix(':v1')}@{digest}"
    assert fs.cat_file(f"{pinned}/blobs/a.zst") == b"one"
    assert fs.cat_file(f"{root}@{digest}/blobs/a.zst") == b"one"


def test_the_tree_has_folders(root: str) -> None:
    write(OciFileSystem(), root, FILES)
    fs = OciFileSystem()
    assert fs.ls(f"{root}/blobs", detail=False) == [f"{root}/blobs/a.zst", f"{root}/blobs/b"]
    assert fs.isdir(f"{root}/blobs/b")
    assert fs.isfile(f"{root}/0")
    assert not fs.exists(f"{root}/blobs/c")
    assert fs.find(f"{root}/blobs/b") == [f"{root}/blobs/b/c.zst"]
    assert fs.find(f"{root}/bl") == []
    assert fs.find(root, maxdepth=1) == [f"{root}/0", f"{root}/manifest.json", f"{root}/manifest.json.sig"]
    assert sorted(fs.glob(f"{root}/blobs/*")) == [f"{root}/blobs/a.zst", f"{root}/blobs/b"]
    assert fs.ls(root.removesuffix(":v1"), detail=False) == [root]
    with pytest.raises(IsADirectoryError):
        fs.cat_file(f"{root}/blobs")


@pytest.mark.parametrize(
    ("start", "end"), [(0, 3), (2, None), (-3, None), (None, -2), (5, 3), (2990, 9999), (3000, None)]
)
def test_a_range_is_what_a_slice_is(start: int | None, end: int | None, root: str) -> None:
    data = os.urandom(3000)
    write(OciFileSystem(), root, {"x": data})
    assert OciFileSystem().cat_file(f"{root}/x", start=start, end=end) == data[start:end]


def test_large_files_go_both_ways_and_open_in_pieces(root: str, tmp_path: Path) -> None:
    data = os.urandom(9 << 20)
    (tmp_path / "big").write_bytes(data)
    fs = OciFileSystem()
    with fs.transaction:
        fs.put_file(str(tmp_path / "big"), f"{root}/big")
    fs.get_file(f"{root}/big", str(tmp_path / "sub" / "back"))
    assert (tmp_path / "sub" / "back").read_bytes() == data
    assert os.listdir(tmp_path / "sub") == ["back"]
    with fs.open(f"{root}/big") as file:
        assert file.seek(5 << 20) == 5 << 20
        assert file.read(10) == data[5 << 20 :][:10]
        assert file.seek(0) == 0
        assert file.read() == data


def test_chunks_where_they_are_asked_for(
    root: str, tmp_path: Path, oci_registry: DockerRegistry, faulty: Faulty
) -> None:
    data = os.urandom((4 << 20) + 5)
    (tmp_path / "big").write_bytes(data)
    proxy = faulty(oci_registry.host, lambda seen: None)
    root = root.replace(oci_registry.host, proxy.host)
    fs = OciFileSystem(chunk_bytes=1 << 20)
    with fs.transaction:
        fs.put_file(str(tmp_path / "big"), f"{root}/big")
    assert len(proxy.requests("PATCH")) == 5
    assert OciFileSystem().cat_file(f"{root}/big") == data


def test_a_registry_that_refuses_large_bodies_gets_chunks(
    root: str, oci_registry: DockerRegistry, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfreg.filesystems.oci_transfer._CHUNKED", 1 << 20)

    def refuse(seen: Seen) -> Answer | None:
        return Answer(413) if int(seen.headers.get("Content-Length", 0)) > 1 << 20 else None

    proxy = faulty(oci_registry.host, refuse)
    root = root.replace(oci_registry.host, proxy.host)
    data = os.urandom(3 << 20)
    write(OciFileSystem(), root, {"big": data})
    assert len(proxy.requests("PATCH")) == 3
    assert OciFileSystem().cat_file(f"{root}/big") == data


def test_an_exception_publishes_nothing(root: str) -> None:
    fs = OciFileSystem()
    with pytest.raises(ZeroDivisionError), fs.transaction:
        fs.pipe_file(f"{root}/a", b"1")
        raise ZeroDivisionError
    assert fs.committed is None
    assert not OciFileSystem().exists(root)
    write(fs, root, {"b": b"2"})
    assert OciFileSystem().find(root) == [f"{root}/b"]


def test_a_commit_replaces(root: str) -> None:
    fs = OciFileSystem()
    write(fs, root, {"a": b"1"})
    write(fs, root, {"b": b"2"})
    assert fs.find(root) == OciFileSystem().find(root) == [f"{root}/b"]


def test_an_empty_transaction_changes_nothing(root: str) -> None:
    fs = OciFileSystem()
    first = write(fs, root, {"a": b"1"})
    with fs.transaction:
        pass
    assert fs.committed is None
    assert OciFileSystem().info(root)["digest"] == first


def test_nested_transactions_are_refused(root: str) -> None:
    fs = OciFileSystem()
    with fs.transaction:
        fs.pipe_file(f"{root}/a", b"1")
        with pytest.raises(UnsupportedRegistry), fs.transaction:
            pass
        with pytest.raises(UnsupportedRegistry):
            fs.start_transaction()
        fs.pipe_file(f"{root}/b", b"2")
    assert OciFileSystem().find(root) == [f"{root}/a", f"{root}/b"]


def test_without_with(root: str) -> None:
    fs = OciFileSystem()
    fs.start_transaction()
    fs.pipe_file(f"{root}/a", b"1")
    fs.end_transaction()
    assert OciFileSystem().cat_file(f"{root}/a") == b"1"


def test_on_an_event_loop(root: str) -> None:
    async def go() -> bytes:
        fs = OciFileSystem(asynchronous=True)
        async with fs.transaction:
            await fs._pipe_file(f"{root}/a", b"1")
        fs.refresh()
        data: bytes = await fs._cat_file(f"{root}/a")
        return data

    assert asyncio.run(go()) == b"1"


def test_what_cannot_be_written(root: str, tmp_path: Path) -> None:
    fs = OciFileSystem()
    with pytest.raises(UnsupportedRegistry):
        fs.pipe_file(f"{root}/a", b"1")
    with pytest.raises(UnsupportedRegistry):
        fs.open(f"{root}/a", "wb")
    with pytest.raises(UnsupportedRegistry), fs.transaction:
        fs.pipe_file(f"{root}/a", b"1")
        fs.pipe_file(f"{root}2/a", b"1")
    with pytest.raises(BadReference), fs.transaction:
        fs.pipe_file(f"{root.removesuffix(':v1')}@sha256:{'ab' * 32}/a", b"1")
    with pytest.raises(BadReference), fs.transaction:
        fs.pipe_file(root, b"1")
    with pytest.raises(FileNotFoundError), fs.transaction:
        fs.put_file(str(tmp_path / "absent"), f"{root}/a")
    assert not OciFileSystem().exists(root)


def test_a_new_blob_is_two_requests_and_a_known_one_none(
    root: str, oci_registry: DockerRegistry, faulty: Faulty
) -> None:
    proxy = faulty(oci_registry.host, lambda seen: None)
    root = root.replace(oci_registry.host, proxy.host)
    files = {f"blobs/{i}": b"%d" % i * 100 for i in range(20)} | {"manifest.json": b"{}"}
    fs = OciFileSystem()

    async def put_all(some: dict[str, bytes]) -> None:
        await asyncio.gather(*[fs._pipe_file(f"{root}/{path}", data) for path, data in some.items()])

    with fs.transaction:
        sync(fs.loop, put_all, files)
    posts, puts = proxy.requests("POST"), proxy.requests("PUT", "/blobs/")
    assert len(posts) == len(puts) == len(files)
    assert len(proxy.seen) == 2 * len(files) + 2  # and one GET of the manifest that was not there, one PUT of it

    proxy.seen.clear()
    fs = OciFileSystem()
    with fs.transaction:
        sync(fs.loop, put_all, files)
    assert [str(seen).split("?")[0] for seen in proxy.seen] == [
        f"GET /v2/{root.partition('/')[2].removesuffix(':v1')}/manifests/v1",
        f"PUT /v2/{root.partition('/')[2].removesuffix(':v1')}/manifests/v1",
    ]


def test_a_push_that_was_interrupted_sends_only_what_is_missing(
    root: str, oci_registry: DockerRegistry, faulty: Faulty
) -> None:
    fs = OciFileSystem()
    with pytest.raises(ZeroDivisionError), fs.transaction:
        fs.pipe_file(f"{root}/a", b"1" * 100)
        raise ZeroDivisionError
    proxy = faulty(oci_registry.host, lambda seen: None)
    write(
        OciFileSystem(),
        root.replace(oci_registry.host, proxy.host),
        {"a": b"1" * 100, "b": b"2" * 100, "manifest.json": b"{}"},
    )
    assert len(proxy.requests("PUT", "/blobs/")) == 2
    assert len(proxy.requests("HEAD")) == 1


def test_keep_names_files_without_reading_or_sending(root: str, oci_registry: DockerRegistry, faulty: Faulty) -> None:
    write(OciFileSystem(), root, FILES)
    proxy = faulty(oci_registry.host, lambda seen: None)
    root = root.replace(oci_registry.host, proxy.host)
    fs = OciFileSystem()
    fs.find(root)
    with fs.transaction:
        fs.keep([f"{root}/blobs/a.zst", f"{root}/manifest.json"])
        fs.pipe_file(f"{root}/new", b"new")
    assert len(proxy.requests("GET")) == 1
    assert len(proxy.requests("POST")) == 1
    assert sorted(OciFileSystem().find(root)) == [f"{root}/blobs/a.zst", f"{root}/manifest.json", f"{root}/new"]
    with pytest.raises(BlobNotFound), fs.transaction:
        fs.keep([f"{root}/absent"])


def test_inside_a_transaction_its_target_is_seen_as_it_is_now(root: str) -> None:
    """So that a writer can look whether somebody published since it began."""
    fs = OciFileSystem()
    write(OciFileSystem(), root, {"a": b"1", "b": b"1"})
    assert fs.cat_file(f"{root}/a") == b"1"
    with fs.transaction:
        fs.pipe_file(f"{root}/c", b"3")
        write(OciFileSystem(), root, {"a": b"2", "b": b"1"})
        assert fs.cat_file(f"{root}/a") == b"2"
        fs.keep([f"{root}/a"])  # what it saw when it began
    assert OciFileSystem().cat_file(f"{root}/a") == b"1"


def test_copy_moves_no_blob(root: str, oci_registry: DockerRegistry, faulty: Faulty) -> None:
    digest = write(OciFileSystem(), root, FILES)
    proxy = faulty(oci_registry.host, lambda seen: None)
    root = root.replace(oci_registry.host, proxy.host)
    fs = OciFileSystem()
    fs.copy(root, root.replace(":v1", ":v2"))
    assert proxy.requests(containing="/blobs/") == []
    assert fs.tags(root) == ["v1", "v2"]
    assert OciFileSystem().info(root.replace(":v1", ":v2"))["digest"] == digest
    with pytest.raises(UnsupportedRegistry):
        fs.copy(root, root.replace(":v1", "-other:v1"))


def test_copying_a_file_between_repositories_mounts_it(root: str, oci_registry: DockerRegistry, faulty: Faulty) -> None:
    write(OciFileSystem(), root, FILES)
    proxy = faulty(oci_registry.host, lambda seen: None)
    root = root.replace(oci_registry.host, proxy.host)
    other = root.replace(":v1", "/other:v1")
    fs = OciFileSystem()
    with fs.transaction:
        fs.cp_file(f"{root}/blobs/b/c.zst", f"{other}/x")
        fs.pipe_file(f"{other}/manifest.json", b"{}")
    assert len(proxy.requests("PUT", "/blobs/")) == 1
    assert OciFileSystem().cat_file(f"{other}/x") == FILES["blobs/b/c.zst"]


def test_delete_takes_one_tag_or_says_why_not(root: str) -> None:
    fs = OciFileSystem()
    digest = write(fs, root, FILES)
    fs.copy(root, root.replace(":v1", ":v2"))
    with pytest.raises(UnsupportedRegistry, match="v1"):
        fs.rm(root.replace(":v1", ":v2"))
    assert fs.tags(root) == ["v1", "v2"]
    fs.rm(f"{root.removesuffix(':v1')}@{digest}")
    assert fs.tags(root) == []
    write(fs, root, FILES)
    fs.rm(root, recursive=True)
    assert not fs.exists(root)
    with pytest.raises(ImageNotFound):
        fs.rm(root)
    write(fs, root, FILES)
    with pytest.raises(UnsupportedRegistry):
        fs.rm(f"{root}/0")


def test_a_missing_artifact_is_missing(root: str) -> None:
    fs = OciFileSystem()
    assert not fs.exists(root)
    for ask in (fs.find, fs.ls, fs.info, fs.tags):
        with pytest.raises(FileNotFoundError):
            ask(root)


def test_a_tag_and_a_digest_that_disagree(root: str) -> None:
    fs = OciFileSystem()
    first = write(fs, root, {"a": b"1"})
    write(fs, root, {"a": b"2"})
    with pytest.raises(IntegrityError):
        OciFileSystem().find(f"{root}@{first}")
    assert OciFileSystem().cat_file(f"{root.removesuffix(':v1')}@{first}/a") == b"1"


def test_a_container_image_is_not_overwritten(root: str, oci_registry: DockerRegistry) -> None:
    async def put_image(fs: OciFileSystem) -> None:
        from pfreg.filesystems.oci_client import Request

        host, _, rest = root.partition("/")
        client = fs._client(host)
        empty = {
            "mediaType": "x/y",
            "size": 2,
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        }
        raw = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": []}).encode()
        url = client.url(rest.removesuffix(":v1"), "manifests/v1")
        request = Request("PUT", url, "test", root, (), (201,), {"Content-Type": MANIFEST}, lambda: raw)
        (await client.send(request)).release()

    fs = OciFileSystem()
    write(fs, root.replace(":v1", ":other"), {"a": b"1"})  # brings the empty config
    sync(fs.loop, put_image, fs)
    with pytest.raises(ManifestError, match="container image"):
        write(OciFileSystem(), root, {"a": b"1"})


def test_shards_are_read_back_transparently(root: str, oci_registry: DockerRegistry, faulty: Faulty) -> None:
    files = {f"blobs/{i:03}.zst": b"%d" % i for i in range(25)} | {"manifest.json": b"{}", "manifest.json.sig": b"s"}
    proxy = faulty(oci_registry.host, lambda seen: None)
    root = root.replace(oci_registry.host, proxy.host)
    write(OciFileSystem(oci_shard=10), root, files)
    assert len(proxy.requests("PUT", "/manifests/")) == 4  # 26 layers in 3 shards, and the index
    assert [s.headers["Content-Type"] for s in proxy.requests("PUT", "/manifests/")] == [MANIFEST] * 3 + [INDEX]
    fs = OciFileSystem()
    assert {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)} == files
    proxy.seen.clear()
    again = OciFileSystem(oci_shard=10)
    write(again, root, files)
    assert proxy.requests(containing="/blobs/") == []


def test_few_files_need_no_shards(root: str) -> None:
    fs = OciFileSystem(oci_shard=10)
    with_option, without = write(fs, root, FILES), write(OciFileSystem(), root, FILES)
    assert with_option == without


def test_too_many_files_are_refused_before_anything_is_sent(
    root: str, oci_registry: DockerRegistry, faulty: Faulty
) -> None:
    proxy = faulty(oci_registry.host, lambda seen: None)
    root = root.replace(oci_registry.host, proxy.host)
    paths = [f"{root}/blobs/sha256/{i % 256:02x}/{i:064x}.zst" for i in range(16_000)]
    fs = OciFileSystem()
    with pytest.raises(LimitExceeded, match="oci_shard"), fs.transaction:
        fs.announce(paths)
    assert proxy.seen == []
    fs = OciFileSystem(oci_shard=400)
    with fs.transaction:
        fs.announce(paths)


def test_the_manifest_is_bounded_while_it_grows(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_transaction, "MAX_MANIFEST", oci_transaction._MANIFEST_OVERHEAD + 500)
    fs = OciFileSystem()
    with pytest.raises(LimitExceeded), fs.transaction:
        for i in range(3):
            fs.pipe_file(f"{root}/{i}", b"%d" % i)
    assert not OciFileSystem().exists(root)


def test_a_manifest_of_the_largest_size_is_taken(root: str) -> None:
    """The limit is the registry's own, not a guess: one layer less than too many goes through."""
    shortest = oci_manifest.layer_length("0" * 6, 1)
    count = (oci_manifest.MAX_MANIFEST - oci_transaction._MANIFEST_OVERHEAD) // shortest
    fs = OciFileSystem()
    write(fs, root, {"000000": b"1"})
    blob = fs._artifacts[next(iter(fs._artifacts))].files["000000"]
    with fs.transaction:
        for i in range(count):
            fs._stage(fs._writable(f"{root}/x")[0], f"{i:06}", oci_transaction.Staged(blob))
    assert len(OciFileSystem().find(root)) == count


def test_options_of_no_meaning() -> None:
    for options in (
        {"pasword": "x"},
        {"username": "x"},
        {"username": "x", "password": "y", "bearer": "z"},
        {"oci_shard": -1},
    ):
        with pytest.raises(BadOption):
            OciFileSystem(**options)  # type: ignore[arg-type]


def test_instances_travel_and_hide_their_secrets(root: str) -> None:
    write(OciFileSystem(), root, FILES)
    fs = pickle.loads(pickle.dumps(OciFileSystem(deadline=3)))
    assert fs.cat_file(f"{root}/blobs/a.zst") == b"one"
    secret = OciFileSystem(username="alice", password="hunter2")
    bearer = OciFileSystem(bearer="hunter2")
    assert "hunter2" not in repr(secret) + repr(secret._settings) + repr(bearer._settings)
    assert "hunter2" not in secret.to_json(include_password=False) + bearer.to_json(include_password=False)


def test_fsspec_finds_it_by_its_protocol(root: str) -> None:
    write(OciFileSystem(), root, FILES)
    fsspec.register_implementation("ocireg", OciFileSystem, clobber=True)
    with fsspec.open(f"ocireg://{root}/blobs/a.zst") as file:
        assert file.read() == b"one"


def test_two_instances_share_nothing() -> None:
    assert OciFileSystem() is not OciFileSystem()


def test_a_proxy_is_a_registry_too(faulty: Faulty, oci_registry: DockerRegistry) -> None:
    """The tests above count on it: an empty rule changes nothing."""
    proxy: FaultProxy = faulty(oci_registry.host, lambda seen: None)
    with pytest.raises(ImageNotFound):
        OciFileSystem().find(f"{proxy.host}/absent:v1")
