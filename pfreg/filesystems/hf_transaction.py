"""The transaction of the Hugging Face filesystem: files are staged as they are written, its end makes one commit.

Rules
-----
- One transaction, one commit, to one branch. Unchanged: no commit. An exception inside: no commit, no temporary file.
- A local file is never copied. It is linked into the folder for temporary files, and may go; where it lies on another
  disk, it has to stay until the transaction ends. Nobody may change it. Bytes stay in memory while they are few; longer
  ones, and streams, go to a temporary file.
- Content that the Hub keeps outside git (LFS, Xet) is uploaded in batches while the transaction runs, and released at
  once, so that neither memory nor disk grows with the size of a push. What was uploaded without a commit is invisible.
- The commit is made on top of the commit that the files were compared with; ``hf_commit.py`` says what happens when the
  branch has moved.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from fsspec.transaction import Transaction
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

from pfreg.errors import AccessDenied, BadOption, LimitExceeded, UnsupportedRegistry
from pfreg.filesystems.hf_calls import LOG_IN
from pfreg.filesystems.hf_card import CARD, dataset_card
from pfreg.filesystems.hf_commit import Operation, Push, Stored, commit_once
from pfreg.filesystems.hf_place import HubPath
from pfreg.filesystems.hf_upload import is_released, upload

if TYPE_CHECKING:
    from pfreg.filesystems.hf import HfCommitFileSystem

__all__ = ["HfCommitTransaction", "OutgoingFile"]

BATCH_FILES = 256
"""Files uploaded together at most: what the Hub takes in one preupload request."""

BATCH_BYTES = 64 << 20
"""Bytes that are staged before they are uploaded, unless one file alone is larger."""

KEPT_IN_MEMORY = 256 << 10
"""Bytes of a value up to which it is staged in memory; larger ones go to a temporary file."""

MANY = 1_000
"""Operations in one commit from which we warn that the Hub may take its time."""

P = TypeVar("P")

_log = logging.getLogger(__name__)


class HfCommitTransaction(Transaction):  # type: ignore[misc]  # fsspec has no types
    """Collects writes, copies and deletions, and commits all of them at once.

    Parameters
    ----------
    fs : HfCommitFileSystem
        The filesystem that it belongs to.
    solo : bool
        It serves one write outside ``with fs.transaction``, and ends with it.
    """

    def __init__(self, fs: HfCommitFileSystem, *, solo: bool = False) -> None:
        super().__init__(fs)
        self.hub: HfCommitFileSystem = fs
        self._solo = solo
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self._operations: dict[str, Operation] = {}
        self._waiting: dict[str, CommitOperationAdd] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._temporary: dict[str, str] = {}
        self._open: set[OutgoingFile[HubPath]] = set()
        self._root: HubPath | None = None
        self._parent = ""

    def start(self) -> None:
        """Begin; called by ``with``.

        Raises
        ------
        UnsupportedRegistry
            If a transaction of this filesystem is running already.
        AccessDenied
            If there is no token, without which nothing can be committed.
        """
        if self.hub._intrans:
            raise UnsupportedRegistry(
                "a transaction is running on this filesystem already", hint="end it first, or use another instance"
            )
        self.check_token()
        super().start()
        self._begin()
        self.hub.committed = None

    def check_token(self) -> None:
        """Refuse to begin what the Hub would refuse at its end."""
        if not self.hub.has_token:
            raise AccessDenied("writing to the Hugging Face Hub needs a token", operation="write", hint=LOG_IN)

    def complete(self, commit: bool = True) -> None:
        """Commit everything that was staged, or forget it.

        Parameters
        ----------
        commit : bool
            False where the block ended in an exception.

        Raises
        ------
        Conflict, AccessDenied, StorageFull, TransferError
            As :func:`~pfreg.filesystems.hf_commit.commit_once` says. Nothing is published then.
        """
        try:
            if commit:
                self.hub.committed = self.commit()
        finally:
            self.discard()
            self.files.clear()
            hub, self.fs = self.hub, None
            hub._intrans, hub._transaction = False, None
            hub._invalidated_caches_in_transaction.clear()

    def finish(self) -> None:
        """Commit what was staged for a single write."""
        try:
            self.hub.committed = self.commit()
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget everything that was staged, temporary files included."""
        for file in list(self._open):
            file.discard()
        if self._folder is not None:
            self._folder.cleanup()
        self._begin()

    def commit(self) -> str | None:
        """Publish what was staged; return the commit that holds it, None where nothing was staged."""
        with self._lock:
            if self._open:
                raise BadOption("a file is still open for writing", operation="commit", hint="close it before the end")
            if self._root is None:
                return None
            branch = self._root.branch
            stored = self.hub.stored(self._root, [*self._operations, CARD])
            self._leave_out_unchanged(stored)
            if not self._operations:
                return self._parent
            if self.hub.card and not stored and CARD not in self._operations:
                self.add(self._root.at(CARD), dataset_card(branch))
            self._upload()
            operations = list(self._operations.values())
            message = self.hub.commit_message or f"pf push: {len(operations)} files"
            push = Push(self.hub.api, branch, operations, message)
            commit = commit_once(push, parent=self._parent, patience=self.hub.patience())
            self.hub.pin(branch, commit)
            return commit

    def add(self, path: HubPath, source: bytes | str) -> None:
        """Stage a file.

        Parameters
        ----------
        path : HubPath
            Where it goes.
        source : bytes or str
            Its content, or the path of a local file that nobody changes until the transaction ends.

        Raises
        ------
        LimitExceeded
            If that were more operations than one commit may have.
        """
        if isinstance(source, bytes) and len(source) > KEPT_IN_MEMORY:
            with self.create(path) as file:
                file.write(source)
            return
        link = self._linked(source) if isinstance(source, str) else None
        self._add(path, CommitOperationAdd(path.path, link or source), temporary=link)

    def _add(self, path: HubPath, addition: CommitOperationAdd, *, temporary: str | None = None) -> None:
        with self._lock:
            self._stage(path, addition)
            self._waiting[path.path] = addition
            if temporary is not None:
                self._temporary[path.path] = temporary
            held = sum(waiting.upload_info.size for waiting in self._waiting.values())
            if len(self._waiting) >= BATCH_FILES or held >= BATCH_BYTES:
                self._upload()

    def create(self, path: HubPath) -> OutgoingFile[HubPath]:
        """Return a writable file that is staged when it is closed."""
        with self._lock:
            self._bind(path)
            handle, local = tempfile.mkstemp(dir=self._scratch())
            file = OutgoingFile(self, path, handle, local)
            self._open.add(file)
            return file

    def finished(self, file: OutgoingFile[HubPath], *, keep: bool) -> None:
        """Stage a temporary file that was written to its end, or remove it."""
        with self._lock:
            if file not in self._open:
                return
            self._open.discard(file)
            if not keep:
                os.unlink(file.local)
                if self._solo:
                    self.discard()
                return
            self._add(file.path, CommitOperationAdd(file.path.path, file.local), temporary=file.local)
            if self._solo:
                self.finish()

    def delete(self, path: HubPath) -> None:
        """Stage the deletion of a file that the branch has, or forget one that was only staged."""
        with self._lock:
            self._bind(path)
            if self.hub.stored(path, [path.path]):
                self._stage(path, CommitOperationDelete(path.path, is_folder=False))
            elif path.path in self._operations:
                self._forget(path.path)
            else:
                raise FileNotFoundError(path.path)

    def copy(self, source: HubPath, target: HubPath) -> None:
        """Stage a copy inside one repository, of the file as the transaction found it."""
        if (source.branch.repo_type, source.branch.repo_id) != (target.branch.repo_type, target.branch.repo_id):
            raise UnsupportedRegistry("copying between repositories", place=str(target.branch))
        revision = self.hub.commit_of(source.branch)
        with self._lock:
            self._stage(target, CommitOperationCopy(source.path, target.path, src_revision=revision))

    def _bind(self, path: HubPath) -> None:
        if self._root is None:
            self.check_token()
            self._parent = self.hub.prepare(path)
            self._root = path
        elif path.branch != self._root.branch:
            raise UnsupportedRegistry(
                f"one transaction commits to one branch, {self._root.branch}", place=str(path.branch)
            )

    def _scratch(self) -> str:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="pfreg-hf-")
        return self._folder.name

    def _linked(self, local: str) -> str | None:
        """Return another name for a file, which survives that it is removed; None where there can be none."""
        name = os.path.join(self._scratch(), secrets.token_hex(16))
        try:
            os.link(local, name)
        except OSError:
            return None
        return name

    def _stage(self, path: HubPath, operation: Operation) -> None:
        """Take an operation in; the last one on a path counts."""
        self._bind(path)
        self._forget(path.path)
        self._operations[path.path] = operation
        count = len(self._operations)
        if count == MANY:
            _log.warning("%s: %d files in one commit, the Hub may take its time over it", path.branch, count)
        self.check_count(path, count)

    def check_count(self, path: HubPath, count: int) -> None:
        """Refuse more operations than one commit may have.

        Raises
        ------
        LimitExceeded
            If `count` is more.
        """
        if count > self.hub.max_operations:
            raise LimitExceeded(
                f"more than {self.hub.max_operations:,} files in one commit",
                operation="push",
                place=str(path.branch),
                hint="push it to a bucket or to S3, or pass max_operations= where the Hub is known to take it",
            )

    def _forget(self, path: str) -> None:
        self._operations.pop(path, None)
        self._waiting.pop(path, None)
        if local := self._temporary.pop(path, None):
            os.unlink(local)

    def _leave_out_unchanged(self, stored: Mapping[str, Stored]) -> None:
        for path, entry in stored.items():
            waiting = self._waiting.get(path)
            if waiting is not None and entry.holds(waiting):
                self._forget(path)

    def _upload(self) -> None:
        """Send what the Hub keeps outside git of all that is waiting, and let go of it."""
        batch, self._waiting = list(self._waiting.values()), {}
        if not batch or self._root is None:
            return
        upload(self.hub.api, self._root.branch, batch)
        for addition in batch:
            if is_released(addition) and (local := self._temporary.pop(addition.path_in_repo, None)):
                os.unlink(local)


class Owner(Protocol):
    """Who gets a file when it is written."""

    def finished(self, file: Any, *, keep: bool) -> None:
        """Take the temporary file over, or remove it."""
        ...


class OutgoingFile(io.BufferedWriter, Generic[P]):
    """A temporary file that is sent when it is closed; a failed block, or a file that is forgotten, drops it.

    Parameters
    ----------
    owner : Owner
        Who sends it.
    path : HubPath or str
        Where it goes.
    handle : int
        The open temporary file.
    local : str
        Its path.
    """

    def __init__(self, owner: Owner, path: P, handle: int, local: str) -> None:
        super().__init__(io.FileIO(handle, "wb"))
        self._owner = owner
        self.path = path
        self.local = local

    def close(self) -> None:
        """Finish the file and stage it."""
        self._finish(keep=True)

    def discard(self) -> None:
        """Drop the file."""
        self._finish(keep=False)

    def _finish(self, *, keep: bool) -> None:
        if self.closed:
            return
        super().close()
        self._owner.finished(self, keep=keep)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish(keep=kind is None)

    def __del__(self) -> None:
        self.discard()
