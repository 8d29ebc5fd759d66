"""Executors of the standard library, and some that misbehave."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import distribution
from pfreg.digest import Digest
from pfreg.distribution import Address, Batch
from pfreg.registry import Registry
from tests.cluster import mortal
from tests.servers.seaweedfs import S3Server

SECRET = "a secret that nobody may see 0123456789"


class Unwilling:
    """Cannot be pickled, and says so with what it holds."""

    def __reduce__(self) -> Any:
        raise TypeError(f"no {SECRET}")


class Scripted(Executor):
    """Runs at once what it is given, or does what it is told for a submission, counted from 0."""

    def __init__(self, act: Callable[[int, Callable[[], Any]], Any]) -> None:
        self.act = act
        self.batches: list[Batch] = []
        self.cancelled = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See concurrent.futures."""
        future: Future[Any] = Future()
        number = len(self.batches)
        self.batches.append(args[-1])
        try:
            result = self.act(number, lambda: fn(*args))
        except Exception as e:  # noqa: BLE001 - as any executor does
            future.set_exception(e)
            return future
        if result == "cancelled":
            future.cancel()
            future.set_running_or_notify_cancel()
        elif result == "pending":
            future.add_done_callback(self._count)
        else:
            future.set_result(result)
        return future

    def _count(self, future: Future[Any]) -> None:
        self.cancelled += future.cancelled()


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with spawned() as pool:
        yield pool


def spawned() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), initializer=mortal.register)


def test_threads(tmp_path: Path, root: Path, image: pfreg.Snapshotted) -> None:
    """They see our memory, and need nothing that can be pickled."""
    url = f"memory://{tmp_path.name}"
    options = {"key": threading.Lock()}
    with ThreadPoolExecutor(3) as pool:
        assert pfreg.copy(root, url, executor=pool).cid == image.cid
        assert pfreg.copy(f"mortal://{root}", url, storage_options=options, executor=pool).sent == 0
        assert pfreg.verify(url, executor=pool).blobs == pfreg.verify(url).blobs
        assert pfreg.verify(f"mortal://{root}", storage_options=options, executor=pool).cid == image.cid


def test_processes(
    processes: ProcessPoolExecutor, weed: S3Server, tmp_path: Path, root: Path, image: pfreg.Snapshotted
) -> None:
    url, options = f"s3://{weed.new()}", weed.options()
    assert pfreg.copy(root, url, target_options=options, executor=processes).cid == image.cid
    assert pfreg.copy(url, tmp_path / "back", storage_options=options, executor=processes).cid == image.cid
    assert pfreg.verify(tmp_path / "back").blobs == pfreg.verify(url, storage_options=options, executor=processes).blobs


def test_processes_have_another_memory(processes: ProcessPoolExecutor, tmp_path: Path, root: Path) -> None:
    url = f"memory://{tmp_path.name}"
    with pytest.raises(pfreg.BadOption, match="memory"):
        pfreg.copy(root, url, executor=processes)
    assert not pfreg.exists(url)


def test_a_broken_pool(tmp_path: Path, root: Path, leaf: str, deaths: Path, image: pfreg.Snapshotted) -> None:
    """One dead process ends a whole pool of the standard library: that is told, and a new pool finishes."""
    options = {"at": leaf, "deaths": str(deaths)}
    with spawned() as pool, pytest.raises(pfreg.TransferError, match="BrokenProcessPool"):
        pfreg.copy(f"mortal://{root}", tmp_path / "target", storage_options=options, executor=pool)
    assert not pfreg.exists(tmp_path / "target")
    with spawned() as pool:
        pfreg.copy(f"mortal://{root}", tmp_path / "target", storage_options=options, executor=pool)
    assert pfreg.verify(tmp_path / "target").cid == image.cid


def test_a_closed_pool(root: Path) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(pfreg.TransferError, match="takes no more work: RuntimeError"):
        pfreg.verify(root, executor=pool)


def test_options_that_cannot_travel(processes: ProcessPoolExecutor, root: Path) -> None:
    with pytest.raises(pfreg.BadOption, match="'session' cannot be sent") as caught:
        pfreg.verify(f"mortal://{root}", storage_options={"session": Unwilling()}, executor=processes)
    assert SECRET not in repr(caught.value) + str(caught.value.__cause__)


@pytest.mark.parametrize("verb", ["copy", "verify"])
def test_an_error_brings_nothing_along(
    processes: ProcessPoolExecutor, tmp_path: Path, root: Path, leaf: str, verb: str
) -> None:
    """What a filesystem raised, and what that holds, stays where it happened."""
    options = {"at": leaf, "fails": True, "token": SECRET}
    with ThreadPoolExecutor(1) as threads:
        for pool in (threads, processes):
            with pytest.raises(pfreg.TransferError, match=r"refused for \*\*\*") as caught:
                if verb == "copy":
                    pfreg.copy(f"mortal://{root}", tmp_path / "to", storage_options=options, executor=pool)
                else:
                    pfreg.verify(f"mortal://{root}", storage_options=options, executor=pool)
            assert leaf in caught.value.place
            chain = [caught.value, caught.value.__cause__, caught.value.__context__]
            assert SECRET not in "".join(line for link in chain if link for line in traceback.format_exception(link))
            assert not isinstance(caught.value.__context__, OSError)


@pytest.mark.parametrize("lost", ["cancelled", OSError(f"worker gone, {SECRET}"), MemoryError()])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_is_lost_is_done_again(root: Path, lost: Any, times: int) -> None:
    """The second batch is lost once, twice, and once too often."""
    seen: list[frozenset[Digest]] = []

    def act(number: int, run: Callable[[], Any]) -> Any:
        blobs = frozenset(executor.batches[number].stored)
        seen.append(blobs)
        if len(seen) > 1 and blobs == seen[1] and seen.count(blobs) <= times:
            if lost == "cancelled":
                return lost
            raise lost
        return run()

    executor = Scripted(act)
    url, options = f"mortal://{root}", {"token": SECRET}
    if times < 3:
        assert pfreg.verify(url, storage_options=options, executor=executor).blobs > 8
        assert len(seen) == len(set(seen)) + times
    else:
        name = "CancelledError" if lost == "cancelled" else type(lost).__name__
        with pytest.raises(pfreg.TransferError, match=f"lost 3 times: {name}") as caught:
            pfreg.verify(url, storage_options=options, executor=executor)
        assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    assert seen.count(seen[1]) == min(times + 1, 3)
    keys = [batch.key for batch in executor.batches]
    assert len(set(keys)) == len(keys)


def test_after_a_failure_nothing_is_started(tmp_path: Path, root: Path) -> None:
    trouble = pfreg.AccessDenied("no", operation="write", place="there")

    def act(number: int, run: Callable[[], Any]) -> Any:
        if number == 1:
            raise trouble
        return run() if number == 0 else "pending"

    executor = Scripted(act)
    with pytest.raises(pfreg.AccessDenied) as caught:
        pfreg.copy(root, tmp_path / "target", executor=executor)
    assert caught.value is trouble
    assert executor.cancelled == len(executor.batches) - 2 > 0
    assert not pfreg.exists(tmp_path / "target")
    left = pfreg.copy(root, tmp_path / "target")
    assert left.skipped == 4  # the first batch stayed


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_workers_that_write_elsewhere(tmp_path: Path, weed: S3Server, root: Path, where: str) -> None:
    """Their folder, or their localhost, is another one: nothing is published that is not here."""
    url, options = (str(tmp_path / "target"), {}) if where == "folder" else (f"s3://{weed.new()}", weed.options())
    with pytest.raises(pfreg.TransferError, match="are not here"):
        pfreg.copy(root, url, target_options=options, executor=Scripted(lambda number, run: None))
    assert not pfreg.exists(url, storage_options=options)


def test_workers_that_read_elsewhere(tmp_path: Path, root: Path, leaf: str) -> None:
    """Their folder is empty."""

    def act(number: int, run: Callable[[], Any]) -> Any:
        (root / "blobs").rename(tmp_path / "away")
        try:
            return run()
        finally:
            (tmp_path / "away").rename(root / "blobs")

    with pytest.raises(pfreg.BlobNotFound):
        pfreg.verify(root, executor=Scripted(act))


def test_batches_hold_so_many_blobs_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_BATCH_BYTES", 100)
    blobs = {Digest.of(bytes([n])): size for n, size in enumerate([1, 101, 60, 40, 1, 5, 5, 5, 100, 5])}
    batches = list(distribution._cut(blobs, dict.fromkeys(blobs), 2))
    assert [sorted(batch.stored.values()) for batch in batches] == [[101], [100], [40, 60], [5, 5, 5, 5], [1, 1]]
    assert [batch.size for batch in batches] == [101, 100, 100, 20, 2]
    assert all(set(batch.contents) == set(batch.stored) for batch in batches)
    assert list(distribution._cut({}, {}, 2)) == []


def test_what_travels_shows_no_secret(root: Path) -> None:
    tree = Registry.open(f"mortal://{root}", storage_options={"token": SECRET, "headers": {"authorization": SECRET}})
    address, batch = Address.of(tree), Batch({Digest.of(b""): 9}, {Digest.of(b""): 0}, None)
    for value in (address, batch, tree.location, (address, batch)):
        assert SECRET not in f"{value} {value!r}"
        assert SECRET not in str(getattr(value, "__dask_tokenize__", str)())
    back = pickle.loads(pickle.dumps(address))
    assert back == address
    opened = back.open()
    assert opened.fs.token == SECRET
    assert opened.name == tree.name
