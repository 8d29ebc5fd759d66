"""What an image looks like as a folder: which path is which blob, and where links lead.

Rules
-----
- The paths are those of the format: ``world/fs/...`` for the agent's files, ``trace/messages.jsonl`` and its like for
  the other layers, ``cache/pages/<ix>.k`` and ``.v`` for pages. ``blobs/sha256/<hex>`` is every blob by its name.
- A tree that could lead out of its folder is refused before any of its paths is shown.
- A link is followed as long as it stays inside ``world/fs``. One that leaves it, even for a moment, is shown and never
  followed; neither is one of a chain of more than 40.

Pure functions of verified bytes: no I/O happens here.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pfreg import layout, strict_json
from pfreg.digest import Digest
from pfreg.errors import LayerError
from pfreg.fstree import Tree, check_restorable
from pfreg.limits import DEFAULT_LIMITS, Limits
from pfreg.manifest import Layers, Manifest

__all__ = ["BLOBS", "LAYER_PATHS", "PAGES", "WORLD", "Index", "Node", "blob_nodes", "page_nodes", "top", "tree_nodes"]

WORLD = "world/fs"
PAGES = "cache/pages"
BLOBS = "blobs/sha256"

LAYER_PATHS = {
    "model.base": "model/base",
    "model.diff": "model/diff.json",
    "cache.manifest": "cache/manifest.json",
    "world.env": "world/env.json",
    "world.procs": "world/procs.json",
    "effects.ledger": "effects/ledger.jsonl",
    "trace.messages": "trace/messages.jsonl",
}
"""Where each layer but ``world.fs``, which becomes a folder, is shown."""

_LINKS = 40  # what Linux follows before it says ELOOP


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or link inside an image.

    Parameters
    ----------
    path : str
        Relative to the image, without a leading slash.
    kind : {"file", "directory", "link"}
        What it is.
    size : int or None
        Bytes of the file, or of the link's target; None where only reading the blob can tell.
    digest : Digest, optional
        The file's content.
    mode : int, optional
        Permission bits, where the image keeps them.
    target : str, optional
        Where a link points, as it is written.
    raw : bytes, optional
        The content of a file that is no blob.
    """

    path: str
    kind: Literal["file", "directory", "link"]
    size: int | None = 0
    digest: Digest | None = None
    mode: int | None = None
    target: str | None = None
    raw: bytes | None = None


class Index:
    """Nodes by path and by folder. Folders appear with what is in them."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._nodes: dict[str, Node] = {"": Node("", "directory")}
        self._folders: dict[str, dict[str, None]] = {"": {}}
        self.add(nodes)

    def add(self, nodes: Iterable[Node]) -> None:
        """Take nodes in; a folder that is there already may so get its mode."""
        for node in nodes:
            self._nodes[node.path] = node
            if node.kind == "directory":
                self._folders.setdefault(node.path, {})
            self._enter(node.path)

    def _enter(self, path: str) -> None:
        while path:
            folder = posixpath.dirname(path)
            known = folder in self._folders
            self._folders.setdefault(folder, {})[path] = None
            if known:
                return
            self._nodes.setdefault(folder, Node(folder, "directory"))
            path = folder

    def get(self, path: str) -> Node | None:
        """Return the node at `path` itself, following nothing."""
        return self._nodes.get(path)

    def children(self, path: str) -> list[Node]:
        """Return what is in the folder `path`, by name."""
        return [self._nodes[child] for child in sorted(self._folders.get(path, ()))]

    def resolve(self, path: str) -> Node | None:
        """Return the node that `path` leads to: a link that leads nowhere is returned itself.

        None if there is nothing, or if a link in the middle of `path` leads nowhere.
        """
        found = self._nodes.get(path)
        if found is not None and found.kind != "link":
            return found
        end = self._follow(path)
        return found if end is None else self._nodes.get(end)

    def _follow(self, path: str) -> str | None:
        """Return the path without links that `path` means; None if it leads out, nowhere, or in circles."""
        pending, here, turns = path.split("/")[::-1], "", 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if here in ("", WORLD):
                    return None
                here = posixpath.dirname(here)
                continue
            step = f"{here}/{name}" if here else name
            node = self._nodes.get(step)
            if node is None or (pending and node.kind == "file"):
                return None
            if node.kind != "link":
                here = step
                continue
            turns += 1
            target = node.target or ""
            if turns > _LINKS or target.startswith("/"):
                return None
            pending.extend(target.split("/")[::-1])
        return here


def top(manifest: Manifest, signature: bytes | None) -> Iterator[Node]:
    """Yield what a manifest alone tells: itself, its signature, its layers, and folders whose content is elsewhere."""
    yield Node(layout.MANIFEST, "file", len(manifest.raw), manifest.cid, raw=manifest.raw)
    if signature is not None:
        yield Node(layout.SIGNATURE, "file", len(signature), Digest.of(signature), raw=signature)
    layers: Layers = manifest.layers
    for name, digest in layers:
        if name in LAYER_PATHS:
            yield Node(LAYER_PATHS[name], "file", None, digest)
    yield Node(WORLD, "directory")
    yield Node(PAGES, "directory")


def tree_nodes(tree: Tree, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Node]:
    """Yield the files, folders and links of a file tree.

    Raises
    ------
    TreeError
        If the tree is not safe.
    """
    check_restorable(tree, limits=limits, set_id=True)
    for entry in tree.entries:
        path = f"{WORLD}/{entry.path}"
        if entry.kind == "dir":
            yield Node(path, "directory", mode=entry.mode)
        elif entry.kind == "symlink":
            yield Node(path, "link", entry.size, mode=entry.mode, target=entry.link_target)
        else:
            yield Node(path, "file", entry.size, entry.blob, entry.mode)


def page_nodes(raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Node]:
    """Yield the pages that a page manifest names.

    Raises
    ------
    LayerError
        If it is malformed.
    """
    value = strict_json.loads(raw, max_bytes=limits.layer_bytes, max_depth=limits.json_depth)
    pages = value.get("pages") if isinstance(value, dict) else None
    if not isinstance(pages, list):
        raise LayerError("pages must be a list", operation="read layer", place="cache.manifest")
    for page in pages:
        number = page.get("ix") if isinstance(page, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise LayerError("a page without a number", operation="read layer", place="cache.manifest")
        for half in ("k", "v"):
            yield Node(f"{PAGES}/{number}.{half}", "file", None, Digest.parse(page.get(half)))


def blob_nodes(sizes: dict[Digest, int | None]) -> Iterator[Node]:
    """Yield every blob by its name."""
    for digest, size in sizes.items():
        yield Node(f"{BLOBS}/{digest.hex}", "file", size, digest)
