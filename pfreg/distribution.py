"""Moving and checking blobs on other processes and machines: the same work, cut into batches for an executor.

Rules
-----
- Only names travel. A batch says which blobs, from where and to where; whoever gets it opens both places anew, and
  verifies there what is verified here otherwise. Planning and publishing stay in the process that was asked.
- A batch that is lost (its worker was killed) is submitted again, twice at most. An error of pfreg's own ends the work:
  nothing more is started, what arrived stays, and a second run sends the rest.
- Credentials travel with a batch, and show in no repr, name or key: dask logs the reprs of what fails, and shows names
  and keys to whoever looks at its dashboard. An error comes back without its causes, which may hold some.
- No two submissions have the same key: what a place held a minute ago says nothing about what it holds now.
- A worker's folder, or server, may be another than ours of the same name: what workers wrote is looked for from here.
  Their memory is another, and that they tell.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from pfreg.blobs import BlobTree
from pfreg.digest import Digest
from pfreg.errors import BadOption, PfregError, TransferError, one_line
from pfreg.files import presentable, redacted, translated
from pfreg.limits import Limits
from pfreg.local_files import LocalFiles
from pfreg.progress import Progress
from pfreg.registry import Registry
from pfreg.transfer import Wanted, check_blobs, send

__all__ = ["Address", "Batch", "check", "check_by", "check_executor", "move", "send_by"]

T = TypeVar("T")

_BATCH_BLOBS = 512
_BATCH_BYTES = 64 << 20  # to open a place again takes as long as to move a few hundred small blobs
_ATTEMPTS = 3
_PROCESS = secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Address:
    """What opens a tree of blobs again, in whichever process.

    Parameters
    ----------
    name : str
        What to call it; its reference, unless it is a local folder.
    folder : str or None
        The local folder that it is.
    options : mapping
        Its ``storage_options``.
    limits : Limits
        Bounds for what is read.
    process : str or None
        The one process that can open it, because it is in that one's memory.
    secrets : tuple of str
        What must not appear in errors.
    """

    name: str
    folder: str | None
    options: Mapping[str, Any] = field(repr=False)
    limits: Limits = field(repr=False)
    process: str | None = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, tree: BlobTree) -> Address:
        """Return the address of a root, or of a store."""
        if isinstance(tree, Registry) and not isinstance(tree.files, LocalFiles):
            process = _this_process() if tree.scheme == "memory" else None
            return cls(tree.name, None, tree.location.options, tree.limits, process, tree.location.secrets)
        return cls(tree.name, tree.path, {}, tree.limits, None, ())

    def open(self) -> BlobTree:
        """Open it.

        Raises
        ------
        BadOption
            If it is in the memory of another process.
        PfregError
            See :meth:`pfreg.registry.Registry.open`.
        """
        if self.folder is not None:
            return BlobTree(LocalFiles(), self.folder, name=self.name, limits=self.limits)
        if self.process not in (None, _this_process()):
            raise BadOption(
                "a process of the executor cannot see the memory of the one that asks",
                place=self.name,
                hint="use a place that both can reach, or threads",
            )
        return Registry.open(self.name, storage_options=self.options, limits=self.limits)

    def __dask_tokenize__(self) -> str:
        return self.name  # a key, which everybody sees, is not even to have a hash of the options in it


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Some blobs, for one worker.

    Parameters
    ----------
    stored : mapping of Digest to int
        The blobs, with their stored bytes.
    contents : mapping of Digest to int or None
        The same ones, with the length of their content where it is known.
    jobs : int or None
        Threads.
    key : str
        Makes this submission another than every other.
    """

    stored: Mapping[Digest, int]
    contents: Wanted
    jobs: int | None
    key: str = ""

    def __repr__(self) -> str:
        return f"<Batch of {len(self.stored)} blobs, {self.size} bytes>"

    @property
    def size(self) -> int:
        """All stored bytes."""
        return sum(self.stored.values())

    def __dask_tokenize__(self) -> str:
        return self.key


def move(source: Address, target: Address, batch: Batch) -> None:
    """Send a batch from one place to another; this is what a worker runs."""
    with _errors_alone("copy", target, source.secrets + target.secrets):
        send(source.open(), target.open(), batch.stored, batch.contents, jobs=batch.jobs, progress=Progress())


def check(place: Address, batch: Batch) -> dict[Digest, str]:
    """Verify a batch where it lies, and return what is wrong with it; this is what a worker runs."""
    with _errors_alone("verify", place, place.secrets):
        return check_blobs(place.open(), batch.contents, batch.stored, jobs=batch.jobs)


@contextlib.contextmanager
def _errors_alone(operation: str, place: Address, hidden: Sequence[str]) -> Iterator[None]:
    """Let errors of pfreg's own out, and nothing of what led to them: dask sends that along, and keeps it."""
    try:
        with translated(operation, place.name, secrets=hidden):
            yield
    except PfregError as e:
        e.__cause__ = e.__context__ = None
        raise


def check_executor(executor: Executor | None, *, target: Registry | None = None) -> None:
    """Refuse what cannot be distributed.

    Parameters
    ----------
    executor : concurrent.futures.Executor or None
        What the caller gave.
    target : Registry, optional
        What it is to write to.

    Raises
    ------
    BadOption
        If it is no executor, or if `target` takes everything in one commit.
    """
    if executor is None:
        return
    if not isinstance(executor, Executor):
        raise BadOption(
            f"executor is a concurrent.futures.Executor, not {type(executor).__name__}",
            hint="a dask client's is client.get_executor()",
        )
    if target is not None and target.transactional:
        raise BadOption(
            "a push to this registry is one commit, which one process makes: an executor cannot share it",
            operation="copy",
            place=target.name,
            hint="leave executor= out; jobs= sets the number of threads",
        )


def send_by(
    executor: Executor,
    source: BlobTree,
    target: BlobTree,
    todo: Mapping[Digest, int],
    wanted: Wanted,
    *,
    jobs: int | None,
    progress: Progress,
) -> None:
    """Send blobs by the workers of `executor`; otherwise as :func:`pfreg.transfer.send` does.

    Raises
    ------
    TransferError
        If a batch was lost again and again, the executor takes no more, or the workers wrote somewhere else.
    PfregError
        Whatever a worker raised.
    """
    _run(executor, move, _addresses(executor, source, target), _cut(todo, wanted, jobs), progress)
    if target.files.acknowledged:  # nobody else is going to look
        there = target.present(todo)
        absent = sum(there.get(digest) != size for digest, size in todo.items())
        if absent:
            raise TransferError(
                f"{absent} of {len(todo)} blobs that the workers wrote are not here",
                operation="confirm",
                place=target.name,
                hint="this reference must mean the same place to every worker",
            )


def check_by(
    executor: Executor,
    tree: BlobTree,
    wanted: Wanted,
    sizes: Mapping[Digest, int],
    *,
    jobs: int | None,
    progress: Progress,
) -> dict[Digest, str]:
    """Verify blobs by the workers of `executor`; otherwise as :func:`pfreg.transfer.check_blobs` does."""
    batches = _cut({digest: sizes[digest] for digest in wanted}, wanted, jobs)
    found = _run(executor, check, _addresses(executor, tree), batches, progress)
    bad = {digest: problem for part in found for digest, problem in part.items()}
    return {digest: bad[digest] for digest in wanted if digest in bad}


def _addresses(executor: Executor, *trees: BlobTree) -> tuple[Address, ...]:
    """Return how workers find the trees; refuse options that cannot travel, before an executor logs what it cannot."""
    found = tuple(Address.of(tree) for tree in trees)
    for address in found if not isinstance(executor, ThreadPoolExecutor) else ():
        for name, value in address.options.items():
            try:
                pickle.dumps(value)
            except Exception:  # noqa: BLE001 - a class may raise what it likes, and with what it likes in it
                problem = f"the storage option {name!r} cannot be sent to other processes: it cannot be pickled"
                raise BadOption(problem, operation="distribute", place=address.name) from None
    return found


def _cut(stored: Mapping[Digest, int], contents: Wanted, jobs: int | None) -> Iterator[Batch]:
    """Cut blobs into batches, the largest blobs first, so that no worker ends long after the others."""
    part: dict[Digest, int] = {}
    weight = 0
    for digest, size in sorted(stored.items(), key=lambda item: -item[1]):
        if part and (len(part) >= _BATCH_BLOBS or weight + size > _BATCH_BYTES):
            yield Batch(part, {d: contents[d] for d in part}, jobs)
            part, weight = {}, 0
        part[digest] = size
        weight += size
    if part:
        yield Batch(part, {d: contents[d] for d in part}, jobs)


def _run(
    executor: Executor,
    work: Callable[..., T],
    places: tuple[Address, ...],
    batches: Iterator[Batch],
    progress: Progress,
) -> list[T]:
    """Let `executor` do all batches, and return their results; what is lost is done again."""
    pending: dict[Future[T], tuple[Batch, int]] = {}

    def start(batch: Batch, attempt: int) -> None:
        unique = replace(batch, key=secrets.token_hex(16))
        try:
            pending[executor.submit(work, *places, unique)] = batch, attempt
        except Exception as e:  # noqa: BLE001 - each kind of executor has exceptions of its own
            _give_up("the executor takes no more work", places, e)

    results: list[T] = []
    try:
        for batch in batches:
            start(batch, 1)
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                batch, attempt = pending.pop(future)
                error = CancelledError() if future.cancelled() else future.exception()
                if error is None:
                    results.append(future.result())
                    progress.advance(batch.size, blobs=len(batch.stored))
                elif isinstance(error, PfregError):
                    raise error
                elif attempt == _ATTEMPTS:
                    _give_up(f"a batch of {len(batch.stored)} blobs was lost {attempt} times", places, error)
                else:
                    start(batch, attempt + 1)
        return results
    finally:
        wait([future for future in pending if not future.cancel()])


def _give_up(problem: str, places: tuple[Address, ...], e: BaseException) -> NoReturn:
    """Say what became of the executor, without what its exception may show of what it was given."""
    hidden = [secret for place in places for secret in place.secrets]
    raise TransferError(
        one_line(f"{problem}: {type(e).__name__}: {redacted(str(e), hidden)}", limit=300),
        operation="distribute",
        place=places[-1].name,
        hint="did a worker run out of memory? run it again: what arrived is not sent again",
    ) from presentable(e, hidden)


def _this_process() -> str:
    return f"{_PROCESS}-{os.getpid()}"  # a fork has the same variables
