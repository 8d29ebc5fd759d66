"""The original's SDK, as the tests use it: what it leaves out, and how its answers compare with ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import processfork

LEFT_OUT = frozenset(
    [
        "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".coverage", ".venv", ".DS_Store", ".tox",
        "node_modules", "target",
    ]
)  # fmt: skip
"""Names that the SDK silently leaves out of a snapshot, files and folders alike; beside ``*.pyc`` and ``*.pyo``."""


def leaves_out(name: str) -> bool:
    """Tell whether the SDK leaves a file or folder of this name out, or takes its backslash for a slash."""
    return name in LEFT_OUT or name.endswith((".pyc", ".pyo")) or "\\" in name


def snapshot(folder: Path, store: Path, **options: Any) -> str:
    """Take a folder with the SDK; return the CID."""
    given = {"agent_kind": "test", "env": {}, "messages": [], **options}
    return str(processfork.snapshot_filesystem(processfork.PfStore.open(str(store)), fs_root=str(folder), **given))


def layer(store: Path, cid: str, group: str, name: str) -> tuple[str, bytes]:
    """Return digest and content of one layer, as the SDK reads it."""
    opened = processfork.PfStore.open(str(store))
    digest = processfork.read_manifest(opened, cid)[group][name]
    return digest, processfork.read_blob(opened, digest)


def paths(store: Path, cid: str) -> set[str]:
    """Return the paths in an image's tree, as the SDK reads it."""
    return {entry["path"] for entry in json.loads(layer(store, cid, "world", "fs")[1])["entries"]}


def checkout(store: Path, cid: str, target: Path) -> Path:
    """Restore an image with the SDK."""
    processfork.checkout_filesystem(processfork.PfStore.open(str(store)), cid, str(target))
    return target


def listing(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is below a folder: kinds, modes, contents, targets."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                about: tuple[Any, ...] = ("symlink", os.readlink(path))
            elif path.is_dir():
                about = ("dir", path.stat().st_mode & 0o7777)
            else:
                about = ("file", path.stat().st_mode & 0o7777, path.read_bytes())
            found[path.relative_to(root).as_posix()] = about
    return found
