"""The images that the original made, as tests use them: where they are, what they hold, and copies to work on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pfreg

VECTORS = Path(__file__).parent / "vectors"
GOLDEN: dict[str, Any] = json.loads((VECTORS / "golden.json").read_text(encoding="utf-8"))

STORES = ("store-small", "store-cache", "store-merged")
REGISTRIES = ("registry-small", "registry-keyed")

IMAGES = [
    (store, name, GOLDEN[store][name])
    for store, names in {
        "store-small": ("parent", "child", "grandchild"),
        "store-cache": ("base", "kv"),
        "store-merged": ("base", "a", "b", "merged"),
    }.items()
    for name in names
]
"""Every image: its store, its name there, its CID."""

IMAGE_NAMES = [f"{store}:{name}" for store, name, _ in IMAGES]


def copied(name: str, folder: Path) -> Path:
    """Copy a golden store or root below `folder`, for the originals are never written to."""
    return Path(shutil.copytree(VECTORS / name, folder / name))


def opened(name: str, folder: Path) -> pfreg.Store:
    """Return a copy of a golden store, opened."""
    return pfreg.Store(copied(name, folder))


def frames() -> dict[str, bytes]:
    """Return every stored blob of all golden images, by its digest's hex."""
    return {path.stem: path.read_bytes() for path in sorted(VECTORS.glob("*/blobs/sha256/*/*.zst"))}
