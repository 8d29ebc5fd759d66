"""Looking at an image where it lies: what is in it, and whether all of it is whole.

Rules
-----
- Nothing is moved, and nothing written.
- What is missing and what is damaged are two errors, and each names the first blobs.
"""

from __future__ import annotations

import time
from concurrent.futures import Executor

from fsspec.callbacks import Callback

from pfreg.arguments import Asked, Options, Place, StorePlace, opened
from pfreg.blobs import BlobTree, stored_bound
from pfreg.closure import closure_of, depth_of
from pfreg.delivery import reach
from pfreg.distribution import check_by, check_executor
from pfreg.errors import BlobNotFound, IntegrityError, PfregError
from pfreg.keys import TrustedKeys
from pfreg.manifest import Manifest
from pfreg.progress import Progress
from pfreg.registry import Registry
from pfreg.results import Inspection, LayerSize, Verified
from pfreg.signing import Trust, Verifier
from pfreg.transfer import check_blobs

__all__ = ["describe", "inspect", "verify"]


def inspect(
    place: Place,
    *,
    store: StorePlace = None,
    storage_options: Options | None = None,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
    require_signature: bool = False,
) -> Inspection:
    """Tell what is in an image: its layers with their sizes, its blobs, parents and signature.

    Only the manifest, the signature and the layers that name others are read; nothing else is verified.

    Parameters
    ----------
    place : str, Digest or path-like
        The reference of a root, or the CID of an image in `store`.
    store, storage_options, verifier, trusted_keys, require_signature
        See :func:`pfreg.pull`. An image in a store has no signature; its CID is what it is known by.
    """
    return describe(*opened(place, store, storage_options, Asked(verifier, trusted_keys, require_signature)))


def describe(tree: BlobTree, manifest: Manifest, trust: Trust | None) -> Inspection:
    """Tell what is in an image whose manifest has been read; see :func:`inspect`."""
    parts = {name: closure_of(name, digest, tree.content, limits=tree.limits) for name, digest in manifest.layers}
    wanted = {digest for part in parts.values() for digest in part}
    sizes = tree.present(wanted)
    layers = (
        LayerSize(name, digest, len(parts[name]), sum(sizes.get(blob, 0) for blob in parts[name]))
        for name, digest in manifest.layers
    )
    return Inspection(
        cid=manifest.cid,
        reference=tree.name,
        manifest=manifest,
        trust=trust,
        layers=tuple(layers),
        blobs=len(wanted),
        stored=sum(sizes.values()),
        missing=tuple(sorted(wanted - set(sizes))),
        commit=tree.commit_read if isinstance(tree, Registry) else None,
    )


def verify(
    place: Place,
    *,
    store: StorePlace = None,
    deep: bool = True,
    storage_options: Options | None = None,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
    require_signature: bool = False,
    history: int | str = 0,
    jobs: int | None = None,
    executor: Executor | None = None,
    callback: Callback | None = None,
) -> Verified:
    """Verify an image where it lies: its signature, its manifest, and every blob that it reaches.

    Parameters
    ----------
    place : str, Digest or path-like
        The reference of a root, or the CID of an image in `store`.
    deep : bool
        Read every blob. Otherwise look only whether each is there, with a size that its content can have.
    store, storage_options, verifier, trusted_keys, require_signature, history, jobs, callback
        See :func:`pfreg.pull`. An image in a store has no signature; its CID is what it is known by.
    executor : concurrent.futures.Executor, optional
        Whose workers read the blobs; see :func:`copy`.

    Raises
    ------
    BlobNotFound
        If blobs are missing; the text names the first ones.
    IntegrityError
        If blobs are damaged; likewise.
    ImageNotFound, SignatureError, ManifestError
        See :func:`pfreg.pull`.
    """
    start = time.perf_counter()
    depth_of(history)
    check_executor(executor)
    tree, manifest, trust = opened(place, store, storage_options, Asked(verifier, trusted_keys, require_signature))
    wanted, ancestors = reach(manifest, tree.content, history, tree.limits)
    sizes = tree.present(wanted)
    _demand(tree, [f"{digest} is missing" for digest in wanted if digest not in sizes], BlobNotFound)
    progress = Progress(callback)
    progress.expect(size=sum(sizes.values()), blobs=len(sizes))
    if deep and executor is not None:
        bad = check_by(executor, tree, wanted, sizes, jobs=jobs, progress=progress)
    elif deep:
        bad = check_blobs(tree, wanted, sizes, jobs=jobs, progress=progress)
    else:
        bad = {d: f"{sizes[d]} stored bytes" for d, size in wanted.items() if not _plausible(sizes[d], size)}
    _demand(tree, [f"{digest}: {problem}" for digest, problem in bad.items()], IntegrityError)
    return Verified(
        cid=manifest.cid,
        reference=tree.name,
        trust=trust,
        deep=deep,
        blobs=len(wanted),
        stored=sum(sizes.values()),
        images=1 + len(ancestors),
        seconds=time.perf_counter() - start,
    )


def _demand(tree: BlobTree, problems: list[str], error: type[PfregError]) -> None:
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise error(
            f"{len(problems)} bad blobs: {'; '.join(problems[:3])}{more}",
            operation="verify",
            place=tree.name,
            hint="push the image again from a whole copy: damaged blobs are replaced when their size differs",
        )


def _plausible(stored: int, size: int | None) -> bool:
    """Tell whether a content of `size` bytes can have `stored` bytes: a frame has 9 at the least."""
    return stored >= 9 and (size is None or stored <= stored_bound(size))
