"""The Hub double, spoken to by Hugging Face's own client and by git: what other tests take for granted."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub", reason="pip install 'pfreg[hf]'")

from huggingface_hub import (  # noqa: E402  # noqa: E402
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    snapshot_download,
)
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError  # noqa: E402

from tests.servers.hf_hub import Hub, Settings  # noqa: E402

NAME = "alice/data"
LARGE = os.urandom(2_500_000)


@pytest.fixture(params=["lfs", "xet"])
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    if request.param == "xet":
        pytest.importorskip("hf_xet", reason="pip install hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet-cache"))
    with Hub(tmp_path / "hub", Settings(xet=request.param == "xet")) as hub:
        hub.add_user("alice")
        hub.add_user("bob")
        yield hub


def api(hub: Hub, user: str | None = "alice") -> HfApi:
    return HfApi(endpoint=hub.url, token=f"hf_{user}" if user else False)


def upload(hub: Hub, **files: bytes) -> str:
    operations = [CommitOperationAdd(path.replace("__", "."), data) for path, data in files.items()]
    made = api(hub).create_commit(NAME, operations, commit_message="upload", repo_type="dataset")
    return str(made.oid)


@pytest.fixture
def data(hub: Hub) -> Hub:
    api(hub).create_repo(NAME, repo_type="dataset")
    return hub


def test_what_is_committed_is_in_git(data: Hub) -> None:
    commit = upload(data, small__json=b"{}", large__bin=LARGE)
    folder = data.repository(NAME).git.folder

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout

    assert git("rev-parse", "main").strip() == commit
    assert git("log", "--format=%s", "main").split("\n")[:2] == ["upload", "initial commit"]
    assert git("show", "main:small.json") == "{}"
    pointer = git("show", "main:large.bin")
    assert f"oid sha256:{hashlib.sha256(LARGE).hexdigest()}" in pointer
    git("fsck", "--strict")


def test_what_is_committed_can_be_downloaded(data: Hub, tmp_path: Path) -> None:
    upload(data, small__json=b"{}", large__bin=LARGE, empty__bin=b"")
    local = snapshot_download(
        NAME, repo_type="dataset", endpoint=data.url, token="hf_alice", local_dir=tmp_path / "out"
    )
    found = {path.name: path.read_bytes() for path in Path(local).iterdir() if path.is_file()}
    del found[".gitattributes"]
    assert found == {"small.json": b"{}", "large.bin": LARGE, "empty.bin": b""}


def test_content_through_plain_http_and_by_range(data: Hub) -> None:
    """Whoever speaks neither LFS nor Xet gets the bytes all the same."""
    upload(data, large__bin=LARGE)
    request = urllib.request.Request(f"{data.url}/datasets/{NAME}/resolve/main/large.bin")
    request.add_header("Range", "bytes=1000-1999")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206
        assert answer.read() == LARGE[1000:2000]
        assert "localhost" in answer.url, "another host, as the content network is"
    request.add_header("Range", f"bytes={len(LARGE)}-")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 416


def test_multipart_uploads(data: Hub) -> None:
    data.settings.part = 1_000_000
    upload(data, large__bin=LARGE)
    entry = data.repository(NAME).git.entries(data.repository(NAME).git.resolve("main") or "")["large.bin"]
    assert entry.pointer is not None
    stored = data.contents.path(entry.pointer.sha256, entry.pointer.size)
    assert stored is not None
    assert stored.read_bytes() == LARGE
    parts = [call for call in data.calls if "/part/" in call.path]
    assert len(parts) == (0 if data.settings.xet else 3)


def test_wrong_content_is_refused(data: Hub) -> None:
    request = urllib.request.Request(f"{data.url}/objects/{'0' * 64}", data=b"x", method="PUT")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400
    assert not data.contents.has("0" * 64)


def test_a_pointer_to_nothing_is_refused(data: Hub) -> None:
    header = {"key": "header", "value": {"summary": "a lie"}}
    line = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}}
    body = "\n".join(json.dumps(item) for item in (header, line)).encode()
    request = urllib.request.Request(f"{data.url}/api/datasets/{NAME}/commit/main", data=body)
    request.add_header("Authorization", "Bearer hf_alice")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400


def test_a_stale_parent_is_refused(data: Hub) -> None:
    first = upload(data, a__json=b"1")
    upload(data, a__json=b"2")
    with pytest.raises(HfHubHTTPError) as caught:
        api(data).create_commit(
            NAME,
            [CommitOperationAdd("a.json", b"3")],
            commit_message="late",
            repo_type="dataset",
            parent_commit=first,
        )
    assert caught.value.response.status_code == 412


def test_deletes_and_copies(data: Hub) -> None:
    upload(data, a__json=b"a", b__bin=b"b")
    operations = [CommitOperationCopy("b.bin", "c.bin"), CommitOperationDelete("a.json")]
    api(data).create_commit(NAME, operations, commit_message="move", repo_type="dataset")
    assert sorted(api(data).list_repo_files(NAME, repo_type="dataset")) == [".gitattributes", "b.bin", "c.bin"]
    with pytest.raises(HfHubHTTPError):
        api(data).delete_file("nothing", NAME, repo_type="dataset")


def test_listings_come_in_pages(data: Hub) -> None:
    upload(data, **{f"f{number}__json": b"%d" % number for number in range(7)})
    data.settings.page = 3
    data.forget()
    assert len(list(api(data).list_repo_tree(NAME, repo_type="dataset", recursive=True))) == 8
    assert len(data.api_calls) == 3
    for number in range(4):
        upload(data, f0__json=b"again %d" % number)
    assert len(api(data).list_repo_commits(NAME, repo_type="dataset")) == 6


def test_branches_and_tags(data: Hub) -> None:
    commit = upload(data, a__json=b"1")
    api(data).create_branch(NAME, branch="next", repo_type="dataset")
    data.repository(NAME).git.point("refs/tags/v1", commit)
    refs = api(data).list_repo_refs(NAME, repo_type="dataset")
    assert {ref.name for ref in refs.branches} == {"main", "next"}
    assert {(ref.name, ref.target_commit) for ref in refs.tags} == {("v1", commit)}
    assert api(data).repo_info(NAME, repo_type="dataset", revision="v1").sha == commit
    with pytest.raises(HfHubHTTPError):
        api(data).create_branch(NAME, branch="next", repo_type="dataset")


def test_tokens(data: Hub) -> None:
    assert api(data).whoami()["name"] == "alice"
    with pytest.raises(HfHubHTTPError) as caught:
        api(data, "bob").create_commit(NAME, [CommitOperationAdd("a", b"a")], commit_message="-", repo_type="dataset")
    assert caught.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError) as caught:
        api(data, "bob").create_repo("alice/other", repo_type="dataset")
    assert caught.value.response.status_code == 403
    data.revoke("hf_alice")
    with pytest.raises(HfHubHTTPError) as caught:
        api(data).repo_info(NAME, repo_type="dataset")
    assert caught.value.response.status_code == 401


def test_private_and_gated(hub: Hub) -> None:
    api(hub).create_repo("alice/secret", repo_type="dataset", private=True)
    hub.create("alice/gated", gated=True)
    api(hub).repo_info("alice/secret", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError) as caught:
        api(hub, "bob").repo_info("alice/secret", repo_type="dataset")
    assert caught.value.response.status_code == 404
    with pytest.raises(RepositoryNotFoundError) as caught:
        api(hub, None).repo_info("alice/nothing", repo_type="dataset")
    assert caught.value.response.status_code == 401
    api(hub, "bob").repo_info("alice/gated", repo_type="dataset")
    with pytest.raises(GatedRepoError):
        api(hub, "bob").hf_hub_download("alice/gated", ".gitattributes", repo_type="dataset")


def test_faults_strike_when_they_are_told_to(data: Hub) -> None:
    def status(path: str = "/api/whoami-v2") -> int:
        request = urllib.request.Request(data.url + path, headers={"Authorization": "Bearer hf_alice"})
        try:
            with urllib.request.urlopen(request) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    data.fail("/whoami", status=503, skip=1, times=2, headers={"Retry-After": "5"})
    assert [status() for _ in range(4)] == [200, 503, 503, 200]
    data.fail("/whoami", status=0)
    assert [status(), status()] == [0, 200]
    data.fail("/whoami", method="POST")
    assert status() == 200
    data.forget()
    assert data.calls == []


def test_a_cut_answer_is_shorter_than_it_said(data: Hub) -> None:
    upload(data, a__json=b"0123456789")
    data.fail("/resolve/", cut=4)
    with pytest.raises(http.client.IncompleteRead) as caught:
        with urllib.request.urlopen(f"{data.url}/datasets/{NAME}/resolve/main/a.json") as answer:
            answer.read()
    assert caught.value.partial == b"0123"


def test_it_runs_from_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.servers.hf_hub", str(tmp_path), "--user", "carol", "--no-xet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert HfApi(endpoint=url, token="hf_carol").whoami()["name"] == "carol"
        finally:
            process.kill()
