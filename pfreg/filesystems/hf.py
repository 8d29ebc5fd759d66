"""The Hugging Face Hub as a filesystem whose transaction is one commit.

Rules
-----
- Inside a transaction all writes are one commit; outside, every write is one of its own. Readers see the commit that
  they are pinned to (``hf_pinned.py``), never what is only staged; our own commit moves the pin.
- What is written goes on top of the commit that was read; ``hf_commit.py`` says what happens when the branch has moved.
- A repository or branch that is missing is created when something is written to it, private unless asked for otherwise.
- Paths and revisions are those of huggingface_hub (``hf_place.py``).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractFileSystem
from huggingface_hub.errors import RevisionNotFoundError

from pfreg.errors import ImageNotFound, TargetExists, UnsupportedRegistry
from pfreg.filesystems.hf_pinned import HfPinnedFileSystem
from pfreg.filesystems.hf_place import HubPath
from pfreg.filesystems.hf_repository import head_of, is_branch, make_branch
from pfreg.filesystems.hf_transaction import HfCommitTransaction

__all__ = ["HfCommitFileSystem"]


class HfCommitFileSystem(HfPinnedFileSystem):
    """Repositories of the Hugging Face Hub; ``with fs.transaction:`` ends in one commit.

    Parameters
    ----------
    create : bool
        Create a missing repository or branch when something is written to it.
    public : bool
        Make a repository that is created public; private otherwise.
    commit_message : str, optional
        The first line of commits; by default ``pf push: N files``.
    card : bool
        Write a dataset card with the first commit into a repository that has none.
    max_operations : int
        Files that one commit may have.
    **storage_options
        ``endpoint``, ``token`` and ``retry_for``, as :class:`HfPinnedFileSystem` has them.

    Attributes
    ----------
    committed : str or None
        After a transaction: the commit that holds what it wrote, also where it changed nothing.
    """

    transaction_type = HfCommitTransaction
    transaction_is_commit = True
    # The parent overrides both with "not supported": put fsspec's own back.
    transaction = AbstractFileSystem.transaction

    def __init__(
        self,
        *args: Any,
        create: bool = True,
        public: bool = False,
        commit_message: str | None = None,
        card: bool = False,
        max_operations: int = 20_000,
        **storage_options: Any,
    ) -> None:
        super().__init__(*args, **storage_options)
        self.create = create
        self.public = public
        self.commit_message = commit_message
        self.card = card
        self.max_operations = max_operations
        self.committed: str | None = None

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if mode not in ("wb", "xb"):
            return super()._open(path, mode, block_size, revision, **kwargs)
        if mode == "xb":
            self._check_absent(path)
        transaction = self._transaction if self._intrans else HfCommitTransaction(self, solo=True)
        return transaction.create(self._place(path, revision))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file.

        Raises
        ------
        TargetExists
            If it is there and `mode` is ``"create"``.
        Conflict, AccessDenied, StorageFull, TransferError
            Outside a transaction, as :func:`~pfreg.filesystems.hf_commit.commit_once` says.
        """
        if mode == "create":
            self._check_absent(path)
        with self._writing() as transaction:
            transaction.add(self._place(path), bytes(value))

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Write a local file; it is read when its batch is uploaded, so it has to stay until the transaction ends.

        Raises
        ------
        TargetExists
            If it is there and `mode` is ``"create"``.
        Conflict, AccessDenied, StorageFull, TransferError
            Outside a transaction, as :func:`~pfreg.filesystems.hf_commit.commit_once` says.
        """
        if os.path.isdir(lpath):
            return
        if mode == "create":
            self._check_absent(rpath)
        with self._writing() as transaction:
            transaction.add(self._place(rpath), os.fspath(lpath))
        callback.set_size(os.path.getsize(lpath))
        callback.absolute_update(os.path.getsize(lpath))

    def announce(self, paths: Collection[str]) -> None:
        """Refuse a commit of `paths` that would be too large, before anything of it is sent.

        Raises
        ------
        LimitExceeded
            If more of them are not there yet than one commit may have.
        """
        if len(paths) <= self.max_operations:
            return
        places = [self._place(path) for path in paths]
        with self._writing() as transaction:
            there = self.stored(places[0], [place.path for place in places])
            transaction.check_count(places[0], len(places) - len(there))

    def cp_file(self, path1: str, path2: str, revision: str | None = None, **kwargs: Any) -> None:
        """Copy a file inside its repository, without moving its bytes."""
        with self._writing() as transaction:
            transaction.copy(self._place(path1, revision), self._place(path2))

    def _rm(self, path: str, revision: str | None = None, **kwargs: Any) -> None:
        with self._writing() as transaction:
            transaction.delete(self._place(path, revision))

    def rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        maxdepth: int | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Delete files, in one commit.

        Raises
        ------
        FileNotFoundError
            If there is nothing to delete.
        """
        found = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        with self._writing() as transaction:
            for name in found:
                if not self.isdir(name):
                    transaction.delete(self._place(name, revision))

    def start_transaction(self) -> HfCommitTransaction:
        """Begin a transaction without ``with``; :meth:`end_transaction` commits it."""
        transaction: HfCommitTransaction = self.transaction
        transaction.start()
        return transaction

    @contextmanager
    def _writing(self) -> Iterator[HfCommitTransaction]:
        """Give the running transaction, or one for this write alone."""
        if self._intrans:
            yield self._transaction
            return
        alone = HfCommitTransaction(self, solo=True)
        try:
            yield alone
            alone.finish()
        finally:
            alone.discard()

    def _check_absent(self, path: str) -> None:
        if self.exists(path):
            raise TargetExists("there is such a file already", operation="create", place=path)

    def prepare(self, place: HubPath) -> str:
        """Make sure that the branch of `place` can take a commit, and return the commit that it stands at.

        Raises
        ------
        UnsupportedRegistry
            If it is a tag or a commit.
        ImageNotFound
            If repository or branch are missing and may not be created.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        branch = place.branch
        if branch.is_commit:
            raise UnsupportedRegistry("a commit cannot be changed", place=str(branch), hint="name a branch")
        try:
            commit = self.commit_of(branch)
        except ImageNotFound as error:
            if not self.create:
                raise
            make_branch(self.api, branch, error, public=self.public, patience=self.patience())
            self.pin(branch, head_of(self.api, branch, self.patience()))
            if not isinstance(error.__cause__, RevisionNotFoundError):
                self.dircache[place.root] = []
            return self.commit_of(branch)
        if branch.name != "main" and not is_branch(self.api, branch, self.patience()):
            raise UnsupportedRegistry("a tag cannot be changed", place=str(branch), hint="name a branch")
        return commit
