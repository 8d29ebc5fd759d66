"""What is in the tree, and every way to read it."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from tests.imagefs.conftest import CSV, LARGE

PfimgFileSystem = pfreg.PfimgFileSystem


def test_the_tree(fs: PfimgFileSystem, snapshot: pfreg.Snapshotted) -> None:
    assert fs.ls("", detail=False) == [
        "cache", "effects", "manifest.json", "manifest.json.sig", "model", "trace", "world",
    ]  # fmt: skip
    assert fs.ls("world", detail=False) == ["world/env.json", "world/fs", "world/procs.json"]
    assert fs.ls("model", detail=False) == ["model/base", "model/diff.json"]
    assert pfreg.Digest.of(fs.cat_file("manifest.json")) == snapshot.cid
    assert json.loads(fs.cat_file("manifest.json.sig"))["manifest_digest"] == snapshot.cid.hex
    assert json.loads(fs.cat_file("world/env.json"))["vars"] == {"LANG": "C"}
    assert json.loads(fs.cat_file("trace/messages.jsonl").splitlines()[0])["content"] == "hi"
    assert json.loads(fs.cat_file("effects/ledger.jsonl").splitlines()[1])["tool_id"] == "mail"
    for path in ("cache/manifest.json", "model/diff.json", "world/procs.json"):
        assert isinstance(json.loads(fs.cat_file(path)), dict)


def test_every_file_is_what_was_snapshotted(fs: PfimgFileSystem, folder: Path) -> None:
    found = fs.find("world/fs", detail=True)
    expected = {f"world/fs/{p.relative_to(folder).as_posix()}" for p in folder.rglob("*") if p.is_file()}
    links_out = {"world/fs/absolute"}  # which may exist here, and is not in the image
    assert set(found) == {p for p in expected - links_out if "/up/" not in p and "to folder/" not in p}
    for path, entry in found.items():
        content = (folder / path.removeprefix("world/fs/")).read_bytes()
        assert fs.cat_file(path) == content
        assert (entry["size"], fs.size(path)) == (len(content), len(content))
        assert fs.checksum(path) == fs.ukey(path) == entry["digest"] == str(pfreg.Digest.of(content))


def test_info(fs: PfimgFileSystem) -> None:
    assert fs.info("world/fs/run.sh")["mode"] == 0o750
    assert fs.info("world/fs/empty") == {"name": "world/fs/empty", "size": 0, "type": "directory", "mode": 0o755}
    assert fs.info("trace/messages.jsonl")["size"] == len(fs.cat_file("trace/messages.jsonl"))
    assert fs.isdir("world/fs/data") and fs.isfile("pfimg://world/fs/data/a.csv") and fs.isdir("")
    assert not fs.exists("world/fs/none") and not fs.exists("world/fs/data/a.csv/more")
    assert fs.ls("world/fs/empty") == []
    for call in (fs.info, fs.ls, fs.cat_file, fs.open, fs.created, fs.checksum):
        with pytest.raises(FileNotFoundError):
            call("world/fs/none")
    for call in (fs.open, fs.cat_file, fs.checksum):
        with pytest.raises(IsADirectoryError):
            call("world/fs/data")


def test_created_is_the_manifests_time(fs: PfimgFileSystem, snapshot: pfreg.Snapshotted) -> None:
    created = fs.created("world/fs/run.sh")
    assert fs.image.manifest.created_at.startswith(created.strftime("%Y-%m-%dT%H:%M:%S"))
    assert created.utcoffset() is not None and fs.modified("") == created


def test_glob_walk_du(fs: PfimgFileSystem) -> None:
    csvs = ["world/fs/data/a.csv", "world/fs/data/deep/b.csv"]
    assert fs.glob("**/*.csv") == fs.glob("world/fs/data/**/*.csv") == csvs
    assert fs.glob("world/fs/data/*.csv") == csvs[:1]
    assert fs.du("world/fs/data") == 2 * len(CSV)
    assert fs.du("") > fs.du("world/fs") == sum(fs.size(path) for path in fs.find("world/fs"))
    walked = {path: (folders, files) for path, folders, files in fs.walk("world/fs/data")}
    assert walked == {"world/fs/data": (["deep"], ["a.csv", "up"]), "world/fs/data/deep": ([], ["b.csv"])}


@pytest.mark.parametrize("path", ["world/fs/data/a.csv", "world/fs/large.bin", "world/fs/nothing.txt"])
@pytest.mark.parametrize(
    ("start", "end"), [(None, None), (0, 10), (5, None), (-7, None), (None, -3), (9, 4), (90, 10**9)]
)
def test_ranges(fs: PfimgFileSystem, folder: Path, path: str, start: int | None, end: int | None) -> None:
    content = (folder / path.removeprefix("world/fs/")).read_bytes()
    assert fs.cat_file(path, start=start, end=end) == content[start:end]


def test_cat_ranges_and_many_files(fs: PfimgFileSystem) -> None:
    paths = ["world/fs/large.bin", "world/fs/data/a.csv", "world/fs/large.bin"]
    assert fs.cat_ranges(paths, [0, 2, 1000], [5, 4, 1003]) == [LARGE[:5], CSV.encode()[2:4], LARGE[1000:1003]]
    assert fs.cat(["world/fs/data/a.csv", "world/fs/large.bin"]) == {
        "world/fs/data/a.csv": CSV.encode(), "world/fs/large.bin": LARGE,
    }  # fmt: skip
    assert fs.head("world/fs/large.bin", 3) == LARGE[:3] and fs.tail("world/fs/large.bin", 3) == LARGE[-3:]
    assert fs.read_block("world/fs/data/a.csv", 1, 10, delimiter=b"\n") == b"0,0\n1,1\n2,4\n"[:8]


@pytest.mark.parametrize("path", ["data/a.csv", "large.bin"])
def test_a_handle(fs: PfimgFileSystem, folder: Path, path: str) -> None:
    content = (folder / path).read_bytes()
    with fs.open(f"world/fs/{path}") as stream, io.BytesIO(content) as model:
        assert (stream.size, stream.readable(), stream.seekable(), stream.writable()) == (
            len(content),
            True,
            True,
            False,
        )
        for action, arguments in [
            ("readline", ()), ("read", (7,)), ("seek", (-20, 2)), ("read", ()), ("seek", (3,)), ("readline", (2,)),
            ("read1", (5,)), ("tell", ()), ("seek", (4, 1)), ("read", (0,)), ("seek", (10**9,)),
            ("read", ()), ("seek", (0,)), ("readlines", ()),
        ]:  # fmt: skip
            assert getattr(stream, action)(*arguments) == getattr(model, action)(*arguments), action
        buffer = bytearray(9)
        stream.seek(2)
        assert stream.readinto(buffer) == 9 and bytes(buffer) == content[2:11]
        with pytest.raises(io.UnsupportedOperation):
            stream.write(b"x")
    assert stream.closed
    with pytest.raises(ValueError, match="closed"):
        stream.read()


def test_text_lines_and_compression(fs: PfimgFileSystem) -> None:
    with fs.open("world/fs/data/a.csv", "r", newline="") as stream:
        assert list(stream) == CSV.splitlines(keepends=True)
    assert fs.read_text("world/fs/data/a.csv") == CSV
    with fs.open("world/fs/data/a.csv") as stream:
        assert [*stream] == CSV.encode().splitlines(keepends=True)


def test_an_open_file_can_be_pickled(fs: PfimgFileSystem) -> None:
    with fs.open("world/fs/large.bin") as stream:
        stream.seek(1000)
        with pickle.loads(pickle.dumps(stream)) as other:
            assert other.tell() == 1000 and other.read() == stream.read()
    assert pickle.loads(pickle.dumps(fs)).cat_file("world/fs/data/a.csv") == CSV.encode()


def test_an_open_file_is_not_mixed_with_another_image(
    fs: PfimgFileSystem, root: Path, store: pfreg.Store, another: Callable[[str], pfreg.Snapshotted]
) -> None:
    with fs.open("world/fs/data/a.csv") as stream:
        sent = pickle.dumps(stream)
        pfreg.push(another("new\n"), root, store=store)
        assert stream.read() == CSV.encode()
    with pytest.raises(pfreg.IntegrityError, match="another image"):
        pickle.loads(sent)


def test_invalidate_cache_sees_a_new_push(
    fs: PfimgFileSystem, root: Path, store: pfreg.Store, another: Callable[[str], pfreg.Snapshotted]
) -> None:
    assert fs.cat_file("world/fs/data/a.csv") == CSV.encode()
    pfreg.push(another("new\n"), root, store=store)
    assert fs.cat_file("world/fs/data/a.csv") == CSV.encode()
    fs.invalidate_cache()
    assert fs.cat_file("world/fs/data/a.csv") == b"new\n"


def test_get(fs: PfimgFileSystem, folder: Path, tmp_path: Path) -> None:
    fs.get("world/fs/", str(tmp_path / "out"), recursive=True)
    got = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert got == {"chain", "data", "data/a.csv", "data/deep", "data/deep/b.csv", "empty", "large.bin", "nothing.txt",
                   "run.sh", "to file"}  # fmt: skip
    assert (tmp_path / "out" / "large.bin").read_bytes() == LARGE


def test_blobs_by_name(fs: PfimgFileSystem, snapshot: pfreg.Snapshotted) -> None:
    digest = pfreg.Digest.parse(fs.checksum("world/fs/large.bin"))
    assert fs.cat_file(f"blobs/sha256/{digest.hex}") == LARGE
    listed = {path.rpartition("/")[2] for path in fs.ls("blobs/sha256", detail=False)}
    assert {digest.hex for _, digest in fs.image.manifest.layers} < listed
    assert fs.ls("blobs", detail=False) == ["blobs/sha256"] and fs.isdir("blobs")
    assert not any(path.startswith("blobs") for path in fs.find(""))
    assert not fs.exists(f"blobs/sha256/{'0' * 64}")


@pytest.mark.parametrize(
    "call",
    [
        lambda fs: fs.open("world/fs/new", "wb"), lambda fs: fs.open("world/fs/data/a.csv", "ab"),
        lambda fs: fs.open("world/fs/new", "xb"), lambda fs: fs.pipe("new", b"x"), lambda fs: fs.touch("new"),
        lambda fs: fs.rm("world/fs/data/a.csv"), lambda fs: fs.rm_file("world/fs/data/a.csv"),
        lambda fs: fs.mkdir("new"), lambda fs: fs.makedirs("a/b"), lambda fs: fs.rmdir("world/fs/empty"),
        lambda fs: fs.cp_file("world/fs/data/a.csv", "b"), lambda fs: fs.mv("world/fs/data/a.csv", "b"),
        lambda fs: fs.put_file(__file__, "b"), lambda fs: fs.put(__file__, "b"), lambda fs: fs.write_text("b", "x"),
    ],
)  # fmt: skip
def test_writing_is_refused(fs: PfimgFileSystem, call: Callable[[Any], Any]) -> None:
    with pytest.raises(pfreg.ReadOnlyImage, match="immutable"):
        call(fs)
