"""A file tree as an image holds it (``fs.tree.v1``), and which trees may be written to a disk.

Rules of the format (:meth:`Tree.from_bytes`)
---------------------------------------------
- Reading is lenient where producers differ: a missing ``kind`` is a file, a missing ``mode`` 0644 (0755 for a folder),
  unknown fields are ignored, entries may come in any order. Nothing else is guessed.
- Writing is strict: entries are sorted component by component, as bytes.

Rules of safety (:func:`check_restorable`)
------------------------------------------
- No path leads out: none is absolute, none has ``..``, ``.``, an empty component, a NUL, or a drive letter.
- Nothing is below a file or a link; no path occurs twice, and on a folding file system none that folds to another.
- No set-uid or set-gid bit on a file, unless the caller decides about them.
- No name that a folding file system takes for ``.git`` (CVE-2014-9390 and its kin), other than ``.git`` itself.
- A link's blob is its target's text, and sizes are what they say.

Both are pure functions of bytes; no file is touched here.
"""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pfreg import strict_json
from pfreg.digest import Digest
from pfreg.errors import IntegrityError, LimitExceeded, TreeError
from pfreg.limits import DEFAULT_LIMITS, Limits

__all__ = ["KIND", "Entry", "Tree", "check_restorable", "sort_key"]

KIND = "fs.tree.v1"
EntryKind = Literal["file", "dir", "symlink"]

_MODE = re.compile(r"[0-7]{4}\Z")
_DRIVE = re.compile(r"[A-Za-z]:(?:[\\/]|\Z)")
_SHORT_GIT = re.compile(r"git~\d+\Z")
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\s*[.:].*)?\Z", re.IGNORECASE | re.DOTALL)
_WINDOWS_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]')
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_DEFAULT_MODE = {"file": 0o644, "dir": 0o755, "symlink": 0o777}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link of a tree.

    Parameters
    ----------
    path : str
        Relative to the tree's root, with ``/`` between components.
    kind : {"file", "dir", "symlink"}
        What it is.
    mode : int
        Permission bits, ``st_mode & 0o7777``.
    size : int
        Bytes of the file, or of the link's target; 0 for a folder.
    blob : Digest, optional
        The file's content or the link's target; None for a folder.
    link_target : str, optional
        Where a link points.
    """

    path: str
    kind: EntryKind
    mode: int
    size: int
    blob: Digest | None = None
    link_target: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise TreeError("an entry's path must be a string")
        if self.kind not in _DEFAULT_MODE:
            raise TreeError(f"unknown kind {str(self.kind)[:80]!r}", place=self.path)
        if not 0 <= self.mode <= 0o7777:
            raise TreeError("mode is not of four octal digits", place=self.path)
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 0:
            raise TreeError(f"size {str(self.size)[:80]!r} is not a number of bytes", place=self.path)
        if (self.blob is None) != (self.kind == "dir"):
            raise TreeError("a folder has no blob, everything else has one", place=self.path)
        if (self.link_target is None) != (self.kind != "symlink"):
            raise TreeError("a link has a link_target, nothing else has one", place=self.path)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as its tree writes it."""
        value: dict[str, Any] = {
            "path": self.path,
            "mode": f"{self.mode:04o}",
            "size": self.size,
            "kind": self.kind,
        }
        if self.blob is not None:
            value["blob"] = str(self.blob)
        if self.link_target is not None:
            value["link_target"] = self.link_target
        return value


@dataclass(frozen=True, slots=True)
class Tree:
    """A file tree.

    Parameters
    ----------
    entries : tuple of Entry
        Everything but the root itself.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Tree:
        """Return a tree with `entries` in the format's order."""
        return cls(tuple(sorted(entries, key=lambda entry: sort_key(entry.path))))

    @classmethod
    def from_bytes(cls, raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Tree:
        """Read an ``fs.tree.v1`` layer.

        Raises
        ------
        TreeError
            If the bytes are none.
        LimitExceeded
            If there is too much of it.
        """
        try:
            value = strict_json.loads(raw, max_bytes=limits.layer_bytes, max_depth=limits.json_depth)
        except LimitExceeded:
            raise
        except IntegrityError as e:
            raise TreeError(e.problem, operation="read file tree") from None
        return cls.from_json(value, limits=limits)

    @classmethod
    def from_json(cls, value: Any, *, limits: Limits = DEFAULT_LIMITS) -> Tree:
        """Read a parsed ``fs.tree.v1`` layer; raises as :meth:`from_bytes` does."""
        if not isinstance(value, dict) or value.get("kind") != KIND or not isinstance(value.get("entries"), list):
            raise TreeError(f"not an object of kind {KIND} with a list of entries")
        if len(value["entries"]) > limits.tree_entries:
            raise LimitExceeded(f"{len(value['entries'])} entries, more than {limits.tree_entries}")
        return cls(tuple(_entry(item) for item in value["entries"]))

    def to_bytes(self) -> bytes:
        """Return the layer's bytes, as the original writes them."""
        return strict_json.dumps({"kind": KIND, "entries": [entry.to_json() for entry in self.entries]})

    def blobs(self) -> dict[Digest, int]:
        """Return what the tree reaches: each blob and its size in bytes.

        Raises
        ------
        TreeError
            If two entries disagree about the size of one blob.
        """
        sizes: dict[Digest, int] = {}
        for entry in self.entries:
            if entry.blob is not None and sizes.setdefault(entry.blob, entry.size) != entry.size:
                raise TreeError(f"blob {entry.blob} has two sizes", place=entry.path)
        return sizes


def sort_key(path: str) -> list[bytes]:
    """Return the key by which the format sorts: component by component, as bytes."""
    return path.encode("utf-8", "surrogateescape").split(b"/")


def _entry(item: Any) -> Entry:
    if not isinstance(item, dict):
        raise TreeError("an entry must be an object")
    path, kind = item.get("path"), item.get("kind", "file")
    if not isinstance(path, str):
        raise TreeError("an entry's path must be a string")
    if not isinstance(kind, str) or kind not in _DEFAULT_MODE:
        raise TreeError(f"unknown kind {str(kind)[:80]!r}", place=path)
    mode = item.get("mode")
    if mode is not None and (not isinstance(mode, str) or not _MODE.match(mode)):
        raise TreeError(f"mode {str(mode)[:80]!r} is not of four octal digits", place=path)
    target, blob = item.get("link_target"), item.get("blob")
    if target is not None and not isinstance(target, str):
        raise TreeError("link_target must be a string", place=path)
    size = item.get("size", 0 if kind == "dir" else None)
    try:
        digest = None if blob is None else Digest.parse(blob)
    except IntegrityError as e:
        raise TreeError(e.problem, place=path) from None
    permissions = _DEFAULT_MODE[kind] if mode is None else int(mode, 8)
    return Entry(path, kind, permissions, size, digest, target)  # type: ignore[arg-type]


def check_restorable(
    tree: Tree,
    *,
    limits: Limits = DEFAULT_LIMITS,
    folding: bool = False,
    windows: bool = False,
    set_id: bool = False,
    links_inside: bool = False,
) -> None:
    """Check that a tree can be written below a folder, and nowhere else.

    Parameters
    ----------
    tree : Tree
        The tree.
    limits : Limits
        Lengths of paths and names.
    folding : bool
        The file system takes names for equal that differ in case or in Unicode's normal form.
    windows : bool
        Windows' names apply: no devices, no backslash, no trailing dot or space.
    set_id : bool
        Set-uid and set-gid files are the caller's concern.
    links_inside : bool
        Links that point out of the tree are refused. They are harmless to the checkout itself, which follows none.

    Raises
    ------
    TreeError
        If a rule of this module is broken; its place is the path.
    LimitExceeded
        If a path or name is too long.
    """
    kinds: dict[str, str] = {}
    for entry in tree.entries:
        _check_path(entry.path, limits, windows)
        if entry.path in kinds:
            raise TreeError("the path occurs twice", place=entry.path)
        kinds[entry.path] = entry.kind
        _check_entry(entry, set_id=set_id, links_inside=links_inside)
    for path in kinds:
        for parent in _parents(path):
            if kinds.get(parent, "dir") != "dir":
                raise TreeError(f"lies below a {kinds[parent]}", place=path)
    if folding or windows:
        _check_folding(kinds)
    tree.blobs()


def _check_path(path: str, limits: Limits, windows: bool) -> None:
    if not path:
        raise TreeError("an entry with an empty path")
    if "\0" in path:
        raise TreeError("a path with a NUL", place=path)
    if path.startswith("/"):
        raise TreeError("an absolute path", place=path)
    if _DRIVE.match(path) or path.startswith("\\\\"):
        raise TreeError("a path with a drive or a share", place=path)
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        raise TreeError("a path that is not Unicode", place=path) from None
    if len(encoded) > limits.path_bytes:
        raise LimitExceeded(f"a path of {len(encoded)} bytes, more than {limits.path_bytes}", place=path)
    for name in path.split("/"):
        if name in ("", ".", ".."):
            raise TreeError(f"a path with the component {name!r}", place=path)
        if len(name.encode("utf-8")) > limits.name_bytes:
            raise LimitExceeded(f"a name of more than {limits.name_bytes} bytes", place=path)
        if name != ".git" and _folds_to_git(name):
            raise TreeError(f"the name {name!r} means .git on some file systems", place=path)
        if windows and (_WINDOWS_FORBIDDEN.search(name) or name[-1] in ". " or _WINDOWS_DEVICE.match(name)):
            raise TreeError(f"the name {name!r} cannot exist on Windows", place=path)


def _folds_to_git(name: str) -> bool:
    if name.isascii() and name[0] not in ".gG":
        return False
    folded = unicodedata.normalize("NFKC", _IGNORED_BY_HFS.sub("", name)).casefold()
    folded = re.split(r"[:\\]", folded, maxsplit=1)[0].rstrip(". ")
    return folded == ".git" or _SHORT_GIT.match(folded) is not None


def _check_entry(entry: Entry, *, set_id: bool, links_inside: bool) -> None:
    hint = "say set_id='drop' or 'keep'"
    if entry.kind == "file" and entry.mode & (stat.S_ISUID | stat.S_ISGID) and not set_id:
        raise TreeError(f"mode {entry.mode:04o} has a set-uid or set-gid bit", place=entry.path, hint=hint)
    if entry.kind == "dir" and entry.mode & stat.S_ISUID and not set_id:
        raise TreeError(
            f"mode {entry.mode:04o} has a set-uid bit", place=entry.path, hint="say set_id='drop' or 'keep'"
        )
    if entry.kind == "dir" and entry.size:
        raise TreeError(f"a folder of {entry.size} bytes", place=entry.path)
    if entry.kind == "symlink":
        _check_link(entry, links_inside)


def _check_link(entry: Entry, links_inside: bool) -> None:
    target = entry.link_target or ""
    if not target or "\0" in target:
        raise TreeError("a link to nothing, or with a NUL", place=entry.path)
    try:
        text = target.encode("utf-8")
    except UnicodeEncodeError:
        raise TreeError("a link's target is not Unicode", place=entry.path) from None
    if len(text) > 4095:  # PATH_MAX less its terminator: what symlink(2) takes
        raise TreeError(f"a link's target of {len(text)} bytes", place=entry.path)
    if len(text) != entry.size:
        raise TreeError(f"a link of size {entry.size} with a target of {len(text)} bytes", place=entry.path)
    if Digest.of(text) != entry.blob:
        raise TreeError("a link whose blob is not its target", place=entry.path)
    if links_inside and _leads_out(entry.path, target):
        raise TreeError(f"a link out of the tree, to {target!r}", place=entry.path)


def _leads_out(path: str, target: str) -> bool:
    if target.startswith("/") or _DRIVE.match(target):
        return True
    depth = path.count("/")
    for name in target.split("/"):
        depth += -1 if name == ".." else 0 if name in ("", ".") else 1
        if depth < 0:
            return True
    return False


def _parents(path: str) -> Iterable[str]:
    end = path.rfind("/")
    while end > 0:
        yield path[:end]
        end = path.rfind("/", 0, end)


def _check_folding(kinds: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for path in kinds:
        for part in (path, *_parents(path)):
            folded = unicodedata.normalize("NFC", part).casefold()
            other = seen.setdefault(folded, part)
            if other != part:
                raise TreeError(f"is the same file as {other!r} on this file system", place=part)
