"""The Hub double as registries of the suite: over LFS and over Xet, an image a repository, a branch, a bucket's folder.

With ``PFREG_TEST_HF_TOKEN`` the suite runs on the real Hub, too (``PFREG_TEST_HF_ENDPOINT`` names another one): in private
repositories of the token's owner, which are deleted afterwards.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.places import Place, Registry
from tests.servers.hf_hub import Hub, Settings
from tests.servers.running import missing, program

__all__ = ["hf_branches", "hf_bucket", "hf_lfs", "hf_real", "hf_xet"]


@contextlib.contextmanager
def _hub(folder: Path, *, xet: bool) -> Iterator[Hub]:
    program("git", install="apt install git")
    try:
        from huggingface_hub import constants
    except ImportError:
        missing("huggingface_hub is not installed: pip install 'pfreg[hf]'")
    with pytest.MonkeyPatch.context() as patch, Hub(folder, Settings(xet=xet)) as hub:
        # The client reads its environment when it is imported; this is where it keeps what it read.
        patch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
        hub.add_user("alice")
        yield hub


def _options(hub: Hub) -> dict[str, str]:
    return {"endpoint": hub.url, "token": "hf_alice"}


def _registry(options: dict[str, str], user: str, *, branches: bool) -> Registry:
    from pfreg.filesystems.hf import HfCommitFileSystem

    class Behind(HfCommitFileSystem):
        """Looks where the branch is each time: it is the one that changes files behind the registry's back."""

        def commit_of(self, place: object) -> str:
            self.refresh()
            return super().commit_of(place)  # type: ignore[arg-type]

    fs = Behind(**options)

    def new(name: str) -> Place:
        if branches:
            return Place(f"hf://{user}/images:{name}", options, f"datasets/{user}/images@{name}", fs)
        return Place(f"hf://{user}/{name}", options, f"datasets/{user}/{name}@main", fs)

    return Registry(new, copies=branches, any_name=False)


@contextlib.contextmanager
def hf_lfs(folder: Path) -> Iterator[Registry]:
    with _hub(folder, xet=False) as hub:
        yield _registry(_options(hub), "alice", branches=False)


@contextlib.contextmanager
def hf_xet(folder: Path) -> Iterator[Registry]:
    with _hub(folder, xet=True) as hub:
        yield _registry(_options(hub), "alice", branches=False)


@contextlib.contextmanager
def hf_branches(folder: Path) -> Iterator[Registry]:
    with _hub(folder, xet=False) as hub:
        yield _registry(_options(hub), "alice", branches=True)


@contextlib.contextmanager
def hf_bucket(folder: Path) -> Iterator[Registry]:
    with _hub(folder, xet=True) as hub:
        from pfreg.filesystems.hf_bucket import HfBucketFileSystem

        options = _options(hub)
        fs = HfBucketFileSystem(**options)

        def new(name: str) -> Place:
            return Place(f"hf://buckets/alice/images/{name}", options, f"buckets/alice/images/{name}", fs)

        yield Registry(new, any_name=False)


@contextlib.contextmanager
def hf_real(folder: Path) -> Iterator[Registry]:
    """The Hub itself; a run makes more commits than its free quota of an hour allows, so choose tests with ``-k``."""
    from huggingface_hub import HfApi

    token, endpoint = os.environ["PFREG_TEST_HF_TOKEN"], os.environ.get("PFREG_TEST_HF_ENDPOINT", "")
    api = HfApi(endpoint=endpoint or None, token=token)
    user = api.whoami()["name"]
    made: list[str] = []
    registry = _registry({"endpoint": endpoint, "token": token}, user, branches=False)

    def new(name: str) -> Place:
        made.append(f"{user}/{name}")
        return registry.new(name)

    try:
        yield Registry(new, copies=False, any_name=False)
    finally:
        for name in made:
            api.delete_repo(name, repo_type="dataset", missing_ok=True)
