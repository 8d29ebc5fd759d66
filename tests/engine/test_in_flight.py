"""How much is under way at once: requests on one loop, bytes in memory."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

import pfreg
from pfreg import transfer
from pfreg.remote_files import IN_FLIGHT, AsyncFiles
from pfreg.transfer import _Budget


class Crowded(AsyncFileSystem):  # type: ignore[misc]
    """A filesystem in memory that sees how many of its operations are under way together."""

    protocol = "crowded"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.files: dict[str, bytes] = {}
        self.now = self.most = 0
        self.threads: set[int] = set()

    async def _crowd(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.threads.add(threading.get_ident())
        for _ in range(5):
            await asyncio.sleep(0)
        self.now -= 1

    async def _pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        await self._crowd()
        self.files[path] = value

    async def _cat_file(self, path: str, **kwargs: Any) -> bytes:
        await self._crowd()
        return self.files[path]


def test_many_requests_are_under_way_but_not_too_many() -> None:
    fs = Crowded()
    files = AsyncFiles(fs)
    batches = [[(f"{turn}/{i}", b"%d" % i) for i in range(64)] for turn in range(8)]
    threads = [threading.Thread(target=files.write_many, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(fs.files) == 8 * 64
    assert IN_FLIGHT // 2 <= fs.most <= IN_FLIGHT
    assert files.read_many([f"3/{i}" for i in range(64)], limit=100) == [b"%d" % i for i in range(64)]
    assert len(fs.threads) == 1  # all of it on the loop's own thread
    assert threading.get_ident() not in fs.threads


def test_bytes_are_taken_and_given_back() -> None:
    budget = _Budget(100)
    taken, most = [0], [0]
    lock = threading.Lock()

    def work(size: int) -> None:
        for _ in range(50):
            with budget.taking(size):
                with lock:
                    taken[0] += min(size, 100)
                    most[0] = max(most[0], taken[0])
                with lock:
                    taken[0] -= min(size, 100)

    threads = [threading.Thread(target=work, args=(size,)) for size in (10, 30, 60, 100, 5000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)  # what is larger than everything waits for everything
    assert 0 < most[0] <= 100


def test_a_failure_gives_its_bytes_back() -> None:
    budget = _Budget(10)
    with pytest.raises(RuntimeError):
        with budget.taking(10):
            raise RuntimeError
    with budget.taking(10):
        pass


def test_a_push_keeps_to_the_budget(
    image: pfreg.Snapshotted, store: pfreg.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for less than one batch the batches go one after another, and all arrive."""
    monkeypatch.setattr(transfer, "IN_MEMORY", 1000)
    monkeypatch.setattr(transfer, "_BATCH_BLOBS", 2)
    done = pfreg.push(image, "memory://budget", store=store, jobs=8)
    assert pfreg.verify("memory://budget").blobs == done.sent
    fsspec.filesystem("memory").rm("/budget", recursive=True)
