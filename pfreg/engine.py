"""The verbs that take, move and remove: snapshot, checkout, push, pull, clone, copy, exists, tags, prune.

Rules
-----
- Every verb is the same three steps: establish the closure, move what is missing, publish last. None knows a backend.
- A signature is verified before anything in the manifest is believed.
- Running a verb again finishes what was interrupted, and moves only what is missing.
- Only reachable blobs are moved, never whatever is listed; only unreachable ones are pruned.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

from fsspec.callbacks import Callback

from pfreg import layout
from pfreg.arguments import Cid, Options, Place, StorePlace, cid_of, open_store, read_image
from pfreg.blobs import BlobTree
from pfreg.closure import depth_of
from pfreg.delivery import Order, ReadThrough, deliver, reach
from pfreg.digest import Digest
from pfreg.distribution import check_executor
from pfreg.errors import (
    BadOption,
    UnsupportedRegistry,
)
from pfreg.files import translated
from pfreg.fstree import Tree
from pfreg.key_signatures import KeySigner, KeyVerifier, next_sequence, verifier_for
from pfreg.keys import KeySource, PrivateKey, TrustedKeys, trusted
from pfreg.manifest import Manifest
from pfreg.progress import Progress
from pfreg.reference import parse
from pfreg.registry import HasTags, Keeps, Registry, parse_expect
from pfreg.results import Cloned, Copied, Pruned, Pulled, Pushed
from pfreg.signing import HmacSigner, Signer, Trust, Verifier
from pfreg.store import GRACE, check_grace
from pfreg.transfer import Moved, plan, transfer
from pfreg.world_checkout import SetId, checkout_tree
from pfreg.world_snapshot import Snapshotted, snapshot_folder

__all__ = ["checkout", "clone", "copy", "exists", "prune", "pull", "push", "snapshot", "tags"]


def snapshot(
    folder: str | os.PathLike[str],
    *,
    store: StorePlace = None,
    agent_kind: str = "pfreg",
    messages: Sequence[Mapping[str, str]] = (),
    effects: Sequence[Mapping[str, str]] = (),
    env: Mapping[str, str] | None = None,
    redact: Sequence[str] = (),
    redact_secrets: bool = True,
    parents: Sequence[Cid] = (),
    exclude: Sequence[str] = (),
    bad_names: Literal["error", "skip"] = "error",
    jobs: int | None = None,
    callback: Callback | None = None,
) -> Snapshotted:
    """Take a folder, and what else is given, into a store as an image.

    Parameters
    ----------
    folder : path-like
        What to take: files, links, folders (empty ones too) and their modes. Only what `exclude` or a ``.pfignore``
        at its top names is left out.
    store : Store or path-like, optional
        Where it goes; ``$PF_STORE``, else ``~/.processfork``, by default.
    agent_kind : str
        Whose folder it is, such as ``claude-code``.
    messages : sequence of mapping
        The conversation: mappings with the texts ``role`` and ``content``.
    effects : sequence of mapping
        The tool calls; see :func:`pfreg.ledger.build_ledger`.
    env : mapping of str to str, optional
        Environment variables. Nothing is taken from the process.
    redact : sequence of str
        Names of variables to redact beside those that look like a secret's, as regular expressions.
    redact_secrets : bool
        Whether values of variables that look like a secret's are replaced by ``<redacted>``.
    parents : sequence of CIDs
        The images that this one descends from; at most two.
    exclude : sequence of str
        Patterns in gitignore's syntax.
    bad_names : {"error", "skip"}
        What to do about names that are not UTF-8.
    jobs : int, optional
        Threads.
    callback : fsspec.callbacks.Callback, optional
        Progress in bytes of content.

    Returns
    -------
    Snapshotted

    Warns
    -----
    SkippedFile
        For each FIFO, socket and device, which an image cannot hold.

    Raises
    ------
    FolderNotFound
        If there is no such folder.
    UnreadableFile, FileChanged, BadName
        If a file cannot be read, keeps changing, or has a name that is not UTF-8.
    TreeError
        If the tree could not be checked out again.
    """
    return snapshot_folder(
        folder,
        store=open_store(store),
        agent_kind=agent_kind,
        messages=messages,
        effects=effects,
        env=env,
        redact=redact,
        redact_secrets=redact_secrets,
        parents=[cid_of(parent) for parent in parents],
        exclude=exclude,
        bad_names=bad_names,
        jobs=jobs,
        callback=callback,
    )


def push(
    cid: Cid,
    url: Place,
    *,
    store: StorePlace = None,
    storage_options: Options | None = None,
    signer: Signer | None = None,
    signing_key: KeySource | None = None,
    trusted_keys: TrustedKeys | None = None,
    history: int | str = 0,
    base: Place | None = None,
    expect: str | Digest | None = None,
    dry_run: bool = False,
    jobs: int | None = None,
    callback: Callback | None = None,
) -> Pushed:
    """Push an image from a store to a registry.

    Parameters
    ----------
    cid : str or Digest
        The image.
    url : str or path-like
        The reference of the root to push to. What it held is replaced when everything new is there.
    store : Store or path-like, optional
        Where the image is; ``$PF_STORE``, else ``~/.processfork``, by default.
    storage_options : mapping, optional
        Passed to the filesystem.
    signer : Signer, optional
        Signs the manifest; by default what the environment asks for (``PF_FILE_REG_SIGN_KEY`` and its siblings).
    signing_key : path-like, bytes, or a private key of ``cryptography``, optional
        Signs the manifest, too: an Ed25519 or ECDSA P-256 key; see :meth:`pfreg.keys.PrivateKey.load`.
    trusted_keys : sequence of keys, optional
        Who else signs at this reference: the sequence goes on from the highest of theirs and of `signing_key`'s own. By
        default the files that ``PFREG_TRUSTED_KEYS`` names.
    history : int or "all"
        How many generations of parents to take along, so that the receiver can still merge.
    base : str or path-like, optional
        Another root on the same filesystem (a parent, a sibling fork). What it has is copied there, not sent.
    expect : str or Digest, optional
        The CID that the root must hold for this push to replace it; ``"absent"`` for none.
    dry_run : bool
        Only tell what would be sent and, where content names the commit (IPFS), what would name it.
    jobs : int, optional
        Threads.
    callback : fsspec.callbacks.Callback, optional
        Progress in stored bytes.

    Returns
    -------
    Pushed

    Raises
    ------
    ImageNotFound, BlobNotFound
        If the store lacks the image, or a part of it.
    IntegrityError
        If a blob in the store is damaged.
    Conflict
        If the root holds another image than `expect`.
    BadKey, SignatureError
        If the key cannot be used.
    BadReference, AccessDenied, TransferError, StorageFull
        If the registry cannot be reached or written.
    """
    start = time.perf_counter()
    target = Registry.open(url, storage_options=storage_options)
    place = _base(base, target, storage_options)
    key = None if signing_key is None else PrivateKey.load(signing_key)
    judge = None if key is None else KeyVerifier(key.public)
    order = Order(history, place, parse_expect(expect), jobs, Progress(callback), dry_run, keys=judge)
    local = open_store(store, create=False)
    manifest = local.manifest(cid_of(cid))
    signature = _signer(target, signer, key, trusted_keys).sign(manifest.raw)
    done = deliver(local, target, manifest, signature, order)
    return Pushed(
        cid=manifest.cid,
        reference=target.name,
        committed=target.committed,
        images=done.images,
        published=done.published,
        seconds=time.perf_counter() - start,
        **_counts(done.moved),
    )


def pull(
    url: str | os.PathLike[str],
    *,
    store: StorePlace = None,
    storage_options: Options | None = None,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
    require_signature: bool = False,
    history: int | str = 0,
    expect: str | Digest | None = None,
    jobs: int | None = None,
    callback: Callback | None = None,
) -> Pulled:
    """Pull an image from a registry into a store.

    Parameters
    ----------
    url : str or path-like
        The reference of the root.
    store : Store or path-like, optional
        Where it goes; ``$PF_STORE``, else ``~/.processfork``, by default.
    storage_options : mapping, optional
        Passed to the filesystem.
    verifier : Verifier, optional
        Judges the signature; by default what the environment asks for.
    trusted_keys : sequence of keys, optional
        Only signatures by these keys count: paths, contents or objects of public keys, Ed25519 or ECDSA P-256; see
        :meth:`pfreg.keys.PublicKey.load`. By default the files that ``PFREG_TRUSTED_KEYS`` names, if it is set.
    require_signature : bool
        Refuse what is only signed with the published default key.
    history : int or "all"
        How many generations of parents to take along; ``"all"`` takes what the registry has.
    expect : str or Digest, optional
        The CID that the root must hold.
    jobs : int, optional
        Threads.
    callback : fsspec.callbacks.Callback, optional
        Progress in stored bytes.

    Returns
    -------
    Pulled

    Raises
    ------
    ImageNotFound, BlobNotFound
        If the root holds no image, or lacks a part of it.
    SignatureError, ManifestError, IntegrityError
        If anything is not what was signed.
    Conflict
        If the root holds another image than `expect`.
    BadKey
        If a trusted key cannot be used.
    """
    start = time.perf_counter()
    depth_of(history)
    judge = verifier_for(parse(url).scheme, verifier=verifier, trusted_keys=trusted_keys)  # mistakes make no store
    local = open_store(store)
    source = Registry.open(url, storage_options=storage_options, limits=local.limits)
    image = read_image(source, judge, require_signature, expect)
    content = ReadThrough(source, local)
    try:
        wanted, ancestors = reach(image.manifest, content, history, local.limits)
    finally:
        local.files.flush()
    moved = transfer(source, local, plan(source, local, wanted), jobs=jobs, progress=Progress(callback))
    for manifest in (*reversed(ancestors), image.manifest):
        local.record(manifest)
    return Pulled(
        cid=image.manifest.cid,
        reference=source.name,
        manifest=image.manifest,
        trust=image.trust,
        received=moved.sent + content.blobs,
        received_bytes=moved.sent_bytes + content.size,
        skipped=moved.skipped - content.blobs,
        skipped_bytes=moved.skipped_bytes - content.size,
        images=1 + len(ancestors),
        seconds=time.perf_counter() - start,
    )


def clone(
    url: Place,
    target: str | os.PathLike[str],
    *,
    storage_options: Options | None = None,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
    require_signature: bool = False,
    expect: str | Digest | None = None,
    set_id: SetId = "refuse",
    links_inside: bool = False,
    jobs: int | None = None,
    callback: Callback | None = None,
) -> Cloned:
    """Write the files of an image straight from a registry into a new folder, in one pass and without a store.

    Parameters
    ----------
    url : str or path-like
        The reference of the root.
    target : path-like
        The folder, which must not exist. It is complete afterwards, or absent.
    storage_options, verifier, trusted_keys, require_signature, expect, jobs
        See :func:`pull`.
    set_id : {"refuse", "drop", "keep"}
        What to do about set-uid and set-gid bits of files.
    links_inside : bool
        Refuse links that point out of the tree, instead of restoring them as they were.
    callback : fsspec.callbacks.Callback, optional
        Progress in bytes of content.

    Raises
    ------
    TargetExists
        If there is something at `target`.
    TreeError
        If the tree is not safe to write.
    ImageNotFound, BlobNotFound, SignatureError, IntegrityError
        See :func:`pull`.
    """
    start = time.perf_counter()
    source = Registry.open(url, storage_options=storage_options)
    judge = verifier_for(source.scheme, verifier=verifier, trusted_keys=trusted_keys)
    image = read_image(source, judge, require_signature, expect)
    rules = _Rules(set_id, links_inside, jobs, Progress(callback))
    return _place(source, image.manifest, image.trust, target, rules, start)


def checkout(
    cid: Cid,
    target: str | os.PathLike[str],
    *,
    store: StorePlace = None,
    set_id: SetId = "refuse",
    links_inside: bool = False,
    jobs: int | None = None,
    callback: Callback | None = None,
) -> Cloned:
    """Write the files of an image from a store into a new folder; see :func:`clone`."""
    start = time.perf_counter()
    local = open_store(store, create=False)
    rules = _Rules(set_id, links_inside, jobs, Progress(callback))
    return _place(local, local.manifest(cid_of(cid)), None, target, rules, start)


def copy(
    source: Place,
    target: Place,
    *,
    storage_options: Options | None = None,
    target_options: Options | None = None,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
    require_signature: bool = False,
    history: int | str = 0,
    base: Place | None = None,
    expect: str | Digest | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    callback: Callback | None = None,
) -> Copied:
    """Copy an image from registry to registry, verified, verbatim, and through bounded memory.

    Between two roots of one object store, its server copies the blobs by itself: nothing of them is read then, and
    :func:`verify` tells whether they are whole.

    Parameters
    ----------
    source, target : str or path-like
        The references of the two roots.
    storage_options, target_options : mapping, optional
        Passed to the filesystem of the source and of the target.
    verifier, trusted_keys, require_signature
        About the source's signature, which is copied as it is; see :func:`pull`.
    history : int or "all"
        How many generations of parents to take along.
    base : str or path-like, optional
        Another root on the target's filesystem; see :func:`push`.
    expect : str or Digest, optional
        The CID that the target must hold for this copy to replace it; ``"absent"`` for none.
    jobs, callback
        See :func:`push`.
    executor : concurrent.futures.Executor, optional
        Whose workers move the blobs, such as ``client.get_executor()`` of a dask cluster; `jobs` is then the number of
        threads for one batch of blobs in a worker, and `callback` hears of whole batches. The workers open both places
        themselves, and credentials in the options travel to them. Without it, threads of this process do all.

    Raises
    ------
    BadOption
        If the target cannot be written to by several processes: Hugging Face, OCI, IPFS, this process's memory.
    ImageNotFound, BlobNotFound, SignatureError, IntegrityError
        About the source; see :func:`pull`.
    Conflict, AccessDenied, TransferError, StorageFull
        About the target; see :func:`push`.
    """
    start = time.perf_counter()
    origin = Registry.open(source, storage_options=storage_options)
    place = Registry.open(target, storage_options=target_options)
    check_executor(executor, target=place)
    judge = verifier_for(origin.scheme, verifier=verifier, trusted_keys=trusted_keys)
    keys = judge if isinstance(judge, KeyVerifier) else None
    near = _base(base, place, target_options) or (origin if place.copies_from(origin) else None)
    order = Order(history, near, parse_expect(expect), jobs, Progress(callback), executor=executor, keys=keys)
    image = read_image(origin, judge, require_signature, None)
    done = deliver(origin, place, image.manifest, image.signature, order)
    return Copied(
        cid=image.manifest.cid,
        source=origin.name,
        reference=place.name,
        committed=place.committed,
        trust=image.trust,
        images=done.images,
        published=done.published,
        seconds=time.perf_counter() - start,
        **_counts(done.moved),
    )


def exists(url: Place, *, storage_options: Options | None = None) -> bool:
    """Tell whether a root holds an image. Nothing is verified, and "forbidden" is an error, not an answer.

    Raises
    ------
    BadReference, AccessDenied, TransferError
        If that cannot be told.
    """
    return Registry.open(url, storage_options=storage_options).has_image()


def tags(url: Place, *, storage_options: Options | None = None) -> list[str]:
    """Return the names that a registry keeps beside the one in `url`: the tags of a repository, branches included.

    Parameters
    ----------
    url : str or path-like
        The reference of a root.
    storage_options : mapping, optional
        Passed to the filesystem.

    Raises
    ------
    UnsupportedRegistry
        If the registry has no such names.
    ImageNotFound
        If there is no such repository.
    """
    root = Registry.open(url, storage_options=storage_options)
    if not isinstance(root.fs, HasTags):
        raise UnsupportedRegistry("has no tags", operation="tags", place=root.name)
    with translated("tags", root.name):
        return sorted(root.fs.tags(root.path))


def prune(
    url: Place,
    *,
    grace: float = GRACE,
    dry_run: bool = True,
    storage_options: Options | None = None,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
) -> Pruned:
    """Remove from a root what its image, and the ancestors that are there, do not reach.

    Parameters
    ----------
    url : str or path-like
        The reference of the root.
    grace : float
        Seconds; anything younger stays, and so does what the filesystem cannot tell the age of, unless this is 0.
    dry_run : bool
        Only tell what would be removed.
    storage_options, verifier, trusted_keys
        See :func:`pull`.

    Raises
    ------
    ImageNotFound, SignatureError, IntegrityError, BlobNotFound
        If what the image reaches cannot be established; then nothing is removed.
    """
    check_grace(grace)
    root = Registry.open(url, storage_options=storage_options)
    if isinstance(root.fs, Keeps):
        raise UnsupportedRegistry("holds nothing but its image", operation="prune", place=root.name)
    judge = verifier_for(root.scheme, verifier=verifier, trusted_keys=trusted_keys)
    manifest = read_image(root, judge, False, None).manifest
    reachable, ancestors = reach(manifest, root.content, "all", root.limits)
    reachable.update((ancestor.cid, None) for ancestor in ancestors)
    before = time.time() - grace
    doomed: dict[str, int] = {}
    kept = 0
    # Where a write can be abandoned half-way, a manifest can be, too; elsewhere only the blobs are listed.
    folder = root.path if root.files.partials else root.path_in(layout.BLOBS)
    for path, found in root.files.find(folder).items():
        digest = layout.digest_of_blob(path)
        stale = found.modified < before if found.modified is not None else grace == 0
        if stale and (layout.is_partial(path) if digest is None else digest not in reachable):
            doomed[path] = found.size
        elif digest is not None:
            kept += 1
    if not dry_run and doomed:
        with root.commit():
            root.files.remove_many(list(doomed))
    names = (layout.digest_of_blob(path) or os.path.basename(path) for path in doomed)
    return Pruned(root.name, tuple(str(name) for name in names), sum(doomed.values()), kept, dry_run)


# -- what the verbs share ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rules:
    """How a tree is to be written to a disk."""

    set_id: SetId
    links_inside: bool
    jobs: int | None
    progress: Progress


def _base(base: Place | None, target: Registry, options: Options | None) -> Registry | None:
    if base is None:
        return None
    found = Registry.open(base, storage_options=options)
    if type(found.fs) is not type(target.fs):
        raise BadOption(
            f"base is on another filesystem than {target.name}",
            place=found.name,
            hint="base= copies inside one filesystem",
        )
    return found


def _signer(target: Registry, signer: Signer | None, key: PrivateKey | None, others: TrustedKeys | None) -> Signer:
    if key is None:
        if others is not None:
            raise BadOption("trusted_keys is about the sequence of signing_key", hint="give signing_key, too")
        return signer or HmacSigner.for_scheme(target.scheme)
    if signer is not None:
        raise BadOption("signer and signing_key both say who signs", hint="give one of them")
    address, known = target.location.reference.address, (key.public, *(trusted(others) or ()))
    sequence = next_sequence(target.readable()[1], address, known)
    return KeySigner(key, reference=address, sequence=sequence, hmac=HmacSigner.for_scheme(target.scheme))


def _place(
    source: BlobTree,
    manifest: Manifest,
    trust: Trust | None,
    target: str | os.PathLike[str],
    rules: _Rules,
    start: float,
) -> Cloned:
    raw = source.content(manifest.layers.world_fs, limit=source.limits.layer_bytes)
    placed = checkout_tree(
        Tree.from_bytes(raw, limits=source.limits),
        source,
        target,
        set_id=rules.set_id,
        links_inside=rules.links_inside,
        jobs=rules.jobs,
        progress=rules.progress,
    )
    return Cloned(
        cid=manifest.cid,
        target=os.path.abspath(os.fspath(target)),
        trust=trust,
        files=placed.files,
        folders=placed.folders,
        links=placed.links,
        size=placed.size,
        seconds=time.perf_counter() - start,
    )


def _counts(moved: Moved) -> dict[str, int]:
    return {name: getattr(moved, name) for name in Moved.__slots__}
