"""obstore's filesystem on its own, as fsspec's users know filesystems."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pfreg.filesystems.s3_obstore import ObstoreFileSystem
from tests.servers.seaweedfs import S3Server

DATA = bytes(range(256)) * 9000


@pytest.fixture
def fs(s3_server: S3Server) -> Any:
    return ObstoreFileSystem(**s3_server.options())


@pytest.fixture
def folder(s3_server: S3Server) -> str:
    return s3_server.new()


def test_files_and_folders(fs: Any, folder: str) -> None:
    fs.pipe({f"{folder}/a": b"1", f"{folder}/deep/b": b"22", f"{folder}/deep/er/c": b"", f"{folder}-beside/d": b"4"})
    assert sorted(fs.find(folder)) == [f"{folder}/a", f"{folder}/deep/b", f"{folder}/deep/er/c"]
    assert {entry["name"]: entry["type"] for entry in fs.ls(folder)} == {
        f"{folder}/a": "file",
        f"{folder}/deep": "directory",
    }
    assert fs.ls(f"{folder}/a", detail=False) == [f"{folder}/a"]
    assert fs.glob(f"s3://{folder}/deep/*") == [f"{folder}/deep/b", f"{folder}/deep/er"]
    assert fs.info(f"s3://{folder}/deep/b")["size"] == 2
    assert fs.exists(f"{folder}/a") and not fs.exists(f"{folder}/none")
    fs.rm_file(f"{folder}/a")
    fs.rm_file(f"{folder}/a")
    assert not fs.exists(f"{folder}/a")


def test_what_is_absent(fs: Any, folder: str, tmp_path: Path) -> None:
    for call in (
        lambda: fs.cat_file(f"{folder}/none"),
        lambda: fs.cat_file(f"{folder}/none", start=3, end=5),
        lambda: fs.info(f"{folder}/none"),
        lambda: fs.open(f"{folder}/none"),
        lambda: fs.get_file(f"{folder}/none", str(tmp_path / "none")),
        lambda: fs.cp_file(f"{folder}/none", f"{folder}/copy"),
        lambda: fs.ls(f"{folder}/none"),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    assert fs.find(f"{folder}/none") == []
    assert not (tmp_path / "none").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.sampled_from([0, 1, 10]),
    start=st.none() | st.integers(-12, 12),
    end=st.none() | st.integers(-12, 12),
)
def test_any_part_of_a_file_is_what_python_slices(
    fs: Any, folder: str, size: int, start: int | None, end: int | None
) -> None:
    fs.pipe_file(f"{folder}/{size}", DATA[:size])
    assert fs.cat_file(f"{folder}/{size}", start=start, end=end) == DATA[:size][start:end]


def test_an_open_file_is_read_by_ranges(fs: Any, folder: str) -> None:
    fs.pipe_file(f"{folder}/file", DATA)
    with fs.open(f"{folder}/file") as stream:
        assert stream.read(10) == DATA[:10]
        assert stream.seek(-5, os.SEEK_END) == len(DATA) - 5
        assert stream.read() == DATA[-5:]
        stream.seek(1_500_000)
        assert stream.read(7) == DATA[1_500_000:1_500_007]
    with pytest.raises(NotImplementedError):
        fs.open(f"{folder}/file", "wb")


@pytest.mark.parametrize("size", [0, 5, len(DATA), 21 << 20])
def test_local_files_go_up_and_come_down(size: int, fs: Any, folder: str, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes((DATA * (size // len(DATA) + 1))[:size])
    up, down = Callback(), Callback()
    fs.put_file(str(tmp_path / "up"), f"{folder}/file", callback=up)
    fs.get_file(f"{folder}/file", str(tmp_path / "down"), callback=down)
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    assert (up.size, up.value) == (down.size, down.value) == (size, size)
    fs.cp_file(f"{folder}/file", f"{folder}/copy")
    assert fs.info(f"{folder}/copy")["size"] == size


def test_a_file_that_shrinks_while_it_is_sent_does_not_arrive(
    fs: Any, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "file"
    local.write_bytes(b"1" * (20 << 20))

    class Shrinking(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            os.truncate(local, 3 << 20)

    with pytest.raises(OSError):
        fs.put_file(str(local), f"{folder}/file", callback=Shrinking())
    assert not fs.exists(f"{folder}/file")


def test_creating_what_is_there(fs: Any, folder: str) -> None:
    fs.pipe_file(f"{folder}/file", b"1", mode="create")
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{folder}/file", b"2", mode="create")
    assert fs.cat_file(f"{folder}/file") == b"1"


def test_a_name_without_a_bucket(fs: Any) -> None:
    with pytest.raises(ValueError, match="no bucket"):
        fs.cat_file("")
