"""Killed without a chance to tidy up, at different moments: no commit, or the whole one. A rerun finishes the job."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.servers.hf_hub import Hub

from .conftest import ROOT, Connect, content, history

WRITER = """
import os, signal, sys
import huggingface_hub.constants as constants
from pfreg.filesystems.hf import HfCommitFileSystem

url, transport, moment, folder = sys.argv[1:]
constants.HF_HUB_DISABLE_XET = transport == "lfs"
os.environ["TMPDIR"] = folder
root = "datasets/alice/image@main"
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
fs = HfCommitFileSystem(endpoint=url, token="hf_alice")
if moment == "at the commit":
    type(fs.api).create_commit = die
if moment == "at the upload":
    type(fs.api).preupload_lfs_files = die
with fs.transaction:
    for number in range(300):
        fs.pipe_file(f"{root}/blobs/{number}.zst", b"%d" % number)
    fs.pipe_file(f"{root}/manifest.json", b"{}")
    if moment == "before the end":
        die()
if moment == "after the end":
    die()
"""


@pytest.mark.parametrize("moment", ["at the upload", "before the end", "at the commit", "after the end"])
def test_kill(hub: Hub, connect: Connect, tmp_path: Path, transport: str, moment: str) -> None:
    connect().pipe_file(f"{ROOT}/before", b"before")
    command = [sys.executable, "-c", WRITER, hub.url, transport, moment, str(tmp_path)]
    done = subprocess.run(command, timeout=120)
    assert done.returncode == -signal.SIGKILL
    files = {f"blobs/{number}.zst": b"%d" % number for number in range(300)} | {"manifest.json": b"{}"}
    before = {"before": b"before"}
    assert content(hub) == (before | files if moment == "after the end" else before)
    fs = connect()
    with fs.transaction:
        fs.pipe({f"{ROOT}/{path}": data for path, data in files.items()})
    assert content(hub) == before | files
    assert len(history(hub)) == 3


def test_kill_while_the_hub_commits(hub: Hub, connect: Connect, tmp_path: Path, transport: str) -> None:
    """The writer dies between sending the commit and its answer: the commit is whole, and a rerun finds it there."""
    connect().pipe_file(f"{ROOT}/before", b"before")
    arrived, go_on, made = threading.Event(), threading.Event(), threading.Event()
    git = hub.repository("alice/image").git
    make = git.commit

    def late(*arguments: object) -> str:
        arrived.set()
        assert go_on.wait(60)
        commit = make(*arguments)  # type: ignore[arg-type]
        made.set()
        return commit

    git.commit = late  # type: ignore[method-assign,assignment]
    command = [sys.executable, "-c", WRITER, hub.url, transport, "never", str(tmp_path)]
    with subprocess.Popen(command) as writer:
        assert arrived.wait(60)
        writer.kill()
        writer.wait(60)
        go_on.set()
        assert made.wait(60)
    git.commit = make  # type: ignore[method-assign]
    fs = connect()
    with fs.transaction:
        fs.pipe({f"{ROOT}/blobs/{number}.zst": b"%d" % number for number in range(300)})
        fs.pipe_file(f"{ROOT}/manifest.json", b"{}")
    assert len(content(hub)) == 302
    assert len(history(hub)) == 3
