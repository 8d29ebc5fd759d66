"""Trees, stores and images that tests of all kinds use."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import pfreg

pytest_plugins = ["tests.servers.ipfs_fixtures"]


def make_tree(root: Path, *, seed: int = 0, small: int = 12, large: int = 1) -> Path:
    """Make a folder with what real ones have: nested and empty folders, links, modes, equal files, large files."""
    rng = random.Random(seed)
    (root / "src" / "deep" / "er").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "README.md").write_text(f"# tree {seed}\n")
    (root / "src" / "empty.txt").write_bytes(b"")
    (root / "src" / "naïve 文件.txt").write_text("ünï ☃\n", encoding="utf-8")
    for i in range(small):
        (root / "src" / "deep" / f"module_{i}.py").write_text(f"value = {rng.random()}\n" * rng.randrange(1, 60))
    (root / "src" / "same.py").write_bytes((root / "src" / "deep" / "module_0.py").read_bytes())
    for i in range(large):
        (root / f"weights_{i}.bin").write_bytes(rng.randbytes(1_600_000))
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "private.key").write_text(f"not a key {seed}")
    (root / "private.key").chmod(0o600)
    (root / "link").symlink_to("src/same.py")
    (root / "src" / "up").symlink_to("../README.md")
    (root / "dangling").symlink_to("nowhere")
    (root / "src" / "deep" / "er").chmod(0o700)
    return root


def listing(root: Path | str) -> dict[str, tuple[object, ...]]:
    """Return everything below a folder: kind, mode, and content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            key = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[key] = ("symlink", os.readlink(path))
            elif path.is_dir():
                found[key] = ("dir", path.stat().st_mode & 0o7777)
            else:
                found[key] = ("file", path.stat().st_mode & 0o7777, path.read_bytes())
    return found


def stored_blobs(store: pfreg.Store) -> dict[str, bytes]:
    """Return every stored blob of a store, by its file's name."""
    return {path.name: path.read_bytes() for path in Path(store.path).glob("blobs/sha256/*/*.zst")}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[str], pfreg.Store]:
    return lambda name: pfreg.Store(tmp_path / name)


@pytest.fixture
def store(new_store: Callable[[str], pfreg.Store]) -> pfreg.Store:
    return new_store("store")


@pytest.fixture
def image(tree: Path, store: pfreg.Store) -> pfreg.Snapshotted:
    return pfreg.snapshot(
        tree, store=store, agent_kind="test", messages=[{"role": "user", "content": "hi"}], env={"LANG": "C"}
    )
