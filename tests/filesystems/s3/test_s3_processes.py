"""What is left when a process ends, forks, or runs a loop of its own; and how much memory large blobs take."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from tests.conftest import make_tree, stored_blobs

PROJECT = Path(__file__).parents[3]
Options = Callable[..., dict[str, Any]]

VERBS = """
import gc, json, os, sys, threading
import pfreg
cid, store, url, out, options = json.loads(sys.argv[1])
pfreg.push(cid, url, store=store, storage_options=options)
for turn in range(4):
    pfreg.inspect(url, storage_options=options)
gc.collect()
# what is closed is closed on fsspec's own thread, a moment later
for _ in range(200):
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{fd}")] if os.path.isdir("/proc/self/fd") else []
    sockets = sum(link.startswith("socket:") for link in links)
    if sockets <= 2: break
    threading.Event().wait(0.02)
pfreg.pull(url, store=out, storage_options=options)
print(sockets)
"""


def run(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, json.dumps(arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONASYNCIODEBUG": "0"}
    )


def test_a_process_ends_and_leaves_nothing_open(
    image: pfreg.Snapshotted, store: pfreg.Store, root: str, direct: Options, tmp_path: Path
) -> None:
    done = run(VERBS, str(image.cid), str(store.path), root, str(tmp_path / "out"), direct())
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, told) == (0, [])
    assert int(done.stdout) <= 2  # fsspec's own, by which its loop is woken
    assert stored_blobs(pfreg.Store(tmp_path / "out")) == stored_blobs(store)


def test_verbs_work_while_a_loop_is_running(
    image: pfreg.Snapshotted, store: pfreg.Store, root: str, direct: Options, tmp_path: Path
) -> None:
    """As in a notebook, whose cells run on a loop."""

    async def cell() -> None:
        pfreg.push(image, root, store=store, storage_options=direct(), expect="absent")
        assert pfreg.exists(root, storage_options=direct())
        pfreg.pull(root, store=tmp_path / "out", storage_options=direct())

    asyncio.run(cell())
    assert stored_blobs(pfreg.Store(tmp_path / "out")) == stored_blobs(store)


def _pulled(queue: Any, url: str, out: str, options: dict[str, Any]) -> None:
    try:
        queue.put(str(pfreg.pull(url, store=out, storage_options=options).cid))
    except BaseException as e:
        queue.put(repr(e))
        raise


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_works(
    image: pfreg.Snapshotted, store: pfreg.Store, root: str, direct: Options, tmp_path: Path
) -> None:
    options = direct()
    pfreg.push(image, root, store=store, storage_options=options)
    options.pop("library")  # left to itself it finds that obstore cannot be had after a fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_pulled, args=(queue, root, str(tmp_path / "out"), options))
    child.start()
    assert queue.get(timeout=90) == str(image.cid)
    child.join(30)
    assert child.exitcode == 0
    assert pfreg.exists(root, storage_options=options)  # and the parent goes on


PEAK = """
import json, sys
import pfreg
from tests.faults.measured import peak
verb, cid, store, url, options = json.loads(sys.argv[1])
if verb == "push":
    pfreg.push(cid, url, store=store, storage_options=options)
else:
    pfreg.pull(url, store=store, storage_options=options)
print(peak())
"""


@pytest.mark.slow
def test_large_blobs_take_little_memory(store: pfreg.Store, root: str, direct: Options, tmp_path: Path) -> None:
    """Four blobs at once, of 96 MiB each, within 300 MiB for everything; s3fs alone would hold all of them."""
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.bin").write_bytes(os.urandom(96 << 20))
    image = pfreg.snapshot(folder, store=store)
    for verb, place in (("push", store.path), ("pull", tmp_path / "out")):
        command = [sys.executable, "-c", PEAK, json.dumps([verb, str(image.cid), str(place), root, direct()])]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=True)
        assert int(done.stdout) < 300 << 10, verb
    assert stored_blobs(pfreg.Store(tmp_path / "out")) == stored_blobs(store)


def test_progress_counts_every_byte_of_large_and_small_blobs(
    store: pfreg.Store, root: str, direct: Options, tmp_path: Path
) -> None:
    from fsspec.callbacks import Callback

    folder = make_tree(tmp_path / "progress", large=1)
    (folder / "larger.bin").write_bytes(os.urandom(40 << 20))  # in parts
    image = pfreg.snapshot(folder, store=store)
    told = Callback()
    done = pfreg.push(image, root, store=store, storage_options=direct(), callback=told)
    assert (told.size, told.value) == (done.sent_bytes, done.sent_bytes)
    told = Callback()
    pulled = pfreg.pull(root, store=tmp_path / "out", storage_options=direct(), callback=told)
    assert told.size == told.value
    assert pulled.received_bytes == done.sent_bytes
