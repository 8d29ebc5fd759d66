"""The transaction on its own, without the engine: what it commits, and what it does not."""

from __future__ import annotations

import errno
import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pfreg.errors import (
    AccessDenied,
    BadOption,
    FileChanged,
    ImageNotFound,
    LimitExceeded,
    TargetExists,
    UnsupportedRegistry,
)
from pfreg.filesystems import hf_transaction
from tests.servers.hf_hub import Hub

from .conftest import ROOT, Connect, content, history


def blob(number: int, size: int = 1000) -> tuple[str, bytes]:
    """Return the path in the repository, and the bytes, of one of many different blobs."""
    return f"blobs/sha256/{number % 16:02x}/{number}.zst", number.to_bytes(4, "big") + os.urandom(size)


def test_everything_written_inside_is_one_commit(hub: Hub, connect: Connect, tmp_path: Path) -> None:
    files = dict(blob(number) for number in range(40))
    local = tmp_path / "local.zst"
    local.write_bytes(os.urandom(300_000))
    fs = connect()
    with fs.transaction:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: fs.pipe_file(f"{ROOT}/{item[0]}", item[1]), files.items()))
        fs.put_file(str(local), f"{ROOT}/blobs/local.zst")
        with fs.open(f"{ROOT}/blobs/opened.zst", "wb") as out:
            out.write(b"opened")
        with fs.open(f"{ROOT}/text.json", "w") as text:
            text.write("{}")
        fs.pipe_file(f"{ROOT}/manifest.json", b'{"v":1}')
    expected = files | {
        "blobs/local.zst": local.read_bytes(),
        "blobs/opened.zst": b"opened",
        "text.json": b"{}",
        "manifest.json": b'{"v":1}',
    }
    assert content(hub) == expected
    assert history(hub) == [f"pf push: {len(expected)} files", "initial commit"]
    assert fs.committed == hub.repository("alice/image").git.resolve("main")


def test_our_commit_is_what_we_read_afterwards(connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/a.txt", b"1")
        assert not fs.exists(f"{ROOT}/a.txt"), "staged is not there"
    assert fs.cat_file(f"{ROOT}/a.txt") == b"1"
    assert fs.commit_of(ROOT) == fs.committed


def test_several_transactions_of_one_instance(hub: Hub, connect: Connect) -> None:
    fs = connect()
    for number in range(3):
        with fs.transaction:
            fs.pipe_file(f"{ROOT}/number", str(number).encode())
    assert content(hub) == {"number": b"2"}
    assert len(history(hub)) == 4


@pytest.mark.parametrize("failure", [KeyError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_commits_nothing_and_leaves_nothing(
    hub: Hub, connect: Connect, temporary: Path, failure: type[BaseException]
) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/kept", b"kept")
    with pytest.raises(failure), fs.transaction:
        fs.pipe_file(f"{ROOT}/large.zst", os.urandom(2_000_000))
        fs.pipe_file(f"{ROOT}/small.zst", b"small")
        raise failure
    assert content(hub) == {"kept": b"kept"}
    assert len(history(hub)) == 2
    assert list(temporary.iterdir()) == []
    assert fs.committed is None
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/next", b"next")
    assert content(hub) == {"kept": b"kept", "next": b"next"}


def test_a_commit_leaves_no_temporary_file(connect: Connect, temporary: Path) -> None:
    fs = connect()
    with fs.transaction:
        for number in range(3):
            fs.pipe_file(f"{ROOT}/{number}.zst", os.urandom(2_000_000))
        assert list(temporary.rglob("*")), "large values are staged on disk"
    assert list(temporary.iterdir()) == []


def test_unchanged_is_no_commit_and_sends_nothing(hub: Hub, connect: Connect) -> None:
    files = dict(blob(number) for number in range(5)) | {"manifest.json": b"{}"}
    for _ in range(2):
        fs = connect()
        hub.forget()
        with fs.transaction:
            for path, data in files.items():
                fs.pipe_file(f"{ROOT}/{path}", data)
    assert len(history(hub)) == 2
    assert fs.committed == hub.repository("alice/image").git.resolve("main")
    assert [call.path.split("/")[5] for call in hub.api_calls] == ["revision", "tree", "paths-info"]


def test_only_what_changed_is_in_the_commit(hub: Hub, connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe({f"{ROOT}/same.zst": b"same", f"{ROOT}/manifest.json": b"old"})
    with fs.transaction:
        fs.pipe({f"{ROOT}/same.zst": b"same", f"{ROOT}/manifest.json": b"new"})
    assert history(hub)[0] == "pf push: 1 files"
    assert content(hub) == {"same.zst": b"same", "manifest.json": b"new"}


def test_nested_transactions_are_refused_and_do_no_harm(hub: Hub, connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/a", b"a")
        with pytest.raises(UnsupportedRegistry), fs.transaction:
            pytest.fail("entered")
        with pytest.raises(UnsupportedRegistry):
            fs.start_transaction()
        fs.pipe_file(f"{ROOT}/b", b"b")
    assert content(hub) == {"a": b"a", "b": b"b"}


def test_without_a_with_block(hub: Hub, connect: Connect) -> None:
    fs = connect()
    fs.start_transaction()
    fs.pipe_file(f"{ROOT}/a", b"a")
    fs.end_transaction()
    assert history(hub) == ["pf push: 1 files", "initial commit"]


def test_pipe_put_and_rm_are_one_commit(hub: Hub, connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "one.txt").write_bytes(b"one")
    (folder / "deep" / "two.zst").write_bytes(b"two")
    fs = connect()
    with fs.transaction:
        fs.pipe({f"{ROOT}/old/{number}": b"old" for number in range(3)})
    with fs.transaction:
        fs.pipe({f"{ROOT}/a": b"a", f"{ROOT}/b": b"b"})
        fs.put(f"{folder}/", f"{ROOT}/put/", recursive=True)
        fs.rm(f"{ROOT}/old", recursive=True)
    assert content(hub) == {"a": b"a", "b": b"b", "put/one.txt": b"one", "put/deep/two.zst": b"two"}
    assert len(history(hub)) == 3


def test_the_last_word_on_a_path_counts(hub: Hub, connect: Connect, temporary: Path) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/there", b"there")
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/twice.zst", os.urandom(1_000_000))
        fs.pipe_file(f"{ROOT}/twice.zst", b"second")
        fs.pipe_file(f"{ROOT}/never", b"never")
        fs.rm(f"{ROOT}/there")
        fs.pipe_file(f"{ROOT}/there", b"again")
        fs.rm_file(f"{ROOT}/never")
    assert content(hub) == {"there": b"again", "twice.zst": b"second"}


def test_deleting_what_is_absent_is_an_error(connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/a", b"a")
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{ROOT}/b")
    with pytest.raises(FileNotFoundError), fs.transaction:
        fs.rm_file(f"{ROOT}/b")


def test_copies_are_part_of_the_commit(hub: Hub, connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe({f"{ROOT}/small": b"small", f"{ROOT}/blob.zst": b"blob"})
    with fs.transaction:
        fs.cp_file(f"{ROOT}/small", f"{ROOT}/small2")
        fs.cp_file(f"{ROOT}/blob.zst", f"{ROOT}/blob2.zst")
    assert content(hub) == {"small": b"small", "small2": b"small", "blob.zst": b"blob", "blob2.zst": b"blob"}
    assert len(history(hub)) == 3


def test_a_file_whose_block_failed_is_not_written(hub: Hub, connect: Connect, temporary: Path) -> None:
    fs = connect()
    with fs.transaction:
        with pytest.raises(ZeroDivisionError), fs.open(f"{ROOT}/half.zst", "wb") as out:
            out.write(b"half")
            raise ZeroDivisionError
        fs.pipe_file(f"{ROOT}/whole", b"whole")
    assert content(hub) == {"whole": b"whole"}
    assert list(temporary.iterdir()) == []


def test_a_file_left_open_stops_the_commit(hub: Hub, connect: Connect, temporary: Path) -> None:
    fs = connect()
    with pytest.raises(BadOption, match="open"), fs.transaction:
        fs.pipe_file(f"{ROOT}/a", b"a")
        out = fs.open(f"{ROOT}/b", "wb")
        out.write(b"b")
    assert history(hub) == ["initial commit"]
    assert list(temporary.iterdir()) == []


def test_one_transaction_goes_to_one_branch(hub: Hub, connect: Connect) -> None:
    fs = connect()
    with pytest.raises(UnsupportedRegistry), fs.transaction:
        fs.pipe_file(f"{ROOT}/a", b"a")
        fs.pipe_file("datasets/alice/other/a", b"a")
    assert content(hub) == {}


def test_outside_a_transaction_each_write_is_a_commit(hub: Hub, connect: Connect, temporary: Path) -> None:
    fs = connect()
    fs.pipe_file(f"{ROOT}/a", b"a")
    with fs.open(f"{ROOT}/b.zst", "wb") as out:
        out.write(b"b")
    fs.cp_file(f"{ROOT}/a", f"{ROOT}/c")
    fs.rm(f"{ROOT}/a")
    assert content(hub) == {"b.zst": b"b", "c": b"a"}
    assert len(history(hub)) == 5
    with pytest.raises(ZeroDivisionError), fs.open(f"{ROOT}/d", "wb") as out:
        out.write(b"d")
        raise ZeroDivisionError
    assert len(history(hub)) == 5
    assert list(temporary.iterdir()) == []


def test_writes_outside_a_transaction_from_many_threads_all_land(hub: Hub, connect: Connect) -> None:
    fs = connect()
    fs.pipe_file(f"{ROOT}/first", b"")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: fs.pipe_file(f"{ROOT}/{number}", str(number).encode()), range(8)))
    assert content(hub) == {"first": b""} | {str(number): str(number).encode() for number in range(8)}


def test_content_is_uploaded_while_the_transaction_runs(hub: Hub, connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        for number in range(hf_transaction.BATCH_FILES + 10):
            path, data = blob(number)
            fs.pipe_file(f"{ROOT}/{path}", data)
        during = [call.path for call in hub.api_calls if "/preupload/" in call.path]
        assert len(during) == 1
    assert len([call for call in hub.api_calls if "/preupload/" in call.path]) == 2
    assert len(history(hub)) == 2


def test_a_batch_is_bounded_by_bytes_too(hub: Hub, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_transaction, "BATCH_BYTES", 1_000_000)
    fs = connect()
    with fs.transaction:
        for number in range(4):
            fs.pipe_file(f"{ROOT}/{number}.zst", os.urandom(600_000))
    assert len([call for call in hub.api_calls if "/preupload/" in call.path]) == 2


def test_too_many_files_are_refused_before_they_are_sent(hub: Hub, connect: Connect) -> None:
    fs = connect(max_operations=5)
    with pytest.raises(LimitExceeded, match="max_operations"), fs.transaction:
        for number in range(6):
            fs.pipe_file(f"{ROOT}/{number}", b"x")
    assert content(hub) == {}
    with connect(max_operations=6).transaction as transaction:
        for number in range(6):
            transaction.fs.pipe_file(f"{ROOT}/{number}", b"x")
    assert len(content(hub)) == 6


def test_many_files_are_warned_about_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hf_transaction, "MANY", 5)
    fs = connect()
    with caplog.at_level(logging.WARNING, "pfreg"), fs.transaction:
        for number in range(8):
            fs.pipe_file(f"{ROOT}/{number}", b"x")
    assert [record.message for record in caplog.records if "files in one commit" in record.message] == [
        "hf://datasets/alice/image@main: 5 files in one commit, the Hub may take its time over it"
    ]


def test_a_staged_file_may_be_removed(hub: Hub, connect: Connect, temporary: Path) -> None:
    local = temporary / "blob.zst"
    local.write_bytes(b"blob")
    fs = connect()
    with fs.transaction:
        fs.put_file(str(local), f"{ROOT}/blob.zst")
        local.unlink()
    assert content(hub) == {"blob.zst": b"blob"}
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("change", ["truncated", "removed where it cannot be linked"])
def test_a_staged_file_that_changed_is_an_error(
    hub: Hub, connect: Connect, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    local = tmp_path / "blob.zst"
    local.write_bytes(b"blob")
    fs = connect()
    if change != "truncated":
        monkeypatch.setattr(os, "link", other_disk)
    with pytest.raises(FileChanged), fs.transaction:
        fs.put_file(str(local), f"{ROOT}/blob.zst")
        os.truncate(local, 1) if change == "truncated" else local.unlink()
    assert content(hub) == {}


def test_create_does_not_overwrite(hub: Hub, connect: Connect, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"second")
    fs = connect()
    fs.pipe_file(f"{ROOT}/a", b"first", mode="create")
    with pytest.raises(TargetExists):
        fs.pipe_file(f"{ROOT}/a", b"second", mode="create")
    with pytest.raises(TargetExists):
        fs.put_file(str(local), f"{ROOT}/a", mode="create")
    with pytest.raises(TargetExists), fs.open(f"{ROOT}/a", "xb"):
        pytest.fail("opened")
    assert content(hub) == {"a": b"first"}


def test_a_writer_without_a_token_hears_so_before_any_request(hub: Hub, connect: Connect) -> None:
    fs = connect(None)
    with pytest.raises(AccessDenied, match="HF_TOKEN"), fs.transaction:
        pytest.fail("begun")
    with pytest.raises(AccessDenied, match="HF_TOKEN"):
        fs.pipe_file(f"{ROOT}/a", b"a")
    with pytest.raises(AccessDenied, match="HF_TOKEN"), fs.open(f"{ROOT}/a", "wb"):
        pytest.fail("opened")
    assert hub.calls == []


def test_token_and_endpoint_from_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    from pfreg.filesystems.hf import HfCommitFileSystem

    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    fs = HfCommitFileSystem()
    fs.pipe_file(f"{ROOT}/a", b"a")
    assert content(hub) == {"a": b"a"}


@pytest.mark.parametrize("public", [False, True])
def test_a_missing_repository_is_created(hub: Hub, connect: Connect, public: bool) -> None:
    connect(public=public).pipe_file(f"{ROOT}/a", b"a")
    assert hub.repository("alice/image").private is not public


def test_a_missing_repository_is_an_error_on_request(hub: Hub, connect: Connect) -> None:
    fs = connect(create=False)
    with pytest.raises(ImageNotFound):
        fs.pipe_file(f"{ROOT}/a", b"a")
    assert hub.repositories == {}


def test_a_missing_branch_is_created(hub: Hub, connect: Connect) -> None:
    fs = connect()
    fs.pipe_file("datasets/alice/image@v1/a", b"1")
    fs.pipe_file("datasets/alice/image@v%2F2/a", b"2")
    assert content(hub, "v1") == {"a": b"1"}
    assert content(hub, "v/2") == {"a": b"2"}
    assert content(hub, "main") == {}
    assert history(hub, "v1") == ["pf push: 1 files", "initial commit"]


def test_tags_and_commits_cannot_be_written_to(hub: Hub, connect: Connect) -> None:
    fs = connect()
    fs.pipe_file(f"{ROOT}/a", b"1")
    assert fs.committed is not None
    hub.repository("alice/image").git.point("refs/tags/v1", fs.committed)
    for revision in ("v1", fs.committed):
        with pytest.raises(UnsupportedRegistry, match="branch"):
            fs.pipe_file(f"datasets/alice/image@{revision}/a", b"2")
    assert content(hub, "v1") == {"a": b"1"}


def test_the_message_can_be_given(hub: Hub, connect: Connect) -> None:
    connect(commit_message="a new state").pipe_file(f"{ROOT}/a", b"a")
    assert history(hub)[0] == "a new state"


def test_a_card_is_written_once(hub: Hub, connect: Connect) -> None:
    fs = connect(card=True)
    fs.pipe_file(f"{ROOT}/a", b"1")
    card = content(hub)["README.md"].decode()
    assert card.startswith("---\n")
    assert "pfreg clone hf://alice/image out/" in card
    fs.rm(f"{ROOT}/README.md")
    fs.pipe_file(f"{ROOT}/a", b"2")
    assert content(hub) == {"a": b"2"}, "who removed it wants none"


def test_a_card_that_is_there_is_not_touched(hub: Hub, connect: Connect) -> None:
    connect().pipe_file(f"{ROOT}/README.md", b"mine")
    connect(card=True).pipe_file(f"{ROOT}/a", b"a")
    assert content(hub) == {"README.md": b"mine", "a": b"a"}


def test_models_and_spaces_are_repositories_too(hub: Hub, connect: Connect) -> None:
    hub.create("alice/demo", "space")
    connect().pipe({"alice/weights/a": b"model", "spaces/alice/demo/a": b"space"})
    for kind, name in (("model", "alice/weights"), ("space", "alice/demo")):
        git = hub.repository(name, kind).git
        assert git.blob(git.entries(git.resolve("main") or "")["a"].oid).decode() == kind


def test_a_value_may_be_any_buffer(hub: Hub, connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        fs.pipe_file(f"{ROOT}/view", memoryview(b"view"))
        fs.pipe_file(f"{ROOT}/array", bytearray(b"array"))
        fs.pipe_file(f"{ROOT}/empty.zst", b"")
        with fs.open(f"{ROOT}/empty", "wb") as out:
            assert isinstance(out, io.BufferedIOBase)
    assert content(hub) == {"view": b"view", "array": b"array", "empty.zst": b"", "empty": b""}
