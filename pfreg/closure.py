"""The closure of an image, and of its ancestors, read through whatever holds the layers.

Rules
-----
- Every layer that can reach something is read and verified; one that is missing, unreadable or malformed is an error.
- A blob that is reached twice is named once. Two different sizes for one blob are an error.
- Ancestors are images of their own. They are followed only when asked for; their manifests then travel as blobs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pfreg.digest import Digest
from pfreg.errors import BadOption, BlobNotFound, ImageNotFound, LayerError, LimitExceeded
from pfreg.layers import OPAQUE, reached
from pfreg.limits import DEFAULT_LIMITS, Limits
from pfreg.manifest import Manifest

__all__ = ["Content", "closure", "closure_of", "depth_of", "lineage"]


class Content(Protocol):
    """Reads a blob that must fit in memory."""

    def __call__(self, digest: Digest, *, limit: int) -> bytes:
        """Return the verified content of `digest`."""
        ...


def closure(manifest: Manifest, content: Content, *, limits: Limits = DEFAULT_LIMITS) -> dict[Digest, int | None]:
    """Return every blob that `manifest` reaches, with its content's length in bytes where a layer states it.

    Parameters
    ----------
    manifest : Manifest
        The image.
    content : Content
        Reads its layers.
    limits : Limits
        Bounds for them.

    Raises
    ------
    BlobNotFound, LayerError, IntegrityError, LimitExceeded
        If a layer cannot be read, or is not what it should be.
    """
    return _walk(list(manifest.layers), content, limits)


def closure_of(
    name: str, digest: Digest, content: Content, *, limits: Limits = DEFAULT_LIMITS
) -> dict[Digest, int | None]:
    """Return every blob that one layer reaches, itself included; see :func:`closure`."""
    return _walk([(name, digest)], content, limits)


def _walk(pending: list[tuple[str, Digest]], content: Content, limits: Limits) -> dict[Digest, int | None]:
    sizes: dict[Digest, int | None] = {}
    followed: set[tuple[str, Digest]] = set()
    while pending:
        name, digest = pending.pop()
        sizes.setdefault(digest, None)
        if name in OPAQUE or (name, digest) in followed:
            continue
        followed.add((name, digest))
        for blob in reached(name, content(digest, limit=limits.layer_bytes), limits=limits):
            known = sizes.get(blob.digest)
            if known is not None and blob.size is not None and known != blob.size:
                raise LayerError(f"blob {blob.digest} has two sizes", operation="read layer", place=name)
            sizes[blob.digest] = known if blob.size is None else blob.size
            if blob.layer:
                pending.append((blob.layer, blob.digest))
    return sizes


def depth_of(history: int | str) -> int | None:
    """Return how many generations `history` asks for; None for all that there are.

    Raises
    ------
    BadOption
        If `history` is neither a number from 0 on nor ``"all"``.
    """
    if history == "all":
        return None
    if isinstance(history, int) and not isinstance(history, bool) and history >= 0:
        return history
    raise BadOption(f"history is a number of generations or 'all', not {history!r}")


def lineage(
    manifest: Manifest, load: Callable[[Digest], Manifest], *, history: int | str, limits: Limits = DEFAULT_LIMITS
) -> list[Manifest]:
    """Return the ancestors of `manifest`, nearest first.

    Parameters
    ----------
    manifest : Manifest
        The image, which is not in the result.
    load : callable
        Reads the manifest of an ancestor; raises ImageNotFound or BlobNotFound for one that is absent.
    history : int or "all"
        How many generations. A number demands them; ``"all"`` takes what is there.
    limits : Limits
        How many images at most.

    Raises
    ------
    ImageNotFound
        If a generation that `history` demands is absent.
    """
    depth = depth_of(history)
    found: dict[Digest, Manifest] = {manifest.cid: manifest}
    generation, level = [manifest], 0
    while generation and (depth is None or level < depth):
        level += 1
        following: list[Manifest] = []
        for cid in (parent for child in generation for parent in child.parents if parent not in found):
            if cid in found:
                continue
            try:
                found[cid] = load(cid)
            except (ImageNotFound, BlobNotFound) as e:
                if depth is None:
                    continue
                raise ImageNotFound(
                    f"ancestor {cid} is not here", operation="read history", place=e.place, hint="ask for less history"
                ) from e
            if len(found) > limits.history:
                raise LimitExceeded(f"more than {limits.history} ancestors", operation="read history")
            following.append(found[cid])
        generation = following
    return list(found.values())[1:]
