"""One commit, exactly once.

Rules
-----
- A commit that failed is never repeated before the branch's head has been read: perhaps only the answer was lost. A
  random mark in the commit's description tells whether a commit that is there is ours.
- Head unchanged: nothing landed, try again. Head moved and the mark is found: done. Head moved by somebody else:
  :class:`~pfreg.errors.Conflict`, unless they only added files, and none that we write, copy or delete with other
  content; then our commit goes on top of theirs.
- Every attempt names its parent commit, so that an attempt which lands late cannot land beside another one.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, paginate

from pfreg.errors import Conflict
from pfreg.filesystems.hf_calls import HubError, Patience, call, passes, quiet, status, translate
from pfreg.filesystems.hf_place import Branch
from pfreg.filesystems.hf_repository import head_of

__all__ = ["Operation", "Push", "Stored", "commit_once"]

Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

_MOVED = 412


@dataclass(frozen=True, slots=True)
class Stored:
    """What the Hub says about a file that it has.

    Parameters
    ----------
    size : int
        Bytes of the file itself, not of its pointer.
    blob_id : str
        The git blob's id: of the content, or of the pointer to it.
    sha256 : str or None
        Of the content, where the file is kept outside git (LFS, Xet).
    """

    size: int
    blob_id: str
    sha256: str | None

    @classmethod
    def of(cls, entry: RepoFile) -> Stored:
        """Read the Hub client's description of a file."""
        return cls(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)

    def holds(self, addition: CommitOperationAdd) -> bool:
        """Whether the file has the bytes that `addition` would write."""
        if self.size != addition.upload_info.size:
            return False
        if self.sha256 is not None:
            return self.sha256 == addition.upload_info.sha256.hex()
        with addition.as_file() as file:
            content = file.read(self.size + 1)
        return self.blob_id == _git_blob_id(content)


@dataclass(frozen=True, slots=True)
class Push:
    """What is to be committed, and where.

    Parameters
    ----------
    api : HfApi
        The Hub, with its endpoint and token.
    branch : Branch
        The branch that gets the commit.
    operations : sequence of Operation
        Files added, copied and deleted; those kept outside git are uploaded already.
    message : str
        The commit's first line.
    mark : str
        What no other commit has in its description.
    """

    api: HfApi
    branch: Branch
    operations: Sequence[Operation]
    message: str
    mark: str = field(default_factory=lambda: f"pfreg-commit: {secrets.token_hex(16)}")


def commit_once(push: Push, *, parent: str, patience: Patience) -> str:
    """Make one commit on top of `parent`.

    Parameters
    ----------
    push : Push
        What is to be committed, and where.
    parent : str
        The commit that the operations were computed against.
    patience : Patience
        When to stop repeating.

    Returns
    -------
    str
        The commit that holds the operations: the new one, or the branch's head where they changed nothing.

    Raises
    ------
    Conflict
        If somebody else changed the branch in a way that ours does not go on top of.
    AccessDenied, StorageFull, TransferError
        If the Hub refuses, or fails for longer than the deadline.
    """
    api, branch = push.api, push.branch
    while True:
        try:
            commit, changed = _attempt(push, parent)
        except HubError as error:
            failure = error
        else:
            if not changed and commit != parent:
                _onto(push, parent, commit, patience)
            return commit
        if status(failure) != _MOVED and not passes(failure):
            raise translate(failure, operation="commit", place=str(branch)) from failure
        head = head_of(api, branch, patience)
        if head == parent:
            # A 412 without a moved head is a head that moved back: as passing as a server's fault.
            if not patience.allows_after(failure):
                raise translate(failure, operation="commit", place=str(branch)) from failure
        elif landed := _landed(push, parent, patience):
            return landed
        else:
            push = replace(push, operations=_onto(push, parent, head, patience))
            if not push.operations:
                return head
            parent = head


def _attempt(push: Push, parent: str) -> tuple[str, bool]:
    """Send the commit; return its id, or the head's and False where the Hub client found nothing to change."""
    with quiet():
        info = push.api.create_commit(
            push.branch.repo_id,
            list(push.operations),
            commit_message=push.message,
            commit_description=push.mark,
            repo_type=push.branch.repo_type,
            revision=push.branch.name,
            parent_commit=parent,
        )
    additions = [op for op in push.operations if isinstance(op, CommitOperationAdd)]
    # The client answers an empty commit with the head, and only this mark of its own tells the two apart.
    changed = not additions or any(op._is_committed for op in additions)
    return str(info.oid), changed


def _landed(push: Push, parent: str, patience: Patience) -> str | None:
    """Return our commit if it is on the branch above `parent`, although its answer never reached us."""
    branch = push.branch
    url = f"{push.api.endpoint}/api/{branch.repo_type}s/{branch.repo_id}/commits/{branch.name.replace('/', '%2F')}"

    def look() -> str | None:
        for commit in paginate(url, params={}, headers=build_hf_headers(token=push.api.token)):
            if push.mark in f"{commit.get('title')}\n{commit.get('message')}":
                return str(commit["id"])
            if commit["id"] == parent:
                break
        return None

    return call(look, operation="look for our commit", place=str(branch), patience=patience)


def _onto(push: Push, parent: str, head: str, patience: Patience) -> list[Operation]:
    """Return the operations that are left to do on top of `head`, which somebody else moved the branch to.

    Raises
    ------
    Conflict
        If they did anything else than adding files, or added one of ours with other content.
    """
    before, after = (_files(push, commit, patience) for commit in (parent, head))
    ours = {op.path_in_repo: op for op in push.operations}
    for path, entry in before.items():
        if after.get(path) != entry:
            raise _conflict(push, head, path)
    for path in ours.keys() & (after.keys() - before.keys()):
        operation = ours.pop(path)
        if not isinstance(operation, CommitOperationAdd) or not after[path].holds(operation):
            raise _conflict(push, head, path)
    return list(ours.values())


def _conflict(push: Push, head: str, path: str) -> Conflict:
    return Conflict(
        f"commit {head[:12]} by somebody else changed {path!r} during the push",
        operation="commit",
        place=str(push.branch),
        hint="nothing of ours was published; look at theirs, then run it again",
    )


def _files(push: Push, commit: str, patience: Patience) -> dict[str, Stored]:
    def listing() -> dict[str, Stored]:
        tree = push.api.list_repo_tree(
            push.branch.repo_id, repo_type=push.branch.repo_type, revision=commit, recursive=True
        )
        return {entry.path: Stored.of(entry) for entry in tree if isinstance(entry, RepoFile)}

    return call(listing, operation="list", place=str(push.branch), patience=patience)


def _git_blob_id(content: bytes) -> str:
    framed = b"blob %d\0" % len(content) + content
    return hashlib.sha1(framed, usedforsecurity=False).hexdigest()
