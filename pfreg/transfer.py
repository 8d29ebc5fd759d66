"""Moving blobs from one tree to another, verified and verbatim.

Rules
-----
- A blob is sent only if the target lacks it, or has it under another stored size. (Where a tree keeps frames of its
  own, another size is read before it is doubted.)
- What is sent are the stored bytes, never compressed anew, and only after their content has been verified. Where the
  target is local, what is verified are the very bytes that get the name.
- Blobs that ``base`` has are copied by the filesystem itself.
- A remote filesystem that says "written" is not believed: before anything is published, one more look has to show every
  blob with its stored size. An object store is: its answer to a PUT is a promise, kept with a checksum.
- Small blobs move in batches, large ones alone, through files or in parts. What is in memory at once is bounded by
  :data:`IN_MEMORY`, and by jobs.
- When something fails, nothing more is started, what was verified stays, and the error is raised: a second run sends
  the rest.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from pfreg.blobs import SMALL, BlobTree, Staging, check_content
from pfreg.digest import Digest
from pfreg.errors import BadOption, IntegrityError, TransferError, UnsupportedRegistry
from pfreg.local_files import LocalFiles
from pfreg.progress import Progress

__all__ = ["Moved", "Plan", "Sender", "check_blobs", "confirm", "plan", "run_all", "send", "transfer", "workers"]

T = TypeVar("T")
Wanted = Mapping[Digest, "int | None"]

IN_MEMORY = 128 << 20
"""Stored bytes that are in memory, and on their way, at once."""

_COPIES = 2  # of a part, while it is on its way: as it was read, and as it is sent
_BATCH_BLOBS = 64
_BATCH_BYTES = 4 << 20


class _Budget:
    """Bytes that may be taken by several threads, and have to be given back."""

    def __init__(self, most: int) -> None:
        self._most, self._free = most, most
        self._given_back = threading.Condition()

    @contextlib.contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, or all of them, if it is more than there are."""
        size = min(size, self._most)
        with self._given_back:
            self._given_back.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._given_back:
                self._free += size
                self._given_back.notify_all()


@dataclass(frozen=True, slots=True)
class Moved:
    """What a transfer did. Bytes are stored bytes.

    Parameters
    ----------
    sent, sent_bytes : int
        Blobs that went through this process.
    copied, copied_bytes : int
        Blobs that the target's filesystem took from the base itself.
    skipped, skipped_bytes : int
        Blobs that the target had.
    """

    sent: int = 0
    sent_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    skipped: int = 0
    skipped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do. Sizes are stored bytes.

    Parameters
    ----------
    wanted : mapping of Digest to int or None
        All blobs, with the length of their content where it is known.
    todo : mapping of Digest to int
        Those that the target needs.
    skipped : mapping of Digest to int
        Those that it has.
    """

    wanted: Wanted
    todo: Mapping[Digest, int]
    skipped: Mapping[Digest, int]


class Sender(Protocol):
    """Brings blobs from one tree to another; :func:`send` does it on threads of this process."""

    def __call__(
        self,
        source: BlobTree,
        target: BlobTree,
        todo: Mapping[Digest, int],
        wanted: Wanted,
        *,
        jobs: int | None,
        progress: Progress,
    ) -> None:
        """Send all of `todo`, verified, and have it visible in `target`."""
        ...


def send(
    source: BlobTree,
    target: BlobTree,
    todo: Mapping[Digest, int],
    wanted: Wanted,
    *,
    jobs: int | None,
    progress: Progress,
) -> None:
    """Send blobs, on threads.

    Parameters
    ----------
    source, target : BlobTree
        From where, to where.
    todo : mapping of Digest to int
        What to send, with its stored bytes.
    wanted : mapping of Digest to int or None
        At least the same blobs, with the length of their content where it is known.
    jobs : int or None
        Threads.
    progress : Progress
        Is told about every blob.
    """
    staging = target.files if isinstance(target.files, Staging) else None
    mover = _Mover(source, target, staging, wanted, progress)
    batches, alone = _batches(todo)
    calls: list[Callable[[], None]] = [partial(mover.large, digest, todo[digest]) for digest in alone]
    calls.extend(partial(mover.small, batch, todo) for batch in batches)
    try:
        run_all(calls, threads=workers(jobs, source, target))
    finally:
        target.files.flush()


def plan(source: BlobTree, target: BlobTree, wanted: Wanted) -> Plan:
    """Find out what `target` needs of `wanted`, by one look at each side.

    Raises
    ------
    BlobNotFound
        If neither side has a blob.
    IntegrityError
        If what a tree with frames of its own has cannot be read.
    """
    # What cannot be told about the target is sent: at worst once too often.
    there, here = source.present(wanted), target.present(wanted, surely=False)
    for digest in wanted:
        if digest not in there and digest not in here:
            raise source.missing(digest)
    doubted = [d for d, size in here.items() if d in there and there[d] != size]
    if target.own_frames and doubted:
        doubted = list(check_blobs(target, {d: wanted[d] for d in doubted}, here))
    todo = {d: there[d] for d in wanted if d not in here}
    todo.update((d, there[d]) for d in doubted)
    return Plan(wanted, todo, {d: size for d, size in here.items() if d not in todo})


def transfer(
    source: BlobTree,
    target: BlobTree,
    planned: Plan,
    *,
    base: BlobTree | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    sender: Sender = send,
) -> Moved:
    """Bring every blob that `target` needs there.

    Parameters
    ----------
    source, target : BlobTree
        From where, to where.
    planned : Plan
        What :func:`plan` said.
    base : BlobTree, optional
        A tree on the target's filesystem that may have some of them.
    jobs : int, optional
        Threads.
    progress : Progress, optional
        Is told about every blob.
    sender : Sender
        Sends what the base has not.

    Raises
    ------
    IntegrityError
        If a blob of the source is damaged.
    """
    progress = Progress() if progress is None else progress
    todo, skipped = planned.todo, planned.skipped
    progress.expect(size=sum(todo.values()) + sum(skipped.values()), blobs=len(planned.wanted))
    progress.advance(sum(skipped.values()), blobs=len(skipped))
    copied = _copy_from_base(base, target, todo, progress) if base is not None and todo else {}
    rest = {d: size for d, size in todo.items() if d not in copied}
    sender(source, target, rest, planned.wanted, jobs=jobs, progress=progress)
    return Moved(
        sent=len(rest),
        sent_bytes=sum(rest.values()),
        copied=len(copied),
        copied_bytes=sum(copied.values()),
        skipped=len(skipped),
        skipped_bytes=sum(skipped.values()),
    )


def confirm(target: BlobTree, sent: Mapping[Digest, int]) -> None:
    """Look whether the blobs that were sent are there, with their stored sizes, where that is not certain already.

    Raises
    ------
    TransferError
        If one is not.
    """
    if target.files.acknowledged or not sent:
        return
    there = target.present(sent)
    for digest, size in sent.items():
        if there.get(digest) != size:
            raise TransferError(
                f"blob {digest} was written, but {there.get(digest, 'none')} of its {size} bytes are there",
                operation="confirm",
                place=target.name,
                hint="run it again: what arrived is not sent again",
            )


def workers(jobs: int | None, *trees: BlobTree) -> int:
    """Return how many threads to use: `jobs`, or as many as the filesystems make good use of.

    Raises
    ------
    BadOption
        If `jobs` is no positive number.
    """
    if jobs is None:
        return max((tree.files.jobs for tree in trees), default=1)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise BadOption(f"jobs is a positive number of threads, not {jobs!r}")
    return jobs


def run_all(calls: Iterable[Callable[[], T]], *, threads: int) -> list[T]:
    """Run `calls` on threads; at the first failure start no more, wait for what runs, and raise it."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pfreg")
    try:
        futures = [pool.submit(call) for call in calls]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and not future.cancelled() and (error := future.exception()) is not None:
                raise error
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check_blobs(
    tree: BlobTree,
    wanted: Wanted,
    sizes: Mapping[Digest, int],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[Digest, str]:
    """Read blobs where they lie and verify them.

    Parameters
    ----------
    tree : BlobTree
        Where they lie.
    wanted : mapping of Digest to int or None
        The blobs, with the length of their content where it is known.
    sizes : mapping of Digest to int
        Their stored sizes; every blob of `wanted` is in it.

    Returns
    -------
    dict of Digest to str
        What is wrong with the damaged ones.
    """
    told = Progress() if progress is None else progress

    def small(batch: Sequence[Digest]) -> dict[Digest, str]:
        bad: dict[Digest, str] = {}
        for digest, data in zip(batch, tree.stored(batch, limit=SMALL), strict=True):
            try:
                check_content(digest, data, size=wanted[digest], limits=tree.limits)
            except IntegrityError as e:
                bad[digest] = e.problem
        told.advance(sum(sizes[d] for d in batch), blobs=len(batch))
        return bad

    def large(digest: Digest) -> dict[Digest, str]:
        branch = told.branch(sizes[digest])
        try:
            with tree.stored_file(digest, limit=sizes[digest], callback=branch) as path:
                tree.check_file(digest, path, size=wanted[digest])
        except IntegrityError as e:
            return {digest: e.problem}
        finally:
            branch.finish()
        return {}

    batches, alone = _batches({digest: sizes[digest] for digest in wanted})
    calls: list[Callable[[], dict[Digest, str]]] = [partial(large, digest) for digest in alone]
    calls.extend(partial(small, batch) for batch in batches)
    found = run_all(calls, threads=workers(jobs, tree))
    return {digest: problem for bad in found for digest, problem in bad.items()}


def _copy_from_base(
    base: BlobTree, target: BlobTree, todo: Mapping[Digest, int], progress: Progress
) -> dict[Digest, int]:
    has = base.present(todo)
    most = target.files.largest_copy
    copied = {digest: size for digest, size in todo.items() if has.get(digest) == size <= most}
    try:
        target.files.copy_many([(base.path_of(digest), target.path_of(digest)) for digest in copied])
    except (NotImplementedError, UnsupportedRegistry):
        return {}  # this filesystem has no copy of its own
    finally:
        target.files.flush()
    progress.advance(sum(copied.values()), blobs=len(copied))
    return copied


def _batches(sizes: Mapping[Digest, int]) -> tuple[list[list[Digest]], list[Digest]]:
    """Cut blobs into batches of small ones, and large ones alone, the largest first."""
    alone = sorted((d for d, size in sizes.items() if size > SMALL), key=lambda d: -sizes[d])
    batches: list[list[Digest]] = [[]]
    weight = 0
    for digest, size in sizes.items():
        if size > SMALL:
            continue
        if batches[-1] and (len(batches[-1]) >= _BATCH_BLOBS or weight + size > _BATCH_BYTES):
            batches.append([])
            weight = 0
        batches[-1].append(digest)
        weight += size
    return [batch for batch in batches if batch], alone


@dataclass(frozen=True, slots=True)
class _Mover:
    """Moves blobs between two trees; called from several threads."""

    source: BlobTree
    target: BlobTree
    staging: Staging | None  # the target's files, where a local file can be moved into them
    wanted: Wanted
    progress: Progress
    budget: _Budget = field(default_factory=lambda: _Budget(IN_MEMORY))

    def small(self, batch: Sequence[Digest], sizes: Mapping[Digest, int]) -> None:
        """Move a batch through memory."""
        with self.budget.taking(sum(sizes[digest] for digest in batch)):
            stored = self.source.stored(batch, limit=SMALL)
            items = [(self.target.path_of(d), self._checked(d, data)) for d, data in zip(batch, stored, strict=True)]
            self.target.files.write_many(items)
        self.progress.advance(sum(sizes[d] for d in batch), blobs=len(batch))

    def large(self, digest: Digest, size: int) -> None:
        """Move one blob through a file."""
        branch = self.progress.branch(size)
        path = self.target.path_of(digest)
        held = max(self.source.files.held, self.target.files.held)
        with self.budget.taking(min(_COPIES * size, held)):
            if self.staging is not None:
                with self.staging.incoming(path) as temporary:
                    self.source.fetch_checked(digest, temporary, limit=size, size=self.wanted[digest], callback=branch)
            else:
                with self.source.stored_file(digest, limit=size) as local:
                    self.source.check_file(digest, local, size=self.wanted[digest])
                    self.target.files.write_from(local, path, callback=branch)
        branch.finish()

    def _checked(self, digest: Digest, data: bytes) -> bytes:
        """Return stored bytes that are verified; a remote source may answer once more, better."""
        try:
            check_content(digest, data, size=self.wanted[digest], limits=self.source.limits)
            return data
        except IntegrityError:
            if not isinstance(self.source.files, LocalFiles):
                (data,) = self.source.stored([digest], limit=SMALL)
        with self.source.blaming(digest):
            check_content(digest, data, size=self.wanted[digest], limits=self.source.limits)
        return data
