"""Fixtures: a Hub double, spoken to by the genuine client over LFS and over Xet."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

constants = pytest.importorskip("huggingface_hub.constants", reason="pip install 'pfreg[hf]'")

from pfreg.filesystems.hf import HfCommitFileSystem  # noqa: E402
from tests.servers.hf_hub import Hub, Settings  # noqa: E402

Connect = Callable[..., HfCommitFileSystem]

ROOT = "datasets/alice/image@main"


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token of whoever runs the tests reaches the double, and nothing of theirs is written."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet-cache"))


@pytest.fixture(params=["lfs", "xet"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How content travels: each test that asks for a Hub runs once over either."""
    if request.param == "xet":
        pytest.importorskip("hf_xet", reason="pip install hf_xet")
    # The client reads the variable when it is imported; this is where it keeps what it read.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return str(request.param)


@pytest.fixture
def hub(tmp_path: Path, transport: str) -> Iterator[Hub]:
    """A Hub with the users alice and bob."""
    with Hub(tmp_path / "hub", Settings(xet=transport == "xet")) as hub:
        hub.add_user("alice")
        hub.add_user("bob")
        yield hub


@pytest.fixture
def connect(hub: Hub) -> Connect:
    """Open the filesystem as a user; further arguments are its own."""

    def connect(user: str | None = "alice", **options: object) -> HfCommitFileSystem:
        token = f"hf_{user}" if user else False
        return HfCommitFileSystem(endpoint=hub.url, token=token, **options)

    return connect


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let retries pass without waiting; the list says how long they would have waited."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, so that leftovers can be seen."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def history(hub: Hub, branch: str = "main", name: str = "alice/image") -> list[str]:
    """Return the titles of the commits on a branch, newest first."""
    git = hub.repository(name).git
    commit = git.resolve(branch)
    return [entry.title for entry in git.log(commit)] if commit else []


def content(hub: Hub, branch: str = "main", name: str = "alice/image") -> dict[str, bytes]:
    """Return every file of a branch, as git and the stores beside it have it."""
    git = hub.repository(name).git
    commit = git.resolve(branch)
    assert commit is not None
    found = {}
    for path, entry in git.entries(commit).items():
        if not entry.is_file or path == ".gitattributes":
            continue
        if entry.pointer is None:
            found[path] = git.blob(entry.oid)
        else:
            stored = hub.contents.path(entry.pointer.sha256, entry.pointer.size)
            assert stored is not None, f"{path} points at nothing"
            found[path] = stored.read_bytes()
    return found
