"""Bringing an image from one tree of blobs to a root: what push and copy are, and pull without its last step.

Rules
-----
- The closure is established first; a layer that cannot be read ends everything before a blob has moved.
- Blobs, then signature, then manifest. What is there already, under a signature as good as ours, is left alone.
- Where a commit is named by what is in it, it is named before it is made, and not made again where it is.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

from pfreg import codec
from pfreg.blobs import BlobTree, stored_bound
from pfreg.closure import Content, closure, depth_of, lineage
from pfreg.digest import Digest
from pfreg.distribution import send_by
from pfreg.errors import IntegrityError, SignatureError
from pfreg.limits import Limits
from pfreg.local_files import LocalFiles
from pfreg.manifest import Manifest
from pfreg.progress import Progress
from pfreg.registry import Foretells, Registry
from pfreg.signing import HmacVerifier, Signature, Verifier, check_signature
from pfreg.store import Store
from pfreg.transfer import Moved, Plan, Sender, confirm, plan, send, transfer, workers

__all__ = ["Delivered", "Order", "ReadThrough", "deliver", "reach"]


@dataclass(frozen=True, slots=True)
class Order:
    """How an image is to be delivered."""

    history: int | str
    base: Registry | None
    expect: Digest | str | None
    jobs: int | None
    progress: Progress
    dry_run: bool = False
    executor: Executor | None = None
    keys: Verifier | None = None  # judges signatures by keys, where there is one to judge

    @property
    def sender(self) -> Sender:
        """What sends the blobs: the threads of this process, or the executor's workers."""
        return send if self.executor is None else partial(send_by, self.executor)

    def __post_init__(self) -> None:
        depth_of(self.history)
        if self.jobs is not None:
            workers(self.jobs)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What was delivered: blobs, how many images, and whether anything had to be published."""

    moved: Moved
    images: int
    published: bool


def reach(
    manifest: Manifest, content: Content, history: int | str, limits: Limits
) -> tuple[dict[Digest, int | None], list[Manifest]]:
    """Return the closure of an image and of its ancestors, whose manifests are blobs in it, and those ancestors."""

    def load(cid: Digest) -> Manifest:
        return Manifest.from_bytes(content(cid, limit=limits.manifest_bytes), limits=limits)

    wanted = closure(manifest, content, limits=limits)
    ancestors = lineage(manifest, load, history=history, limits=limits)
    for ancestor in ancestors:
        wanted.setdefault(ancestor.cid, len(ancestor.raw))
        for digest, size in closure(ancestor, content, limits=limits).items():
            wanted[digest] = size if wanted.get(digest) is None else wanted[digest]
    return wanted, ancestors


def deliver(source: BlobTree, target: Registry, manifest: Manifest, signature: bytes, order: Order) -> Delivered:
    """Bring an image to a root: what is missing first, the signature and the manifest last."""
    wanted, ancestors = reach(manifest, source.content, order.history, source.limits)
    target.check_expect(order.expect)
    there, beside = target.readable()
    standing = there == manifest.raw and beside is not None and _vouches(beside, manifest.raw, signature, target, order)
    todo = plan(source, target, wanted)
    if not (standing and not todo.todo) and _foretold(source, target, todo, manifest.raw, signature, order):
        standing, todo = True, Plan(wanted, {}, {**todo.todo, **todo.skipped})
    if order.dry_run:
        sizes, skipped = todo.todo.values(), todo.skipped.values()
        would = Moved(sent=len(sizes), sent_bytes=sum(sizes), skipped=len(skipped), skipped_bytes=sum(skipped))
        return Delivered(would, 1 + len(ancestors), published=False)
    if standing and not todo.todo:
        moved = transfer(source, target, todo, progress=order.progress)
        return Delivered(moved, 1 + len(ancestors), published=False)
    moved = _commit(source, target, todo, manifest.raw, signature, order)
    return Delivered(moved, 1 + len(ancestors), published=True)


def _commit(source: BlobTree, target: Registry, todo: Plan, manifest: bytes, signature: bytes, order: Order) -> Moved:
    with target.commit():
        target.announce(todo.wanted)
        moved = transfer(
            source, target, todo, base=order.base, jobs=order.jobs, progress=order.progress, sender=order.sender
        )
        if not target.transactional:
            confirm(target, todo.todo)
        target.keep(list(todo.skipped))
        target.publish(manifest, signature, expect=order.expect)
    return moved


def _foretold(source: BlobTree, target: Registry, todo: Plan, manifest: bytes, signature: bytes, order: Order) -> bool:
    """Where a commit is named by what is in it, find out its name; tell whether the target has it already.

    Not for a source on a network, which would be read twice, unless a dry run asks for the name.
    """
    if not isinstance(target.fs, Foretells) or not (order.dry_run or isinstance(source.files, LocalFiles)):
        return False
    with target.fs.rehearsal():
        _commit(source, target, todo, manifest, signature, replace(order, progress=Progress()))
    return target.committed is not None and target.fs.holds(target.committed)


def _vouches(there: bytes, manifest: bytes, ours: bytes, target: Registry, order: Order) -> bool:
    """Tell whether the signature that is there is ours, or as good: then one with more in it is not overwritten.

    As good is what the same key says of the same manifest and reference, whenever it did. A signature by a key that
    nobody here can judge is as good as itself only.
    """
    if there == ours:
        return True
    try:
        judges: list[Verifier] = [HmacVerifier.for_scheme(target.scheme)]
        if Signature.from_bytes(ours).bundle is not None:
            if order.keys is None:
                return False
            judges.append(order.keys)
        for judge in judges:
            new, old = (check_signature(manifest, signature, verifier=judge) for signature in (ours, there))
            if (new.status, new.by, new.reference) != (old.status, old.by, old.reference):
                return False
    except SignatureError:
        return False
    return True


class ReadThrough:
    """Reads layers from a registry into a store on their way, so that they are fetched once."""

    def __init__(self, source: Registry, store: Store) -> None:
        self._source, self._store = source, store
        self.blobs = self.size = 0

    def __call__(self, digest: Digest, *, limit: int) -> bytes:
        """Return the verified content of a layer, which is in the store from now on."""
        if digest in self._store.present([digest]):
            with contextlib.suppress(IntegrityError):  # damaged here: fetch it again
                return self._store.content(digest, limit=limit)
        (stored,) = self._source.stored([digest], limit=stored_bound(limit))
        with self._source.blaming(digest):
            plain = codec.content(stored, limit=limit)
            if (found := Digest.of(plain)) != digest:
                raise IntegrityError(f"content has the digest {found}")
        self._store.files.write_many([(self._store.path_of(digest), stored)])
        self._store.files.flush()
        self.blobs += 1
        self.size += len(stored)
        return plain
