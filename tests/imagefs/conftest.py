"""Images as the tests of pfimg:// use them, and the places where they lie."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import pfreg
from tests.servers.seaweedfs import seaweedfs

CSV = "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(100))
LARGE = bytes(range(256)) * 12_000  # 3 MB: more than what is kept in memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An agent's folder, with links of every kind."""
    root = tmp_path / "tree"
    (root / "data" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "data" / "a.csv").write_text(CSV)
    (root / "data" / "deep" / "b.csv").write_text(CSV)
    (root / "large.bin").write_bytes(LARGE)
    (root / "nothing.txt").write_bytes(b"")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "to file").symlink_to("data/deep/../a.csv")
    (root / "to folder").symlink_to("data")
    (root / "data" / "up").symlink_to("..")
    (root / "chain").symlink_to("to folder/a.csv")
    (root / "circle").symlink_to("circle")
    (root / "dangling").symlink_to("nowhere")
    (root / "absolute").symlink_to("/etc/hostname")
    (root / "escaping").symlink_to("../../manifest.json")
    return root


@pytest.fixture
def snapshot(folder: Path, store: pfreg.Store) -> pfreg.Snapshotted:
    return pfreg.snapshot(
        folder,
        store=store,
        agent_kind="test",
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        effects=[{"tool_id": "mail", "ts": "2026-01-01T00:00:00Z"}],
        env={"LANG": "C"},
    )


@pytest.fixture
def root(snapshot: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path) -> Path:
    """A root in a folder."""
    pfreg.push(snapshot, tmp_path / "root", store=store)
    return tmp_path / "root"


@pytest.fixture
def fs(root: Path) -> pfreg.PfimgFileSystem:
    return pfreg.PfimgFileSystem(fo=str(root), skip_instance_cache=True)


@pytest.fixture
def memory(snapshot: pfreg.Snapshotted, store: pfreg.Store) -> Iterator[str]:
    """The reference of a root in memory."""
    url = f"memory://{uuid.uuid4().hex}"
    pfreg.push(snapshot, url, store=store)
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Options of a real S3 server that is empty but for the bucket ``images``."""
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        yield server.options()


@pytest.fixture
def another(folder: Path, store: pfreg.Store) -> Callable[[str], pfreg.Snapshotted]:
    """Change a file, and take another image."""

    def take(content: str) -> pfreg.Snapshotted:
        (folder / "data" / "a.csv").write_text(content)
        return pfreg.snapshot(folder, store=store, agent_kind="test")

    return take
