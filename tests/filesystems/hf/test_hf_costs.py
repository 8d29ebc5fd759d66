"""What a push and a pull cost: requests of the API, commits, memory, temporary disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.hf_hub import Hub

from .conftest import ROOT, Connect, content, history


def image(count: int) -> dict[str, bytes]:
    """Return the files of an image with `count` blobs spread as digests are."""
    blobs = {f"blobs/sha256/{number % 256:02x}/{number:064x}.zst": b"blob %d" % number for number in range(count)}
    return blobs | {"manifest.json.sig": b'{"signature":""}', "manifest.json": b'{"schema_version":1}'}


def push(connect: Connect, files: dict[str, bytes]) -> None:
    """Write an image as the engine does: one listing, then what is missing, the manifest last."""
    fs = connect(card=True)
    try:
        present = fs.find(f"{ROOT}/blobs", detail=True, on_error="raise")
    except FileNotFoundError:
        present = {}
    with fs.transaction:
        for path, data in files.items():
            if f"{ROOT}/{path}" not in present:
                fs.pipe_file(f"{ROOT}/{path}", data)


def test_a_thousand_files(hub: Hub, connect: Connect, tmp_path: Path) -> None:
    files = image(998)
    push(connect, files)
    assert len(hub.api_calls) <= 15
    assert len(history(hub)) == 2

    hub.forget()
    push(connect, files)
    assert len(hub.api_calls) <= 4
    assert len(history(hub)) == 2

    hub.forget()
    fs = connect()
    for path in ("manifest.json", "manifest.json.sig"):
        fs.cat_file(f"{ROOT}/{path}")
    for number, name in enumerate(fs.find(f"{ROOT}/blobs")):
        fs.get_file(name, str(tmp_path / str(number)))
    assert len(hub.api_calls) <= 5
    downloads = [call for call in hub.calls if "/resolve/" in call.path]
    assert len(downloads) <= len(files)


@pytest.mark.slow
def test_five_thousand_files_are_one_commit(hub: Hub, connect: Connect) -> None:
    files = image(4998)
    push(connect, files)
    assert history(hub) == ["pf push: 5001 files", "initial commit"]
    committed = content(hub)
    del committed["README.md"]
    assert committed == files


WRITER = """
import os, resource, sys, tempfile, threading
import huggingface_hub.constants as constants
from pfreg.filesystems.hf import HfCommitFileSystem

url, transport, folder = sys.argv[1:]
constants.HF_HUB_DISABLE_XET = transport == "lfs"
tempfile.tempdir = folder
fs = HfCommitFileSystem(endpoint=url, token="hf_alice")
root = "datasets/alice/image@main"
pattern = os.urandom(1 << 20)

def used():
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)

with fs.transaction:
    fs.pipe_file(f"{root}/warm.zst", os.urandom(1 << 20))
    before, disk = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(16):
        with fs.open(f"{root}/{number}.zst", "wb") as out:
            for part in range(64):
                out.write(number.to_bytes(2, "big") + part.to_bytes(2, "big") + pattern[4:])
            disk = max(disk, used())
        disk = max(disk, used())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f'{{"memory": {(after - before) // 1024}, "disk": {disk >> 20}}}')
"""


@pytest.mark.slow
def test_a_gibibyte_needs_little_memory_and_disk(hub: Hub, tmp_path: Path, transport: str) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    command = [sys.executable, "-c", WRITER, hub.url, transport, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    needed = json.loads(done.stdout)
    assert needed["disk"] <= 150
    assert needed["memory"] <= (96 if transport == "lfs" else 300)
    assert list(folder.iterdir()) == []
    assert len(history(hub)) == 2
