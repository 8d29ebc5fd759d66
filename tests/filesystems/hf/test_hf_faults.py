"""Whatever fails: exactly one commit, or none and a clear error. Running it again finishes the job."""

from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from pfreg.errors import AccessDenied, Conflict, PfregError, StorageFull, TransferError
from pfreg.filesystems.hf import HfCommitFileSystem
from tests.servers.hf_hub import Hub

from .conftest import ROOT, Connect, content, history

BLOBS = {f"blobs/{number}.zst": os.urandom(2000) for number in range(3)}
FILES = BLOBS | {"manifest.json": b'{"v":2}'}


@pytest.fixture
def image(hub: Hub, connect: Connect) -> Hub:
    """A Hub where alice's image has one commit of hers."""
    connect(public=True).pipe_file(f"{ROOT}/manifest.json", b'{"v":1}')
    hub.forget()
    return hub


def push(fs: HfCommitFileSystem, files: dict[str, bytes] = FILES) -> None:
    with fs.transaction:
        for path, data in files.items():
            fs.pipe_file(f"{ROOT}/{path}", data)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
def test_a_commit_that_fails_for_a_moment_is_made_once(
    image: Hub, connect: Connect, waits: list[float], status: int, times: int, after: bool
) -> None:
    image.fail("/commit/", method="POST", status=status, times=times, after=after)
    fs = connect()
    push(fs)
    assert history(image) == ["pf push: 4 files", "pf push: 1 files", "initial commit"]
    assert content(image) == FILES
    assert fs.committed == image.repository("alice/image").git.resolve("main")


def test_a_lost_answer_is_noticed_below_a_later_commit(
    image: Hub, connect: Connect, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours landed, its answer was lost, and somebody else committed on top before we could look."""
    from pfreg.filesystems import hf_commit

    look = hf_commit.head_of

    def look_late(*arguments: object) -> str:
        commit(image, "other", CommitOperationAdd("other.txt", b"other"))
        return look(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hf_commit, "head_of", look_late)
    image.fail("/commit/", method="POST", status=0, after=True)
    fs = connect()
    push(fs)
    assert history(image)[:3] == ["other", "pf push: 4 files", "pf push: 1 files"]
    assert content(image) == FILES | {"other.txt": b"other"}


@pytest.mark.parametrize("status", [0, 503, 429])
def test_a_commit_that_keeps_failing_is_an_error_and_a_rerun_succeeds(
    image: Hub, connect: Connect, waits: list[float], status: int, temporary: Path
) -> None:
    image.fail("/commit/", method="POST", status=status, times=1000)
    with pytest.raises(TransferError, match="again"):
        push(connect(retry_for=0.0))
    assert content(image) == {"manifest.json": b'{"v":1}'}
    assert list(temporary.iterdir()) == []
    image.forget()
    push(connect())
    assert history(image)[0] == "pf push: 4 files"
    assert content(image) == FILES
    sent = [call for call in image.calls if call.method == "PUT" and "/objects/" in call.path]
    assert sent == [], "what was sent is not sent again"


def test_a_commit_waits_as_long_as_the_hub_says(image: Hub, connect: Connect, waits: list[float]) -> None:
    image.fail("/commit/", method="POST", status=429, headers={"Retry-After": "9"})
    push(connect())
    assert waits == [9.0]
    assert len(history(image)) == 3


@pytest.mark.parametrize("status", [0, 503])
@pytest.mark.parametrize("path", ["/revision/", "/repos/create", "/preupload/", "upload itself"])
def test_a_request_on_the_way_that_fails_for_a_moment(
    hub: Hub, connect: Connect, waits: list[float], path: str, status: int, transport: str
) -> None:
    if path == "upload itself":
        path = "-write-token/" if transport == "xet" else "/objects/(batch|[0-9a-f]+)$"
    hub.fail(path, status=status, times=2)
    push(connect())
    assert content(hub) == FILES
    assert len(history(hub)) == 2


def test_looking_up_files_that_fails_for_a_moment(image: Hub, connect: Connect, waits: list[float]) -> None:
    image.fail("/paths-info/", times=2)
    push(connect())
    assert content(image) == FILES


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AccessDenied), (403, AccessDenied), (400, TransferError), (402, StorageFull), (413, StorageFull)],
)
@pytest.mark.parametrize("path", ["/preupload/", "/commit/"])
def test_a_refusal_is_an_error_at_once(
    image: Hub, connect: Connect, waits: list[float], path: str, status: int, error: type[PfregError], temporary: Path
) -> None:
    image.fail(path, method="POST", status=status, message="no, because", times=1000)
    with pytest.raises(error, match="no, because") as caught:
        push(connect())
    assert waits == []
    assert content(image) == {"manifest.json": b'{"v":1}'}
    assert list(temporary.iterdir()) == []
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert "hf_alice" not in str(caught.value)


def test_a_token_that_expires_in_the_middle(image: Hub, connect: Connect) -> None:
    fs = connect()
    with pytest.raises(AccessDenied, match="log in"), fs.transaction:
        for path, data in FILES.items():
            fs.pipe_file(f"{ROOT}/{path}", data)
        image.revoke("hf_alice")
    image.add_user("alice")
    assert content(image) == {"manifest.json": b'{"v":1}'}


def test_somebody_elses_repository(image: Hub, connect: Connect) -> None:
    with pytest.raises(AccessDenied, match="write"):
        push(connect("bob"))
    with pytest.raises(AccessDenied, match="namespace"):
        connect("bob").pipe_file("datasets/alice/new/a", b"a")
    assert content(image) == {"manifest.json": b'{"v":1}'}


def test_somebody_elses_private_or_gated_repository(hub: Hub, connect: Connect) -> None:
    hub.create("alice/secret", private=True)
    hub.create("alice/gated", gated=True)
    for name in ("secret", "gated"):
        with pytest.raises(AccessDenied):
            connect("bob").pipe_file(f"datasets/alice/{name}/a", b"a")
        assert content(hub, name=f"alice/{name}") == {}


def test_a_file_that_the_hub_does_not_take(image: Hub, connect: Connect) -> None:
    image.fail("/commit/", method="POST", status=400, message="Your push was rejected. Offending file: manifest.json")
    with pytest.raises(TransferError, match=r"rejected. Offending file: manifest.json"):
        push(connect())
    assert len(history(image)) == 2


def test_a_file_that_gitignore_would_drop_without_a_word(image: Hub, connect: Connect) -> None:
    connect().pipe_file(f"{ROOT}/.gitignore", b"blobs/1.zst\n")
    with pytest.raises(TransferError, match=r"gitignore excludes 'blobs/1.zst'"):
        push(connect())
    assert "blobs/0.zst" not in content(image)


@pytest.mark.parametrize("transport", ["lfs"], indirect=True)  # over Xet the double's chunks pass through no address
def test_an_upload_that_fails_names_no_signed_address(hub: Hub, connect: Connect, waits: list[float]) -> None:
    hub.settings.part = 1000
    hub.fail("/part/", status=403, message="SignatureDoesNotMatch", times=1000)
    with pytest.raises(PfregError) as caught:
        push(connect())
    assert "signature=" not in str(caught.value)
    assert "signature=" not in "".join(traceback.format_exception(caught.value))


# -- others ----------------------------------------------------------------------------------------------------------


def commit(hub: Hub, title: str, *operations: CommitOperationAdd | CommitOperationDelete) -> None:
    """Commit as somebody else would, who has the right to."""
    api = HfApi(endpoint=hub.url, token="hf_alice")
    api.create_commit("alice/image", operations, commit_message=title, repo_type="dataset")


def test_a_branch_that_moved_is_a_conflict(image: Hub, connect: Connect, temporary: Path) -> None:
    fs = connect()
    with pytest.raises(Conflict, match=r"manifest\.json"), fs.transaction:
        for path, data in FILES.items():
            fs.pipe_file(f"{ROOT}/{path}", data)
        commit(image, "theirs", CommitOperationAdd("manifest.json", b"theirs"))
    assert history(image)[0] == "theirs"
    assert content(image) == {"manifest.json": b"theirs"}
    assert list(temporary.iterdir()) == []
    push(connect())
    assert content(image) == FILES


@pytest.mark.parametrize("answer", ["412", "lost, then 412"])
def test_a_refused_commit_is_ours_or_theirs_by_its_mark(
    image: Hub, connect: Connect, waits: list[float], answer: str
) -> None:
    if answer != "412":
        image.fail("/commit/", method="POST", status=504, after=True)
    image.fail("/commit/", method="POST", status=412, times=1 if answer == "412" else 0)
    push(connect())
    assert history(image) == ["pf push: 4 files", "pf push: 1 files", "initial commit"]


def test_two_pushers_of_which_one_wins(image: Hub, connect: Connect) -> None:
    one, two = connect(), connect()
    mine = {"blobs/one.zst": b"one", "manifest.json": b"one"}
    yours = {"blobs/two.zst": b"two", "manifest.json": b"two"}
    two.commit_of(ROOT)
    with pytest.raises(Conflict), one.transaction:
        for path, data in mine.items():
            one.pipe_file(f"{ROOT}/{path}", data)
        push(two, yours)
    assert content(image) == yours
    push(connect(), mine)
    assert content(image) == yours | mine


def test_two_pushers_into_a_repository_that_neither_found(hub: Hub, connect: Connect) -> None:
    one, two = connect(), connect()
    assert not one.exists(f"{ROOT}/manifest.json")
    assert not two.exists(f"{ROOT}/manifest.json")
    push(one, {"manifest.json": b"one"})
    with pytest.raises(Conflict):
        with two.transaction:
            two.pipe_file(f"{ROOT}/blobs/two.zst", b"two")
            two.pipe_file(f"{ROOT}/manifest.json", b"two")
            push(connect(), {"manifest.json": b"three"})
    assert content(hub) == {"manifest.json": b"three"}


def test_blobs_that_the_other_added_are_no_conflict(image: Hub, connect: Connect) -> None:
    fs = connect()
    with fs.transaction:
        for path, data in FILES.items():
            fs.pipe_file(f"{ROOT}/{path}", data)
        same = next(iter(BLOBS))
        commit(image, "blobs", CommitOperationAdd("blobs/x.zst", b"x"), CommitOperationAdd(same, BLOBS[same]))
    assert history(image)[:2] == ["pf push: 4 files", "blobs"]
    assert content(image) == FILES | {"blobs/x.zst": b"x"}


@pytest.mark.parametrize("theirs", ["deletes", "overwrites", "adds ours differently"])
def test_what_the_other_took_away_is_a_conflict(image: Hub, connect: Connect, theirs: str) -> None:
    connect().pipe_file(f"{ROOT}/kept.zst", b"kept")
    fs = connect()
    with pytest.raises(Conflict), fs.transaction:
        for path, data in FILES.items():
            fs.pipe_file(f"{ROOT}/{path}", data)
        if theirs == "deletes":
            commit(image, "theirs", CommitOperationDelete("kept.zst"))
        elif theirs == "overwrites":
            commit(image, "theirs", CommitOperationAdd("kept.zst", b"other"))
        else:
            commit(image, "theirs", CommitOperationAdd("blobs/0.zst", b"other"))
    assert history(image)[0] == "theirs"


def test_nothing_left_to_change_is_no_excuse_for_what_went_missing(image: Hub, connect: Connect) -> None:
    """The other wrote the same manifest, but removed a file that ours rests on: success would be a lie."""
    connect().pipe_file(f"{ROOT}/kept.zst", b"kept")
    fs = connect()
    with pytest.raises(Conflict), fs.transaction:
        fs.pipe_file(f"{ROOT}/manifest.json", b"same")
        commit(image, "theirs", CommitOperationDelete("kept.zst"), CommitOperationAdd("manifest.json", b"same"))


def test_an_expected_state_that_is_gone(image: Hub, connect: Connect) -> None:
    """What was read before the transaction is what it builds on: no update in between is lost."""
    fs = connect()
    assert fs.cat_file(f"{ROOT}/manifest.json") == b'{"v":1}'
    push(connect(), {"manifest.json": b"in between"})
    with pytest.raises(Conflict):
        push(fs)
    assert content(image) == {"manifest.json": b"in between"}
