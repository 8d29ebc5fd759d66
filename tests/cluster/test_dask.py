"""Copying and verifying by a dask cluster of processes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from fsspec.callbacks import Callback

import pfreg
from pfreg import cli, distribution
from tests.cluster.counting import Counting
from tests.servers.seaweedfs import S3Server


@pytest.fixture
def executor(client: Client) -> Counting:
    return Counting(client.get_executor())


def blob(root: Path, digits: str) -> Path:
    return root / "blobs" / "sha256" / digits[:2] / f"{digits}.zst"


def damage(path: Path) -> bytes:
    """Flip a bit, and return what was there."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def test_from_s3_to_s3(
    executor: Counting, moto: dict[str, Any], weed: S3Server, store: pfreg.Store, image: pfreg.Snapshotted
) -> None:
    source, target, there = "s3://images/from", f"s3://{weed.new()}", weed.options()
    pushed = pfreg.push(image, source, store=store, storage_options=moto)
    seen = Callback()
    copied = pfreg.copy(
        source, target, storage_options=moto, target_options=there, executor=executor, jobs=2, callback=seen
    )
    assert (copied.sent, copied.sent_bytes, copied.published) == (pushed.sent, pushed.sent_bytes, True)
    assert (seen.size, seen.value) == (pushed.sent_bytes, pushed.sent_bytes)
    assert len(executor.futures) == -(-pushed.sent // 4)
    seen = Callback()
    verified = pfreg.verify(target, storage_options=there, executor=executor, callback=seen)
    assert (verified.blobs, seen.value) == (pushed.sent, pushed.sent_bytes)
    assert pfreg.verify(target, storage_options=there).cid == image.cid
    before = len(executor.futures)
    again = pfreg.copy(source, target, storage_options=moto, target_options=there, executor=executor)
    assert (again.sent, again.skipped, again.published) == (0, pushed.sent, False)
    assert len(executor.futures) == before


def test_from_a_folder_and_back(
    executor: Counting, weed: S3Server, root: Path, image: pfreg.Snapshotted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers run elsewhere: what is relative is so to us."""
    monkeypatch.chdir(root.parent)
    url, options = f"s3://{weed.new()}", weed.options()
    assert pfreg.copy("root", url, target_options=options, executor=executor).sent > 8
    assert pfreg.copy(url, "./back", storage_options=options, executor=executor).cid == image.cid
    assert pfreg.verify("back").blobs == pfreg.verify("back", executor=executor).blobs
    assert not list(root.parent.glob("back/**/*.part"))


def test_one_server_copies_by_itself(executor: Counting, weed: S3Server, root: Path) -> None:
    first, second, options = f"s3://{weed.new()}", f"s3://{weed.new()}", weed.options()
    pfreg.copy(root, first, target_options=options)
    done = pfreg.copy(first, second, storage_options=options, target_options=options, executor=executor)
    assert done.copied > 8
    assert not executor.futures


def test_an_image_of_a_store(executor: Counting, store: pfreg.Store, image: pfreg.Snapshotted) -> None:
    assert pfreg.verify(image.cid, store=store, executor=executor).blobs > 8
    assert len(executor.futures) > 2


def test_a_shallow_look_needs_no_worker(executor: Counting, root: Path) -> None:
    assert pfreg.verify(root, deep=False, executor=executor).blobs > 8
    assert not executor.futures


def test_damage_is_found_and_told_alike(executor: Counting, root: Path, leaf: str) -> None:
    """Twice the same question: the second answer is not the first one's."""
    pfreg.verify(root, executor=executor)
    whole = damage(blob(root, leaf))
    with pytest.raises(pfreg.IntegrityError) as alone:
        pfreg.verify(root)
    with pytest.raises(pfreg.IntegrityError) as together:
        pfreg.verify(root, executor=executor)
    assert str(together.value) == str(alone.value)
    assert leaf in str(together.value)
    blob(root, leaf).write_bytes(whole)
    pfreg.verify(root, executor=executor)


def test_a_bad_blob_ends_it_and_a_second_run_finishes(
    executor: Counting, tmp_path: Path, root: Path, leaf: str, store: pfreg.Store, image: pfreg.Snapshotted
) -> None:
    target = tmp_path / "target"
    (tmp_path / "old").mkdir()
    old = pfreg.snapshot(tmp_path / "old", store=store)
    pfreg.push(old, target, store=store)
    whole = damage(blob(root, leaf))
    with pytest.raises(pfreg.IntegrityError, match=leaf) as caught:
        pfreg.copy(root, target, executor=executor)
    assert caught.value.place == str(root)
    assert pfreg.verify(target).cid == old.cid
    blob(root, leaf).write_bytes(whole)
    assert pfreg.copy(root, target, executor=executor).cid == image.cid
    assert pfreg.verify(target).cid == image.cid


@pytest.mark.parametrize("verb", ["copy", "verify"])
def test_a_killed_worker_costs_a_retry(
    executor: Counting, tmp_path: Path, root: Path, leaf: str, deaths: Path, image: pfreg.Snapshotted, verb: str
) -> None:
    options = {"at": leaf, "deaths": str(deaths)}
    if verb == "verify":
        batches = -(-pfreg.verify(f"mortal://{root}", storage_options=options, executor=executor).blobs // 4)
    else:
        copied = pfreg.copy(f"mortal://{root}", tmp_path / "target", storage_options=options, executor=executor)
        batches = -(-copied.sent // 4)
        assert pfreg.verify(tmp_path / "target").cid == image.cid
    assert len(list(deaths.iterdir())) == 1
    assert len(executor.futures) > batches


def test_what_kills_every_worker_is_given_up(
    executor: Counting, tmp_path: Path, root: Path, leaf: str, deaths: Path, store: pfreg.Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(distribution, "_ATTEMPTS", 2)
    options = {"at": leaf, "deaths": str(deaths), "lives": 9}
    with pytest.raises(pfreg.TransferError, match="lost 2 times: KilledWorker") as caught:
        pfreg.copy(f"mortal://{root}", tmp_path / "target", storage_options=options, executor=executor)
    assert caught.value.hint
    assert not pfreg.exists(tmp_path / "target")
    assert len(list(deaths.iterdir())) == 2
    left = pfreg.copy(root, tmp_path / "target", executor=executor)
    assert pfreg.verify(tmp_path / "target").blobs == left.sent + left.skipped


def test_a_closed_executor_and_a_closed_client(client: Client, root: Path) -> None:
    closed = client.get_executor()
    closed.shutdown()
    with pytest.raises(pfreg.TransferError, match="takes no more work"):
        pfreg.verify(root, executor=closed)
    with Client(client.scheduler.address, set_as_default=False) as second:
        executor = second.get_executor()
    with pytest.raises(pfreg.TransferError, match="takes no more work"):
        pfreg.verify(root, executor=executor)


def test_a_client_is_no_executor(client: Client, root: Path) -> None:
    with pytest.raises(pfreg.BadOption, match="not Client") as caught:
        pfreg.verify(root, executor=client)  # type: ignore[arg-type]
    assert "get_executor" in caught.value.hint


@pytest.mark.parametrize("where", ["source", "target"])
def test_memory_is_refused(executor: Counting, root: Path, tmp_path: Path, where: str) -> None:
    url = f"memory://{tmp_path.name}"
    if where == "source":
        pfreg.copy(root, url)
    with pytest.raises(pfreg.BadOption, match="memory"):
        pfreg.copy(*((url, tmp_path / "target") if where == "source" else (root, url)), executor=executor)


@pytest.mark.parametrize("url", ["oci://localhost:1/team/image:v1", "ipfs://", "hf://alice/session:v1"])
def test_one_commit_is_made_by_one_process(executor: Counting, root: Path, url: str) -> None:
    with pytest.raises(pfreg.BadOption, match="one commit") as caught:
        pfreg.copy(root, url, executor=executor)
    assert caught.value.place == url
    assert not executor.futures


def test_on_the_command_line(
    client: Client, root: Path, tmp_path: Path, image: pfreg.Snapshotted, capsys: pytest.CaptureFixture[str]
) -> None:
    address = client.scheduler.address
    assert cli.main(["copy", str(root), str(tmp_path / "target"), "--dask", address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cid"] == str(image.cid)
    assert cli.main(["verify", str(tmp_path / "target"), "--dask", address]) == 0
    assert "fine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "complaint"), [("nowhere", "not the address"), ("tcp://127.0.0.1:1", "connect tcp://127.0.0.1:1")]
)
def test_no_such_cluster(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, address: str, complaint: str
) -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}):
        assert cli.main(["verify", str(root), "--dask", address]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert complaint in line


def test_without_the_package(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main(["verify", str(root), "--dask", "tcp://127.0.0.1:1"]) == 1
    assert re.search(r"pfreg\[dask\]", capsys.readouterr().err)
