"""Small folders to take images of, and what must be true of places that hold images."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pfreg
from pfreg import layout
from pfreg.closure import closure
from pfreg.digest import Digest
from pfreg.registry import Registry

LARGE = 4096
"""Stored bytes from which the tests' `quick` fixture lets the engine treat a blob as large."""


def make_tree(folder: Path, *, seed: int = 1, files: int = 4) -> Path:
    """Write a folder with files (an empty one, a large one, two equal ones), links, and an empty folder."""
    chance = random.Random(seed)
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "shared.txt").write_text("in every tree\n")
    (folder / "nothing").touch()
    (folder / "sub" / "large").write_bytes(chance.randbytes(LARGE + 100))
    for number in range(files):
        (folder / "sub" / f"f{number}.txt").write_text(f"tree {seed}, file {number}\n")
    (folder / "sub" / "again.txt").write_text(f"tree {seed}, file 0\n")
    (folder / "sub" / "f0.txt").chmod(0o750)
    (folder / "link").symlink_to("sub/f1.txt")
    return folder


def reach(store: pfreg.Store, image: Any) -> set[Digest]:
    """Return the closure of an image that a store holds."""
    return set(closure(store.manifest(image.cid), store.content))


def check_store(store: pfreg.Store) -> None:
    """Every image in the store has its whole closure there, intact."""
    for manifest in store.images():
        store.verify(manifest.cid)


def leftovers(*folders: Path | str) -> list[str]:
    """Return the temporary files and folders below `folders`."""
    return [
        str(Path(where) / name)
        for folder in folders
        for where, below, names in os.walk(folder)
        for name in (*below, *names)
        if name.endswith(".part")
    ]


def stored_blobs(root: Path | str) -> dict[Digest, Path]:
    """Return the blobs of a root or store in a local folder, and where they lie."""
    paths = sorted(Path(root).glob("blobs/sha256/*/*.zst"))
    return {digest: path for path in paths if (digest := layout.digest_of_blob(path.as_posix())) is not None}


def published(url: str | Path) -> Digest | None:
    """Return which image a place holds, verified to the last blob; None for none at all."""
    if Registry.open(url).current()[0] is None:
        return None
    return pfreg.verify(url, jobs=1).cid
