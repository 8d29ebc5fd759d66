"""Reading: one commit, few requests, honest errors."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import fsspec
import pytest
from huggingface_hub.hf_file_system import HfFileSystem

from pfreg.errors import AccessDenied, BadReference, ImageNotFound, TransferError, UnsupportedRegistry
from pfreg.filesystems.hf import HfCommitFileSystem
from tests.servers.hf_hub import Hub

from .conftest import ROOT, Connect

LARGE = os.urandom(3_000_000)
FILES = {"manifest.json": b'{"v":1}', "blobs/sha256/aa/1.zst": b"one", "blobs/sha256/bb/2.zst": LARGE}


@pytest.fixture
def pushed(hub: Hub, connect: Connect) -> Hub:
    """A Hub where alice has a public image."""
    fs = connect(public=True)
    with fs.transaction:
        fs.pipe({f"{ROOT}/{path}": data for path, data in FILES.items()})
    hub.forget()
    return hub


def test_everything_is_read_at_one_commit(pushed: Hub, connect: Connect) -> None:
    reader = connect()
    assert reader.cat_file(f"{ROOT}/manifest.json") == FILES["manifest.json"]
    with connect().transaction as other:
        other.fs.pipe({f"{ROOT}/manifest.json": b"new", f"{ROOT}/new.zst": b"new"})
        other.fs.rm(f"{ROOT}/blobs/sha256/aa/1.zst")
    assert reader.cat_file(f"{ROOT}/manifest.json") == FILES["manifest.json"]
    assert reader.cat_file(f"{ROOT}/blobs/sha256/aa/1.zst") == b"one"
    assert not reader.exists(f"{ROOT}/new.zst")
    assert sorted(reader.find(ROOT)) == sorted([f"{ROOT}/.gitattributes", *(f"{ROOT}/{path}" for path in FILES)])
    reader.refresh()
    assert reader.cat_file(f"{ROOT}/manifest.json") == b"new"
    assert not reader.exists(f"{ROOT}/blobs/sha256/aa/1.zst")


def test_that_nothing_is_there_is_remembered_too(hub: Hub, connect: Connect) -> None:
    reader = connect()
    assert not reader.exists(f"{ROOT}/manifest.json")
    connect().pipe_file(f"{ROOT}/manifest.json", b"{}")
    assert not reader.exists(f"{ROOT}/manifest.json")
    reader.refresh()
    assert reader.exists(f"{ROOT}/manifest.json")


def test_branches_tags_and_commits(pushed: Hub, connect: Connect) -> None:
    first = pushed.repository("alice/image").git.resolve("main")
    assert first is not None
    pushed.repository("alice/image").git.point("refs/tags/v1", first)
    connect().pipe_file(f"{ROOT}/manifest.json", b"second")
    fs = connect()
    assert fs.cat_file("datasets/alice/image/manifest.json") == b"second"
    assert fs.cat_file("hf://datasets/alice/image@v1/manifest.json") == FILES["manifest.json"]
    assert fs.cat_file(f"datasets/alice/image@{first}/manifest.json") == FILES["manifest.json"]
    assert fs.tags("datasets/alice/image") == {"main": fs.commit_of(ROOT), "v1": first}


def test_a_listing_names_files_as_the_caller_does(pushed: Hub, connect: Connect) -> None:
    pushed.settings.page = 2
    commit = pushed.repository("alice/image").git.resolve("main")
    for root in ("datasets/alice/image", ROOT, f"datasets/alice/image@{commit}"):
        found = connect().find(f"{root}/blobs", detail=True, on_error="raise")
        assert {name: entry["size"] for name, entry in found.items()} == {
            f"{root}/blobs/sha256/aa/1.zst": 3,
            f"{root}/blobs/sha256/bb/2.zst": len(LARGE),
        }
        assert all(entry["name"] == name for name, entry in found.items())
    assert connect().find(f"{ROOT}/missing") == []


def test_ls_and_info(pushed: Hub, connect: Connect) -> None:
    fs = connect()
    assert fs.info(f"{ROOT}/blobs/sha256/bb/2.zst")["size"] == len(LARGE)
    assert fs.info(f"{ROOT}/blobs")["type"] == "directory"
    assert fs.info(ROOT)["type"] == "directory"
    assert fs.ls(f"{ROOT}/blobs/sha256", detail=False) == [f"{ROOT}/blobs/sha256/aa", f"{ROOT}/blobs/sha256/bb"]
    assert fs.isdir(f"{ROOT}/blobs")
    assert fs.isfile(f"{ROOT}/manifest.json")
    for absent in ("nothing", "blobs/sha256/cc", "manifest.json/x"):
        with pytest.raises(FileNotFoundError):
            fs.info(f"{ROOT}/{absent}")
        assert not fs.isdir(f"{ROOT}/{absent}")


def test_after_a_listing_nothing_is_looked_up(pushed: Hub, connect: Connect) -> None:
    fs = connect()
    fs.find(ROOT)
    pushed.forget()
    assert fs.info(f"{ROOT}/blobs/sha256/aa/1.zst")["size"] == 3
    assert not fs.exists(f"{ROOT}/blobs/sha256/cc/3.zst")
    assert pushed.calls == []


def test_a_file_costs_one_request(pushed: Hub, connect: Connect, tmp_path: Path) -> None:
    fs = connect()
    fs.commit_of(ROOT)
    pushed.forget()
    fs.cat_file(f"{ROOT}/manifest.json")
    fs.get_file(f"{ROOT}/blobs/sha256/bb/2.zst", str(tmp_path / "2.zst"))
    assert pushed.api_calls == []
    assert [call.path.rpartition("/")[2] for call in pushed.calls if "/resolve/" in call.path] == [
        "manifest.json",
        "2.zst",
    ]


@pytest.mark.parametrize("listed", [False, True])
def test_files_arrive_whole(pushed: Hub, connect: Connect, tmp_path: Path, listed: bool) -> None:
    fs = connect()
    if listed:
        fs.find(ROOT)
    for path, data in FILES.items():
        target = tmp_path / "out" / path
        fs.get_file(f"{ROOT}/{path}", str(target))
        assert target.read_bytes() == data
        memory = io.BytesIO()
        fs.get_file(f"{ROOT}/{path}", memory)
        assert memory.getvalue() == data
        assert fs.cat_file(f"{ROOT}/{path}") == data


def test_a_listed_file_comes_through_xet(pushed: Hub, connect: Connect, tmp_path: Path, transport: str) -> None:
    fs = connect()
    fs.find(ROOT)
    pushed.forget()
    fs.get_file(f"{ROOT}/blobs/sha256/bb/2.zst", str(tmp_path / "2.zst"))
    through_xet = any("xet-read-token" in call.path for call in pushed.calls)
    # Older clients read from filesystems over plain HTTP only.
    assert through_xet is (transport == "xet" and hasattr(HfFileSystem, "_get_xet_file_data"))
    assert any("/objects/" in call.path for call in pushed.calls) is not through_xet


def test_an_opened_file_costs_one_request_as_well(pushed: Hub, connect: Connect) -> None:
    fs = connect()
    for path, data in FILES.items():
        pushed.forget()
        with fs.open(f"{ROOT}/{path}", "rb", cache_type="readahead") as file:
            assert file.read(5_000_000) == data
        assert len([call for call in pushed.calls if "/resolve/" in call.path]) == 1
    assert pushed.api_calls == []


def test_a_folder_can_be_fetched(pushed: Hub, connect: Connect, tmp_path: Path) -> None:
    connect().get(f"{ROOT}/blobs", str(tmp_path / "blobs"), recursive=True)
    assert (tmp_path / "blobs/sha256/aa/1.zst").read_bytes() == b"one"
    assert (tmp_path / "blobs/sha256/bb/2.zst").read_bytes() == LARGE


@pytest.mark.parametrize(
    ("start", "end"), [(0, 10), (5, None), (None, 7), (-4, None), (2, -2), (0, 0), (3, 2), (2_999_999, 9_999_999)]
)
def test_ranges(pushed: Hub, connect: Connect, start: int | None, end: int | None) -> None:
    fs = connect()
    for path in ("manifest.json", "blobs/sha256/bb/2.zst"):
        assert fs.cat_file(f"{ROOT}/{path}", start, end) == FILES[path][start:end]


def test_random_access(pushed: Hub, connect: Connect) -> None:
    with connect().open(f"{ROOT}/blobs/sha256/bb/2.zst", "rb", block_size=1000) as file:
        file.seek(2_000_000)
        assert file.read(5) == LARGE[2_000_000:2_000_005]
        file.seek(-5, io.SEEK_END)
        assert file.read() == LARGE[-5:]
        file.seek(0)
        assert file.read() == LARGE
    with connect().open(f"{ROOT}/manifest.json") as text:
        assert text.read() == FILES["manifest.json"]
    with pytest.raises(UnsupportedRegistry):
        connect().open(f"{ROOT}/manifest.json", "ab")


def test_a_broken_download_goes_on_where_it_broke(
    pushed: Hub, connect: Connect, tmp_path: Path, waits: list[float]
) -> None:
    pushed.fail("/objects/", cut=1_500_000, times=1)
    target = tmp_path / "2.zst"
    connect().get_file(f"{ROOT}/blobs/sha256/bb/2.zst", str(target))
    assert target.read_bytes() == LARGE
    assert len(waits) == 1
    statuses = [call.status for call in pushed.calls if "/objects/" in call.path]
    assert statuses == [200, 206]


def test_a_download_that_stays_broken_is_an_error_and_leaves_no_file(
    pushed: Hub, connect: Connect, tmp_path: Path
) -> None:
    pushed.fail("/objects/", cut=100, times=1000)
    target = tmp_path / "2.zst"
    with pytest.raises(TransferError, match="connection"):
        connect(retry_for=0.0).get_file(f"{ROOT}/blobs/sha256/bb/2.zst", str(target))
    assert not target.exists()


def test_the_token_stays_with_the_hub(pushed: Hub, connect: Connect) -> None:
    connect().cat_file(f"{ROOT}/blobs/sha256/bb/2.zst")
    assert {call.has_token for call in pushed.calls if "/resolve/" in call.path} == {True}
    assert {call.has_token for call in pushed.calls if "/objects/" in call.path} == {False}


def test_public_repositories_need_no_token(pushed: Hub, connect: Connect) -> None:
    fs = connect(None)
    assert fs.cat_file(f"{ROOT}/blobs/sha256/bb/2.zst") == LARGE
    assert len(fs.find(ROOT)) == 4


def test_absent_is_absent_and_denied_is_denied(pushed: Hub, connect: Connect) -> None:
    pushed.create("alice/secret", private=True)
    fs = connect("bob")
    with pytest.raises(ImageNotFound):
        fs.cat_file("datasets/alice/nothing/manifest.json")
    with pytest.raises(ImageNotFound):
        fs.find("datasets/alice/image@nothing")
    with pytest.raises(ImageNotFound):
        fs.cat_file("datasets/alice/secret/manifest.json")
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{ROOT}/nothing")
    stranger = connect(None)
    for action in (stranger.exists, stranger.find, stranger.cat_file, stranger.isdir):
        with pytest.raises(AccessDenied, match="log in"):
            action("datasets/alice/secret/manifest.json")


def test_a_gated_repository(hub: Hub, connect: Connect, tmp_path: Path) -> None:
    hub.create("alice/gated", gated=True)
    connect().pipe_file("datasets/alice/gated/a", b"a")
    assert connect().cat_file("datasets/alice/gated/a") == b"a"
    with pytest.raises(AccessDenied, match="ask for access"):
        connect("bob").cat_file("datasets/alice/gated/a")
    with pytest.raises(AccessDenied):
        connect(None).get_file("datasets/alice/gated/a", str(tmp_path / "a"))


def test_a_worthless_token_is_denied_and_not_shown(pushed: Hub, connect: Connect) -> None:
    pushed.revoke("hf_alice")
    with pytest.raises(AccessDenied) as caught:
        connect().find(ROOT)
    shown = repr(caught.value) + str(caught.value) + repr(caught.value.__cause__) + str(caught.value.__cause__)
    assert "hf_alice" not in shown


@pytest.mark.parametrize("operation", ["find", "exists", "isdir", "info", "cat_file", "ls"])
def test_a_server_that_fails_does_not_say_no(pushed: Hub, connect: Connect, waits: list[float], operation: str) -> None:
    fs = connect(retry_for=0.0)
    fs.commit_of(ROOT)
    pushed.fail("/tree/|/paths-info/|/resolve/", times=1000)
    with pytest.raises(TransferError):
        getattr(fs, operation)(f"{ROOT}/manifest.json")


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(pushed: Hub, connect: Connect, waits: list[float], status: int) -> None:
    pushed.fail("/revision/", status=status, times=2)
    pushed.fail("/paths-info/", status=status, times=2)
    pushed.fail("/resolve/", status=status, times=2)
    fs = connect()
    assert fs.info(f"{ROOT}/blobs/sha256/aa/1.zst")["size"] == 3
    assert fs.cat_file(f"{ROOT}/manifest.json") == FILES["manifest.json"]
    assert len(waits) == 6


def test_the_hub_says_how_long_to_wait(pushed: Hub, connect: Connect, waits: list[float]) -> None:
    pushed.fail("/revision/", status=429, headers={"Retry-After": "7"})
    pushed.fail("/resolve/", status=429, headers={"RateLimit": '"api";r=0;t=11'})
    connect().cat_file(f"{ROOT}/manifest.json")
    assert waits == [7.0, 11.0]


def test_a_wait_beyond_the_deadline_is_an_answer(pushed: Hub, connect: Connect, waits: list[float]) -> None:
    pushed.fail("/revision/", status=429, headers={"Retry-After": "3600"}, times=1000)
    with pytest.raises(TransferError, match="3600 seconds"):
        connect().find(ROOT)
    assert waits == []


@pytest.mark.parametrize("path", ["", "alice", "datasets/alice", "datasets", "datasets/alice/image@"])
def test_what_names_no_repository_is_refused_without_a_request(hub: Hub, connect: Connect, path: str) -> None:
    with pytest.raises(BadReference):
        connect().find(path)
    assert hub.calls == []


def test_a_name_that_the_hub_would_not_take(hub: Hub, connect: Connect) -> None:
    with pytest.raises(BadReference):
        connect().find("datasets/alice/im..age")
    assert hub.calls == []


def test_instances_are_not_shared_and_can_be_pickled(pushed: Hub, connect: Connect) -> None:
    fs = connect()
    assert connect() is not fs
    commit = fs.commit_of(ROOT)
    connect().pipe_file(f"{ROOT}/manifest.json", b"new")
    copy = pickle.loads(pickle.dumps(fs))
    assert isinstance(copy, HfCommitFileSystem)
    assert copy.commit_of(ROOT) == commit
    assert copy.cat_file(f"{ROOT}/manifest.json") == FILES["manifest.json"]


def test_the_hubs_own_entry_point_is_left_alone() -> None:
    assert fsspec.get_filesystem_class("hf") is not HfCommitFileSystem


def test_progress_bars_are_as_they_were(
    pushed: Hub, connect: Connect, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    fs = connect()
    fs.find(ROOT)
    fs.get_file(f"{ROOT}/blobs/sha256/bb/2.zst", str(tmp_path / "2.zst"))
    with fs.transaction:
        fs.pipe({f"{ROOT}/{number}.zst": os.urandom(1000) for number in range(3)})
    assert not are_progress_bars_disabled()
    assert capfd.readouterr().err == ""
