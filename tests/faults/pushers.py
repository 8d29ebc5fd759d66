"""What the processes do that push into one place at once."""

from __future__ import annotations

import os
from typing import Any

import pfreg
from pfreg import local_files, registry


def hurry() -> None:
    """Nobody cuts the power in these tests: nothing has to be synced."""
    local_files._SYNCFS = None
    os.fsync = lambda handle: None
    registry._PAUSE = 0.001


def push_each_round(
    number: int, images: list[str], store: str, place: str, rounds: int, start: Any, done: Any, results: Any
) -> None:
    """Push another image in each of `rounds`, when all are ready; report what became of it."""
    hurry()
    for turn in range(rounds):
        start.wait(60)
        cid = images[(number + turn) % len(images)]
        try:
            pfreg.push(cid, place, store=store, jobs=1)
            results.put(None)
        except Exception as e:  # noqa: BLE001 - the parent fails with it
            results.put(f"{type(e).__name__}: {e}")
        done.wait(60)


def read_all_the_time(store: str, place: str, stop: Any, results: Any) -> None:
    """Pull and verify until told to stop; report how often, and what went wrong."""
    hurry()
    turns, wrong = 0, []
    while not stop.is_set():
        try:
            cid = pfreg.verify(place, jobs=1).cid
            cid = pfreg.pull(place, store=store, jobs=1).cid
            pfreg.Store(store).verify(cid)
        except pfreg.ImageNotFound:
            if turns:
                wrong.append("the image was gone")
        except Exception as e:  # noqa: BLE001 - the parent fails with it
            wrong.append(f"{type(e).__name__}: {e}")
        else:
            turns += 1
    results.put((turns, wrong))


def push_expecting(cid: str, store: str, place: str, expect: str, start: Any, results: Any) -> None:
    """Push once, if the place still holds what is expected."""
    start.wait(60)
    try:
        pfreg.push(cid, place, store=store, expect=expect, jobs=1)
        results.put("won")
    except pfreg.Conflict:
        results.put("conflict")
    except Exception as e:  # noqa: BLE001 - the parent fails with it
        results.put(f"{type(e).__name__}: {e}")
