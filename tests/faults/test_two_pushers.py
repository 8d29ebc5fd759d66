"""Pushes of different images into one place at once: it always holds one complete image that verifies."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pfreg

from .flaky import World
from .pushers import push_each_round, push_expecting, read_all_the_time
from .trees import make_tree, published

PROCESSES = 8
ROUNDS = 50
CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture
def images(tmp_path: Path, store: pfreg.Store, quick: None) -> list[str]:
    """Eight images, which share some blobs."""
    trees = [make_tree(tmp_path / f"tree{number}", seed=number, files=2) for number in range(PROCESSES)]
    return [str(pfreg.snapshot(tree, store=store).cid) for tree in trees]


@pytest.fixture
def processes() -> Iterator[list[Any]]:
    """Processes that a test starts; none of them outlives it."""
    started: list[Any] = []
    yield started
    for process in started:
        process.join(20)
        if process.is_alive():
            process.kill()


def test_eight_processes_and_a_reader(
    tmp_path: Path, store: pfreg.Store, images: list[str], processes: list[Any]
) -> None:
    place, results, reading = str(tmp_path / "place"), CONTEXT.Queue(), CONTEXT.Queue()
    start, done, stop = CONTEXT.Barrier(PROCESSES + 1), CONTEXT.Barrier(PROCESSES + 1), CONTEXT.Event()
    shared = (images, store.path, place, ROUNDS, start, done, results)
    processes += [CONTEXT.Process(target=push_each_round, args=(number, *shared)) for number in range(PROCESSES)]
    reader = CONTEXT.Process(target=read_all_the_time, args=(str(tmp_path / "pulled"), place, stop, reading))
    processes.append(reader)
    for process in processes:
        process.start()
    for _ in range(ROUNDS):
        start.wait(60)
        done.wait(60)
        assert [results.get(timeout=60) for _ in range(PROCESSES)] == [None] * PROCESSES
        assert str(published(place)) in images
    stop.set()
    turns, wrong = reading.get(timeout=60)
    assert not wrong
    assert turns > 5


def test_of_eight_with_one_expectation_one_wins(
    tmp_path: Path, store: pfreg.Store, old: Any, images: list[str], processes: list[Any]
) -> None:
    place, results, start = str(tmp_path / "place"), CONTEXT.Queue(), CONTEXT.Barrier(PROCESSES)
    pfreg.push(old, place, store=store)
    processes += [
        CONTEXT.Process(target=push_expecting, args=(cid, store.path, place, str(old.cid), start, results))
        for cid in images
    ]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in images) == ["conflict"] * (PROCESSES - 1) + ["won"]
    assert str(published(place)) in images


@pytest.mark.parametrize("expect", ["absent", "the old one"])
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_of_eight_threads_with_one_expectation_one_wins(
    tmp_path: Path, store: pfreg.Store, old: Any, images: list[str], where: str, expect: str
) -> None:
    for turn in range(5):
        place = f"memory://{tmp_path}/{turn}" if where == "memory" else str(tmp_path / f"place{turn}")
        if expect != "absent":
            pfreg.push(old, place, store=store)
        start = threading.Barrier(PROCESSES)

        def push(cid: str, place: str = place, start: Any = start) -> str:
            start.wait(30)
            try:
                pfreg.push(cid, place, store=store, expect="absent" if expect == "absent" else old.cid, jobs=1)
            except pfreg.Conflict:
                return "conflict"
            return cid

        with ThreadPoolExecutor(PROCESSES) as pool:
            results = list(pool.map(push, images))
        winners = [result for result in results if result != "conflict"]
        assert len(winners) == 1
        assert str(published(place)) == winners[0]


@pytest.mark.parametrize("protocol", ["memory", "flaky", "flakyfolder", "flakyasync"])
def test_threads(tmp_path: Path, world: World, store: pfreg.Store, images: list[str], protocol: str) -> None:
    place = f"{protocol}://{tmp_path.name}"
    start, stop = threading.Barrier(PROCESSES), threading.Event()
    read: list[str] = []

    def push(number: int) -> None:
        for turn in range(12):
            start.wait(30)
            pfreg.push(images[(number + turn) % PROCESSES], place, store=store, jobs=1)
            if start.wait(30) == 0:
                assert str(published(place)) in images

    def watch() -> None:
        while not stop.is_set():
            try:
                read.append(str(pfreg.verify(place, jobs=1).cid))
            except pfreg.ImageNotFound:
                assert not read, "the image was gone"

    with ThreadPoolExecutor(PROCESSES + 1) as pool:
        watching = pool.submit(watch) if protocol == "memory" else None
        try:
            list(pool.map(push, range(PROCESSES)))
        finally:
            stop.set()
        if watching:
            watching.result(30)
            assert set(read) <= set(images)
    assert str(published(place)) in images
