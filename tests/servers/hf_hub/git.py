"""Bare git repositories, through the git program: what a Hub repository really is.

Commit ids, tree ids, pointers and history are git's own, so a test can look at them with git.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "LogEntry", "Moved", "Pointer", "Reference", "Repository"]

_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_POINTER_SIZES = range(100, 200)
_ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


class Moved(Exception):
    """The branch is not where the commit's parent says."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A git blob that stands for content kept elsewhere, as git-lfs writes it."""

    sha256: str
    size: int

    def to_bytes(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return text.encode()

    @classmethod
    def parse(cls, content: bytes) -> Pointer | None:
        match = _POINTER.match(content)
        return cls(match[1].decode(), int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of a commit; `size` is that of the git blob, 0 for a folder."""

    path: str
    is_file: bool
    oid: str
    size: int
    pointer: Pointer | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One commit of a history."""

    commit: str
    title: str
    body: str
    author: str
    date: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A branch or tag, by its full name (``refs/heads/main``)."""

    name: str
    commit: str


class Repository:
    """One bare repository.

    Parameters
    ----------
    folder : Path
        Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self.entries = functools.lru_cache(maxsize=16)(self._entries)
        self.small_blob = functools.lru_cache(maxsize=16)(self.blob)

    @classmethod
    def create(cls, folder: Path) -> Repository:
        """Make an empty repository whose branch will be ``main``."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(folder)]
        subprocess.run(command, check=True, env=os.environ | _ENVIRONMENT)
        return cls(folder)

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git in the repository and return what it prints."""
        command = ["git", "-C", str(self.folder), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, env=os.environ | _ENVIRONMENT)
        if done.returncode:
            raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch, tag, reference or commit names; None if there is none."""
        names = [revision] if _COMMIT.match(revision) or revision.startswith("refs/") else []
        for name in [*names, f"refs/heads/{revision}", f"refs/tags/{revision}"]:
            command = ["git", "-C", str(self.folder), "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | _ENVIRONMENT)
            if done.returncode == 0:
                return done.stdout.strip()
        return None

    def _entries(self, commit: str) -> dict[str, Entry]:
        """Return every file and folder of a commit, by path."""
        records = []
        for record in self.git("ls-tree", "-z", "-l", "-r", "-t", commit).split(b"\0")[:-1]:
            meta, _, path = record.partition(b"\t")
            _, kind, oid, size = meta.decode().split()
            records.append(Entry(path.decode(), kind == "blob", oid, int(size) if kind == "blob" else 0))
        pointers = self._pointers({e.oid for e in records if e.is_file and e.size in _POINTER_SIZES})
        return {e.path: Entry(e.path, e.is_file, e.oid, e.size, pointers.get(e.oid)) for e in records}

    def _pointers(self, oids: set[str]) -> dict[str, Pointer | None]:
        wanted = sorted(oids)
        output = self.git("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in wanted).encode())
        found: dict[str, Pointer | None] = {}
        at = 0
        for oid in wanted:
            end = output.index(b"\n", at)
            size = int(output[at:end].split()[2])
            found[oid] = Pointer.parse(output[end + 1 : end + 1 + size])
            at = end + 1 + size + 1
        return found

    def blob(self, oid: str) -> bytes:
        """Return the content of a git blob."""
        return self.git("cat-file", "blob", oid)

    def references(self) -> list[Reference]:
        """Return every branch, tag and other reference."""
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname)").decode().splitlines()
        return [Reference(*line.split()) for line in lines]

    def point(self, reference: str, commit: str) -> None:
        """Make a reference, by its full name, point at a commit."""
        self.git("update-ref", reference, commit)

    def log(self, commit: str) -> list[LogEntry]:
        """Return the history of a commit, newest first."""
        text = self.git("log", "--format=%H%x01%s%x01%b%x01%an%x01%cI%x02", commit).decode()
        return [LogEntry(*(part.strip("\n") for part in record.split("\1"))) for record in text.split("\2")[:-1]]

    def commit(
        self,
        branch: str,
        message: str,
        author: str,
        writes: Sequence[tuple[str, bytes]],
        deletes: Sequence[str] = (),
        parent: str | None = None,
    ) -> str:
        """Add one commit to a branch and return its id.

        Raises
        ------
        Moved
            If `parent` is given and is not the branch's head.
        """
        name = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        with self._lock:
            head = self.resolve(name)
            if parent is not None and not (head or "").startswith(parent):
                raise Moved(head)
            self.git("fast-import", "--quiet", stdin=_import_stream(name, head, message, author, writes, deletes))
            made = self.resolve(name)
        if made is None:
            raise RuntimeError(f"git made no commit on {name}")
        return made


def _import_stream(
    name: str,
    head: str | None,
    message: str,
    author: str,
    writes: Sequence[tuple[str, bytes]],
    deletes: Sequence[str],
) -> bytes:
    text = message.encode()
    stamp = int(time.time())
    parts = [f"commit {name}\ncommitter {author} <{author}@hub.example> {stamp} +0000\n".encode()]
    parts += [b"data %d\n" % len(text), text, b"\n"]
    if head:
        parts.append(f"from {head}\n".encode())
    parts += [b"D %s\n" % _quoted(path) for path in deletes]
    for path, content in writes:
        parts += [b"M 100644 inline %s\ndata %d\n" % (_quoted(path), len(content)), content, b"\n"]
    return b"".join([*parts, b"\ndone\n"])


def _quoted(path: str) -> bytes:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode()
