"""What a registry must offer to be put through the conformance suite.

To add one: write a context manager that yields a :class:`Registry` here or beside your server, and name it in
``REGISTRIES`` of ``conftest.py``. What it cannot do it says in its fields; no test asks for its type.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec import AbstractFileSystem


@dataclass(frozen=True)
class Place:
    """A place for one image, new and empty.

    Parameters
    ----------
    url : str
        The reference to push to.
    options : mapping
        Its ``storage_options``.
    path : str
        The root on `fs`.
    fs : AbstractFileSystem or None
        A filesystem of the test's own on the same bytes, to look at and to damage what is there; None where stored
        bytes cannot be altered behind the registry's back.
    where : callable
        Takes the result of a push and returns the reference to read from; IPFS only knows it afterwards.
    """

    url: str
    options: Mapping[str, Any]
    path: str = ""
    fs: AbstractFileSystem | None = None
    where: Callable[[Any], str] = field(default=lambda done: str(done.reference))

    def names(self) -> set[str]:
        """Return the paths of all files below the root."""
        assert self.fs is not None
        self.fs.invalidate_cache()
        prefix = self.path.rstrip("/") + "/"
        return {name[name.index(prefix) + len(prefix) :] for name in self.fs.find(self.path)}

    def read(self, name: str) -> bytes:
        """Return a file's bytes as they are stored."""
        assert self.fs is not None
        data: bytes = self.fs.cat_file(posixpath.join(self.path, name))
        return data

    def write(self, name: str, data: bytes) -> None:
        """Replace a file behind the registry's back."""
        assert self.fs is not None
        self.fs.pipe_file(posixpath.join(self.path, name), data)

    def remove(self, name: str) -> None:
        """Remove a file behind the registry's back."""
        assert self.fs is not None
        self.fs.rm_file(posixpath.join(self.path, name))


@dataclass(frozen=True)
class Registry:
    """A registry under test.

    Parameters
    ----------
    new : callable
        Takes a name and returns a new :class:`Place` that has it in its path.
    overlays : bool
        What was there stays until ``prune``. If not, a push replaces it.
    copies : bool
        ``base=`` costs no upload.
    compares : bool
        ``expect=`` is supported. A place that cannot hold another image does not need it.
    any_name : bool
        A place's path may have spaces and letters of all sorts.
    """

    new: Callable[[str], Place]
    overlays: bool = True
    copies: bool = True
    compares: bool = True
    any_name: bool = True

    def place(self) -> Place:
        """Return a new place."""
        return self.new(f"image-{uuid.uuid4().hex[:12]}")
