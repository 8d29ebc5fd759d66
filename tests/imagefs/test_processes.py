"""Event loops, threads, forks, and memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pytest

import pfreg
from tests.imagefs.conftest import CSV, LARGE

PEAK = """
import json, sys, pfreg

def peak():  # of this program alone; getrusage would begin with what its parent had
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

fs = pfreg.PfimgFileSystem(fo=sys.argv[1], target_options=json.loads(sys.argv[2]))
fs.ls("world/fs")
fs.cat_file("world/fs/small")  # whatever a first transfer loads is loaded
before = peak()
with fs.open("world/fs/huge") as stream:
    total = sum(len(chunk) for chunk in iter(lambda: stream.read(1 << 20), b""))
print(total, peak() - before)
"""


def test_inside_a_running_event_loop(
    s3: dict[str, Any], snapshot: pfreg.Snapshotted, store: pfreg.Store, root: Path
) -> None:
    pfreg.push(snapshot, "s3://images/loop", store=store, storage_options=s3)

    async def read(reference: str, options: dict[str, Any]) -> bytes:
        fs = pfreg.PfimgFileSystem(fo=reference, target_options=options, skip_instance_cache=True)
        return fs.cat_file("world/fs/data/a.csv")

    assert asyncio.run(read("s3://images/loop", s3)) == asyncio.run(read(str(root), {})) == CSV.encode()


def test_many_threads_fetch_once_and_agree(memory: str) -> None:
    fs = pfreg.PfimgFileSystem(fo=memory, skip_instance_cache=True)
    paths = ["world/fs/large.bin", "world/fs/data/a.csv"] * 20
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(fs.cat_file, paths))
    assert read == [LARGE, CSV.encode()] * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(2)")
def test_after_a_fork(root: Path) -> None:
    fs = pfreg.PfimgFileSystem(fo=str(root), skip_instance_cache=True)
    assert fs.cat_file("world/fs/large.bin") == LARGE
    with fs._opening:  # as if another thread were opening the image just now: nobody releases this in the child
        child = os.fork()
        if child == 0:
            ok = False
            try:
                ok = fs.cat_file("world/fs/large.bin") == LARGE and fs.cat_file("world/fs/data/a.csv") == CSV.encode()
            finally:
                os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with fs.open("world/fs/large.bin") as stream:  # the child took nothing of the parent's cache along
        assert stream.read() == LARGE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(2)")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_a_fork_connections_are_made_anew(
    s3: dict[str, Any], snapshot: pfreg.Snapshotted, store: pfreg.Store
) -> None:
    pfreg.push(snapshot, "s3://images/fork", store=store, storage_options=s3)
    fs = pfreg.PfimgFileSystem(fo="s3://images/fork", target_options=s3, skip_instance_cache=True)
    assert fs.cat_file("world/fs/data/a.csv") == CSV.encode()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs is one that fails
        ok = False
        try:
            ok = fs.cat_file("world/fs/large.bin") == LARGE
        finally:
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fs.cat_file("world/fs/run.sh") == b"#!/bin/sh\n"  # those of the parent are still good


def test_the_temporary_cache_goes_with_the_process(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    code = "import sys, pfreg; pfreg.PfimgFileSystem(fo=sys.argv[1]).cat_file('world/fs/large.bin')"
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    subprocess.run([sys.executable, "-c", code, str(root)], env=environ, check=True, timeout=120)
    assert list((tmp_path / "tmp").iterdir()) == []


def hole(stream: IO[bytes]) -> None:
    stream.truncate(512 << 20)


def noise(stream: IO[bytes]) -> None:
    for _ in range(128):
        stream.write(os.urandom(1 << 20))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of one program")
@pytest.mark.parametrize(
    ("write", "size", "through"),
    [(hole, 512 << 20, None), (noise, 128 << 20, "obstore"), (noise, 128 << 20, "s3fs")],
)
def test_memory_does_not_grow_with_a_blob(
    tmp_path: Path,
    store: pfreg.Store,
    s3: dict[str, Any],
    write: Callable[[IO[bytes]], None],
    size: int,
    through: str | None,
) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "small").write_text("x")
    with open(tmp_path / "agent" / "huge", "wb") as stream:
        write(stream)
    image = pfreg.snapshot(tmp_path / "agent", store=store)
    reference, options = f"{store.path}/images/{image.cid.hex}.json", {}
    if through:
        reference, options = f"s3://images/{image.cid.hex}-{through}", {**s3, "library": through}
        pfreg.push(image, reference, store=store, storage_options=options)
    command = [sys.executable, "-c", PEAK, reference, json.dumps(options)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    total, grown = map(int, output.split())
    assert total == size
    assert grown < 64 << 10, f"{grown >> 10} MiB"
