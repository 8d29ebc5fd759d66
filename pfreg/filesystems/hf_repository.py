"""Repositories and branches: what they stand at, and making missing ones.

Rules
-----
- A missing repository is made private unless asked for otherwise; a missing branch begins where ``main`` stands.
- Making what somebody else made a moment ago is no error: every call here can be repeated.
"""

from __future__ import annotations

from huggingface_hub import GitRefs, HfApi
from huggingface_hub.errors import RevisionNotFoundError

from pfreg.errors import ImageNotFound, UnsupportedRegistry
from pfreg.filesystems.hf_calls import Patience, call
from pfreg.filesystems.hf_place import Branch

__all__ = ["head_of", "is_branch", "make_branch", "references"]


def head_of(api: HfApi, branch: Branch, patience: Patience) -> str:
    """Return the commit that `branch` names at this moment.

    Raises
    ------
    FileNotFoundError
        If there is no such repository, or no such revision in it.
    AccessDenied, TransferError
        If the Hub refuses or fails.
    """
    info = call(
        lambda: api.repo_info(
            branch.repo_id,
            repo_type=branch.repo_type,
            revision=branch.name,
            expand=["sha"],  # type: ignore[arg-type]  # else the answer lists every file of the repository
            timeout=30.0,
        ),
        operation="look up",
        place=str(branch),
        patience=patience,
    )
    return str(info.sha)


def make_branch(api: HfApi, branch: Branch, missing: ImageNotFound, *, public: bool, patience: Patience) -> None:
    """Create what `missing` says is missing: the repository, or only the branch.

    Raises
    ------
    UnsupportedRegistry
        If it is one of the references that only the Hub makes.
    AccessDenied, TransferError
        If the Hub refuses or fails.
    """
    if branch.name.startswith("refs/"):
        raise UnsupportedRegistry("only the Hub makes such references", place=str(branch), hint="name a branch")
    if not isinstance(missing.__cause__, RevisionNotFoundError):
        call(
            lambda: api.create_repo(branch.repo_id, repo_type=branch.repo_type, private=not public, exist_ok=True),
            operation="create repository",
            place=str(branch),
            patience=patience,
        )
    if branch.name != "main":
        call(
            lambda: api.create_branch(
                branch.repo_id, repo_type=branch.repo_type, branch=branch.name, revision="main", exist_ok=True
            ),
            operation="create branch",
            place=str(branch),
            patience=patience,
        )


def references(api: HfApi, branch: Branch, patience: Patience) -> GitRefs:
    """Return the branches and tags of a repository.

    Raises
    ------
    ImageNotFound, AccessDenied, TransferError
        If there is no such repository, or the Hub refuses or fails.
    """
    return call(
        lambda: api.list_repo_refs(branch.repo_id, repo_type=branch.repo_type),
        operation="list tags",
        place=str(branch),
        patience=patience,
    )


def is_branch(api: HfApi, branch: Branch, patience: Patience) -> bool:
    """Whether the name is a branch, which commits can be added to, and no tag."""
    if branch.name.startswith("refs/"):
        return True
    return any(ref.name == branch.name for ref in references(api, branch, patience).branches)
