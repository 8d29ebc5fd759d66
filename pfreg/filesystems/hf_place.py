"""Where something lies on the Hugging Face Hub, as the paths of its filesystem say it.

Rules
-----
- A path is ``[datasets/|spaces/|models/]namespace/name[@revision][/path/in/repo]``, as huggingface_hub writes it;
  without a prefix it is a model repository. The revision is percent-decoded; ``refs/pr/<n>`` and ``refs/convert/<x>``
  may stand bare.
- A name is taken apart here once; nobody else parses paths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from huggingface_hub.hf_file_system import HfFileSystemResolvedRepositoryPath

from pfreg.errors import BadReference

__all__ = ["Branch", "HubPath", "PinnedPath"]

_PATH = re.compile(
    r"(?P<root>(?:(?P<kind>datasets|spaces|models)/)?(?!(?:datasets|spaces|models|buckets)/)(?P<repo>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?)"
    r"(?:/(?P<path>.*))?\Z",
    re.DOTALL,
)
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True, slots=True)
class Branch:
    """One revision of one repository: what a commit goes to, and what a reader is pinned to.

    Parameters
    ----------
    repo_type : str
        ``dataset``, ``space`` or ``model``.
    repo_id : str
        ``namespace/name``.
    name : str
        A branch, a tag, a ``refs/...`` or a commit.
    """

    repo_type: str
    repo_id: str
    name: str

    def __str__(self) -> str:
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"hf://{prefix}{self.repo_id}@{self.name}"

    @property
    def is_commit(self) -> bool:
        """Whether the name is a commit's own, which no commit can be added to."""
        return _COMMIT.match(self.name) is not None


@dataclass(frozen=True, slots=True)
class HubPath:
    """A path of the filesystem, taken apart.

    Parameters
    ----------
    branch : Branch
        The repository and revision; ``main`` where the path names none.
    root : str
        The part of the path that names them, as it was written.
    path : str
        The path in the repository, without slashes around it.
    """

    branch: Branch
    root: str
    path: str

    def at(self, path: str) -> HubPath:
        """Return another path of the same repository and revision."""
        return HubPath(self.branch, self.root, path)

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> HubPath:
        """Take `text` apart.

        Parameters
        ----------
        text : str
            A path of the filesystem, without ``hf://``.
        revision : str, optional
            A revision given beside the path.

        Raises
        ------
        BadReference
            If it names no repository, or contradicts `revision`.
        """
        match = _PATH.match(text.strip("/"))
        if match is None:
            raise BadReference(
                "not a place on the Hugging Face Hub", place=text, hint="expected datasets/user/repo[@revision][/path]"
            )
        kind, named = match["kind"], match["revision"]
        if named is not None and revision is not None and unquote(named) != revision:
            raise BadReference(f"the path names another revision than {revision!r}", place=text)
        name = revision or (unquote(named) if named else "main")
        branch = Branch(kind[:-1] if kind else "model", match["repo"], name)
        return cls(branch, match["root"], (match["path"] or "").strip("/"))


@dataclass
class PinnedPath(HfFileSystemResolvedRepositoryPath):
    """A path that is read at one commit, and still named by the revision that the caller wrote."""

    named: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.named:
            self.root = self.named
