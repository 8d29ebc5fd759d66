"""What two images have in common, and what not.

Rules
-----
- Files are compared by what they are: kind, mode, digest or link target. None is read.
- Conversations of forks start alike; what follows the common start is told of each side.
- Of the environment only names are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pfreg.digest import Digest
from pfreg.image import Image

__all__ = ["Changes", "Difference", "diff"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Changes:
    """Names that one side has and the other has not, or has otherwise.

    Parameters
    ----------
    added, removed, changed : tuple of str
        Only in the second, only in the first, in both but different; sorted.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @classmethod
    def between(cls, first: Mapping[str, T], second: Mapping[str, T]) -> Changes:
        """Compare two mappings."""
        return cls(
            added=tuple(sorted(second.keys() - first.keys())),
            removed=tuple(sorted(first.keys() - second.keys())),
            changed=tuple(sorted(name for name in first.keys() & second.keys() if first[name] != second[name])),
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """How two images differ.

    Parameters
    ----------
    first, second : Digest
        The images.
    files : Changes
        Paths of files, folders and links.
    environment : Changes
        Names of variables.
    common_messages : int
        How many messages both conversations start with.
    first_messages, second_messages : tuple of dict
        What follows in each.
    """

    first: Digest
    second: Digest
    files: Changes
    environment: Changes
    common_messages: int
    first_messages: tuple[dict[str, Any], ...]
    second_messages: tuple[dict[str, Any], ...]


def diff(first: Image, second: Image) -> Difference:
    """Compare two images: their files, their environments, their conversations.

    Raises
    ------
    BlobNotFound, IntegrityError
        If a layer that has to be read for that is missing or damaged.
    """
    ours, theirs = first.messages(), second.messages()
    common = 0
    while common < min(len(ours), len(theirs)) and ours[common] == theirs[common]:
        common += 1
    return Difference(
        first=first.cid,
        second=second.cid,
        files=Changes.between(_files(first), _files(second)),
        environment=Changes.between(first.env, second.env),
        common_messages=common,
        first_messages=tuple(ours[common:]),
        second_messages=tuple(theirs[common:]),
    )


def _files(image: Image) -> dict[str, tuple[Any, ...]]:
    return {entry.path: (entry.kind, entry.mode, entry.blob, entry.link_target) for entry in image.files()}
