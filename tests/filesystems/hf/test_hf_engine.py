"""Images on the Hub, through the library's verbs: history, requests, revisions, conflicts, what the original wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download

import pfreg
from tests.conftest import listing, make_tree
from tests.servers.hf_hub import Hub

from .conftest import content, history

URL = "hf://alice/image"


@pytest.fixture
def options(hub: Hub) -> dict[str, Any]:
    return {"endpoint": hub.url, "token": "hf_alice"}


@pytest.fixture
def store(tmp_path: Path) -> pfreg.Store:
    return pfreg.Store(tmp_path / "store")


@pytest.fixture
def image(store: pfreg.Store, tmp_path: Path) -> pfreg.Snapshotted:
    return pfreg.snapshot(make_tree(tmp_path / "tree"), store=store)


def change(store: pfreg.Store, tmp_path: Path, seed: int) -> pfreg.Snapshotted:
    return pfreg.snapshot(make_tree(tmp_path / f"tree{seed}", seed=seed), store=store)


def test_a_push_is_one_commit_and_the_next_none(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    first = pfreg.push(image, URL, store=store, storage_options=options)
    git = hub.repository("alice/image").git
    assert first.committed == git.resolve("main")
    assert history(hub) == [f"pf push: {first.sent + 3} files", "initial commit"]
    pfreg.push(image, URL, store=store, storage_options=options)
    assert len(history(hub)) == 2
    second = pfreg.push(change(store, tmp_path, 1), URL, store=store, storage_options=options)
    assert second.committed == git.resolve("main")
    assert len(history(hub)) == 3


def test_the_repository_is_private_and_has_a_card_unless_asked_otherwise(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted
) -> None:
    pfreg.push(image, URL, store=store, storage_options=options)
    pfreg.push(image, "hf://alice/bare:v1", store=store, storage_options=options | {"card": False, "public": True})
    assert hub.repository("alice/image").private
    assert "pfreg clone hf://alice/image out/" in content(hub)["README.md"].decode()
    assert not hub.repository("alice/bare").private
    assert "README.md" not in content(hub, "v1", "alice/bare")


def test_requests_for_a_thousand_blobs(hub: Hub, options: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "thousand"
    folder.mkdir()
    for number in range(990):
        (folder / f"{number}.txt").write_text(f"file {number}")
    store = pfreg.Store(tmp_path / "store")
    image = pfreg.snapshot(folder, store=store)
    done = pfreg.push(image, URL, store=store, storage_options=options)
    assert done.sent >= 990
    assert len(hub.api_calls) <= 15
    assert len(history(hub)) == 2

    hub.forget()
    pfreg.push(image, URL, store=store, storage_options=options)
    assert len(hub.api_calls) <= 4

    hub.forget()
    pulled = pfreg.pull(URL, store=pfreg.Store(tmp_path / "other"), storage_options=options)
    assert pulled.received == done.sent
    assert len(hub.api_calls) <= 5
    assert len([call for call in hub.calls if "/resolve/" in call.path]) <= done.sent + 2


def test_branches_tags_and_commits_hold_images(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    first = pfreg.push(image, URL, store=store, storage_options=options)
    hub.repository("alice/image").git.point("refs/tags/v1", str(first.committed))
    other = change(store, tmp_path, 1)
    pfreg.push(other, f"{URL}:next", store=store, storage_options=options)
    second = pfreg.push(change(store, tmp_path, 2), URL, store=store, storage_options=options)
    for reference, cid in [
        (URL, second.cid),
        ("hf://datasets/alice/image@main", second.cid),
        (f"{URL}:v1", image.cid),
        (f"{URL}:{first.committed}", image.cid),
        (f"{URL}:next", other.cid),
    ]:
        assert pfreg.verify(reference, storage_options=options).cid == cid
    with pytest.raises(pfreg.UnsupportedRegistry):
        pfreg.push(other, f"{URL}:v1", store=store, storage_options=options)


def test_inspect_tells_the_commit(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    done = pfreg.push(image, URL, store=store, storage_options=options)
    assert pfreg.inspect(URL, storage_options=options).commit == done.committed
    pfreg.push(image, tmp_path / "root", store=store)
    assert pfreg.inspect(tmp_path / "root").commit is None


def test_tags(hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted) -> None:
    done = pfreg.push(image, URL, store=store, storage_options=options)
    hub.repository("alice/image").git.point("refs/tags/v1", str(done.committed))
    assert pfreg.tags(URL, storage_options=options) == ["main", "v1"]
    with pytest.raises(pfreg.ImageNotFound):
        pfreg.tags("hf://alice/nothing", storage_options=options)


def test_too_much_for_one_commit_is_refused_before_anything_is_sent(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted
) -> None:
    hub.create("alice/image")
    with pytest.raises(pfreg.LimitExceeded, match="max_operations"):
        pfreg.push(image, URL, store=store, storage_options=options | {"max_operations": 5})
    assert not any(call.method in ("POST", "PUT") and "paths-info" not in call.path for call in hub.calls)
    assert history(hub) == ["initial commit"]


def test_a_push_without_a_token_says_so_before_any_work(hub: Hub, store: pfreg.Store, image: pfreg.Snapshotted) -> None:
    hub.create("alice/image")
    with pytest.raises(pfreg.AccessDenied, match="HF_TOKEN"):
        pfreg.push(image, URL, store=store, storage_options={"endpoint": hub.url, "token": False})
    assert all(call.method == "GET" for call in hub.calls)


def test_the_wrong_token_does_not_read_as_absent(hub: Hub, options: dict[str, Any]) -> None:
    hub.create("alice/image", private=True)
    with pytest.raises(pfreg.AccessDenied):
        pfreg.exists(URL, storage_options=options | {"token": False})
    with pytest.raises(pfreg.AccessDenied):
        pfreg.exists(URL, storage_options=options | {"token": "hf_worthless_token"})
    assert not pfreg.exists(URL, storage_options=options | {"token": "hf_bob"})


def test_two_pushers(
    hub: Hub,
    options: dict[str, Any],
    store: pfreg.Store,
    image: pfreg.Snapshotted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another push lands while ours is between its look and its commit: one wins, and nothing is lost."""
    pfreg.push(image, URL, store=store, storage_options=options)
    mine, theirs = change(store, tmp_path, 1), change(store, tmp_path, 2)
    from pfreg.filesystems import hf_transaction

    commit = hf_transaction.commit_once

    def slow(*arguments: Any, **named: Any) -> str:
        monkeypatch.setattr(hf_transaction, "commit_once", commit)
        pfreg.push(theirs, URL, store=store, storage_options=options)
        return commit(*arguments, **named)

    monkeypatch.setattr(hf_transaction, "commit_once", slow)
    with pytest.raises(pfreg.Conflict):
        pfreg.push(mine, URL, store=store, storage_options=options)
    assert pfreg.verify(URL, storage_options=options).cid == theirs.cid
    assert len(history(hub)) == 3
    pfreg.push(mine, URL, store=store, storage_options=options, expect=theirs.cid)
    assert pfreg.verify(URL, storage_options=options).cid == mine.cid


def test_what_the_original_wrote_is_read(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    """The original puts every file inline into one commit of a repository without .gitattributes."""
    pfreg.push(image, tmp_path / "root", store=store)
    files = {
        path.relative_to(tmp_path / "root").as_posix(): path.read_bytes()
        for path in (tmp_path / "root").rglob("*")
        if path.is_file()
    }
    git = hub.create("alice/image").git
    git.commit("main", f"pf push: {len(files)} files", "alice", list(files.items()), [".gitattributes"])
    assert pfreg.verify(URL, storage_options=options).cid == image.cid
    pfreg.clone(URL, tmp_path / "out", storage_options=options)
    assert listing(tmp_path / "out") == listing(tmp_path / "tree")
    done = pfreg.push(image, URL, store=store, storage_options=options)
    assert (done.sent, done.published) == (0, False)


def test_the_hubs_own_client_reads_what_we_pushed(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, URL, store=store, storage_options=options)
    local = tmp_path / "download"
    snapshot_download("alice/image", repo_type="dataset", endpoint=hub.url, token="hf_alice", local_dir=local)
    assert pfreg.verify(local).cid == image.cid


def test_what_the_hubs_own_client_uploads_is_an_image(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, tmp_path / "root", store=store)
    api = HfApi(endpoint=hub.url, token="hf_alice")
    api.create_repo("alice/image", repo_type="dataset")
    api.upload_folder(repo_id="alice/image", folder_path=tmp_path / "root", repo_type="dataset")
    assert pfreg.verify(URL, storage_options=options).cid == image.cid


def test_a_file_that_somebody_added_stays(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, URL, store=store, storage_options=options)
    api = HfApi(endpoint=hub.url, token="hf_alice")
    note = CommitOperationAdd("notes.md", b"mine")
    api.create_commit("alice/image", [note], commit_message="a note", repo_type="dataset")
    pfreg.push(change(store, tmp_path, 1), URL, store=store, storage_options=options)
    pfreg.prune(URL, grace=0, dry_run=False, storage_options=options)
    assert content(hub)["notes.md"] == b"mine"


def test_no_secret_is_in_what_is_pushed(
    hub: Hub, options: dict[str, Any], store: pfreg.Store, image: pfreg.Snapshotted
) -> None:
    pfreg.push(image, URL, store=store, storage_options=options)
    git = hub.repository("alice/image").git
    for entry in git.log("main"):
        assert "hf_alice" not in f"{entry.title}{entry.body}"
    assert all(b"hf_alice" not in data for data in content(hub).values())
