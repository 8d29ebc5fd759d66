"""One image, opened where it lies: its manifest, its paths, its verified content, each read when it is asked for.

Rules
-----
- Opening reads manifest and signature, and judges them before anything else is read.
- The file tree is read when something below ``world/fs`` is asked for, the page manifest for ``cache/pages``, every
  layer for a listing of ``blobs/sha256``; nothing is read twice.
- What is open stays the image that it was: a push in between is seen by opening again.
- An image in a store is named by its file there, ``<store>/images/<hex>.json``, on any filesystem. A store keeps no
  signatures, but that name is the digest of the manifest, which is checked.
"""

from __future__ import annotations

import io
import posixpath
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pfreg import layout
from pfreg.blob_cache import BlobCache
from pfreg.blobs import SMALL, BlobTree
from pfreg.closure import closure
from pfreg.digest import Digest
from pfreg.errors import ImageNotFound, IntegrityError, IsFolder, PathNotFound
from pfreg.fstree import Tree
from pfreg.image_index import BLOBS, PAGES, WORLD, Index, Node, blob_nodes, page_nodes, top, tree_nodes
from pfreg.key_signatures import KeyVerifier
from pfreg.manifest import Manifest
from pfreg.reference import Location
from pfreg.registry import Registry
from pfreg.signing import Signature, Trust, Verifier
from pfreg.store import Store

__all__ = ["ImageReader", "Judgement", "Unjudged"]


class Unjudged:
    """A verifier for who cannot judge a signature, and says so: everything else is verified all the same."""

    def verify(self, manifest: bytes, signature: Signature) -> Trust:
        """Return that nothing is known."""
        return Trust("unsigned", "not judged")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an image must be, to be opened.

    Parameters
    ----------
    verifier : Verifier
        Judges its signature.
    require_signature : bool
        Refuse what is only signed with the published default key, and every image in a store.
    expected : Digest, optional
        Its CID. Where only keys count, an image in a store needs it.
    """

    verifier: Verifier
    require_signature: bool = False
    expected: Digest | None = None


class ImageReader:
    """An open image; used from several threads.

    Parameters
    ----------
    location : Location
        A root, or the file of an image in a store.
    judgement : Judgement
        What it must be.
    folder, store
        See :class:`~pfreg.blob_cache.BlobCache`.

    Raises
    ------
    ImageNotFound
        If there is none.
    SignatureError, IntegrityError
        If it is not what it must be.
    """

    def __init__(
        self, location: Location, judgement: Judgement, *, folder: str | None = None, store: Store | None = None
    ) -> None:
        self.manifest: Manifest
        self.trust: Trust | None
        self.source: BlobTree
        signature: bytes | None
        cid = layout.digest_of_image(posixpath.basename(location.path))
        if cid is None:
            root = Registry(location)
            image = root.image(verifier=judgement.verifier, require_signature=judgement.require_signature)
            self.source, self.manifest, signature, self.trust = root, image.manifest, image.signature, image.trust
        else:
            self.source = _store_around(location)
            self.manifest, signature, self.trust = _recorded(self.source, cid, judgement), None, None
        if judgement.expected not in (None, self.manifest.cid):
            raise IntegrityError(
                f"holds {self.manifest.cid}, not {judgement.expected}", operation="open", place=self.source.name
            )
        self._cache = BlobCache(self.source, folder=folder, store=store)
        self._index = Index(top(self.manifest, signature))
        self._loaders: dict[str, Callable[[], None]] = {
            WORLD: self._load_tree,
            PAGES: self._load_pages,
            BLOBS: self._load_blobs,
        }
        self._lock = threading.RLock()
        self._tree: Tree | None = None

    @property
    def name(self) -> str:
        """What to call the image in texts."""
        return self.source.name

    # -- paths ---------------------------------------------------------------------------------------------------

    def node(self, path: str) -> Node:
        """Return what `path` leads to; a link that leads nowhere is returned itself.

        Raises
        ------
        PathNotFound
            If there is nothing.
        """
        self._load(path)
        found = self._index.resolve(path)
        if found is None and path == posixpath.dirname(BLOBS):
            found = Node(path, "directory")
        if found is None:
            raise PathNotFound("no such file or folder in the image", operation="open", place=f"{path} in {self.name}")
        return found

    def link(self, path: str) -> Node | None:
        """Return the link at `path`, None if there is no link."""
        found = self._index.get(path)
        return found if found is not None and found.kind == "link" else None

    def children(self, path: str) -> list[Node]:
        """Return what is in a folder, by name, links as links."""
        node = self.node(path)
        if path == posixpath.dirname(BLOBS):
            return [Node(BLOBS, "directory")]
        self._load(node.path)
        return [child for child in self._index.children(node.path) if child.path != posixpath.dirname(BLOBS)]

    def size(self, node: Node) -> int:
        """Return the bytes of a file, which has to be read where nothing states them."""
        return self._cache.size(_digest(node)) if node.size is None else node.size

    def _load(self, path: str) -> None:
        for prefix in list(self._loaders):
            if path == prefix or path.startswith(prefix + "/"):
                with self._lock:
                    if prefix in self._loaders:
                        self._loaders[prefix]()
                        del self._loaders[prefix]

    def _load_tree(self) -> None:
        self._index.add(tree_nodes(self.tree, limits=self.source.limits))

    def _load_pages(self) -> None:
        self._index.add(page_nodes(self.layer("cache.manifest"), limits=self.source.limits))

    def _load_blobs(self) -> None:
        self._index.add(blob_nodes(closure(self.manifest, self._content, limits=self.source.limits)))

    # -- content -------------------------------------------------------------------------------------------------

    @property
    def tree(self) -> Tree:
        """The file tree."""
        with self._lock:
            if self._tree is None:
                self._tree = Tree.from_bytes(self.layer("world.fs"), limits=self.source.limits)
            return self._tree

    def layer(self, name: str) -> bytes:
        """Return the content of a layer (``world.env``), which must fit in memory."""
        return self._content(dict(self.manifest.layers)[name], limit=self.source.limits.layer_bytes)

    def blob(self, digest: Digest) -> bytes:
        """Return the content of any blob, which must fit in memory."""
        return self._content(digest, limit=self.source.limits.layer_bytes)

    def _content(self, digest: Digest, *, limit: int) -> bytes:
        return self._cache.content(digest, size=None, limit=limit)

    def open(self, path: str) -> tuple[Node, BinaryIO]:
        """Return a file and its verified content as a seekable stream.

        Raises
        ------
        PathNotFound
            If there is nothing, or a link that leads nowhere, or out of the image.
        IsFolder
            If it is a folder.
        BlobNotFound, IntegrityError
            If its blob is missing or damaged.
        """
        node = self.node(path)
        if node.kind == "directory":
            raise IsFolder("is a folder", operation="open", place=f"{path} in {self.name}")
        if node.kind == "link":
            problem = f"a link that leads nowhere inside the image, to {node.target!r}"
            raise PathNotFound(problem, operation="open", place=f"{path} in {self.name}")
        if node.raw is not None:
            return node, io.BytesIO(node.raw)
        return node, self._cache.open(_digest(node), size=node.size)

    def prefetch(self, nodes: Sequence[Node]) -> None:
        """Bring small files into memory, many at once where the filesystem can."""
        self._cache.prefetch({_digest(n): n.size for n in nodes if n.raw is None and n.size and n.size <= SMALL})


def _digest(node: Node) -> Digest:
    if node.digest is None:
        raise IsFolder("is no file", operation="open", place=node.path)
    return node.digest


def _store_around(location: Location) -> BlobTree:
    path = posixpath.dirname(posixpath.dirname(location.path))
    return BlobTree(location.files, path, name=location.reference.text)


def _recorded(store: BlobTree, cid: Digest, judgement: Judgement) -> Manifest:
    if judgement.require_signature or (isinstance(judgement.verifier, KeyVerifier) and judgement.expected is None):
        hint = "" if judgement.require_signature else "expected_digest says which image it must be"
        raise IntegrityError("a store keeps no signatures", operation="open", place=store.name, hint=hint)
    (raw,) = store.files.read_many([store.path_in(layout.image_path(cid))], limit=store.limits.manifest_bytes)
    if raw is None:
        raise ImageNotFound("no such image in this store", operation="open", place=store.name)
    if Digest.of(raw) != cid:
        raise IntegrityError(f"manifest has the digest {Digest.of(raw)}", operation="open", place=store.name)
    return Manifest.from_bytes(raw, limits=store.limits)
