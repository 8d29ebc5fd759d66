"""Sending what the Hub keeps outside git (LFS or Xet), ahead of the commit that makes it visible.

Rules
-----
- The Hub decides file by file whether content goes into git or beside it; what goes into git travels with the commit.
- A file that the repository's ``.gitignore`` excludes would be left out of the commit without a word: that is an error.
- A local file that changed or vanished since it was staged is an error, before anything of its batch is sent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from huggingface_hub import CommitOperationAdd, HfApi

from pfreg.errors import FileChanged, TransferError
from pfreg.filesystems.hf_calls import transferring
from pfreg.filesystems.hf_place import Branch

__all__ = ["is_released", "upload"]


def upload(api: HfApi, branch: Branch, batch: Sequence[CommitOperationAdd]) -> None:
    """Upload the files of `batch` that the Hub keeps outside git, and release their content.

    Parameters
    ----------
    api : HfApi
        The Hub, with its endpoint and token.
    branch : Branch
        The branch that they will be committed to.
    batch : sequence of CommitOperationAdd
        At most 256, which is what one request of the Hub's may hold.

    Raises
    ------
    FileChanged
        If a local file is no longer what was staged.
    AccessDenied, StorageFull, TransferError
        If the Hub refuses a file, or fails for longer than its client retries.
    """
    for addition in batch:
        _check_unchanged(addition)
    with transferring("upload", str(branch)):
        api.preupload_lfs_files(
            branch.repo_id, batch, repo_type=branch.repo_type, revision=branch.name, free_memory=True
        )
    for addition in batch:
        if addition._should_ignore:
            raise TransferError(
                f"the repository's .gitignore excludes {addition.path_in_repo!r}",
                operation="upload",
                place=str(branch),
                hint="change .gitignore there, or push somewhere else",
            )


def is_released(addition: CommitOperationAdd) -> bool:
    """Whether the content was uploaded, so that it is needed no longer."""
    return addition.upload_info.size > 0 and addition.path_or_fileobj == b""


def _check_unchanged(addition: CommitOperationAdd) -> None:
    local = addition.path_or_fileobj
    if not isinstance(local, str):
        return
    try:
        size = os.path.getsize(local)
    except FileNotFoundError:
        size = -1
    if size != addition.upload_info.size:
        raise FileChanged(
            "the local file changed or vanished before it was sent",
            operation="upload",
            place=local,
            hint="a staged file has to stay as it is until the transaction ends",
        )
