"""The Hugging Face Hub for readers: every revision pinned to one commit.

Rules
-----
- A revision is resolved to a commit once per instance, and everything is read at that commit; that there is none is
  remembered as well. What is listed of a commit cannot become stale, so ``invalidate_cache()`` has nothing to do;
  ``refresh()`` looks where the revisions are now.
- Reading a file costs one request, and none to look it up: repositories are large, and calls are counted.
- Nothing is hidden: only what is truly absent does not exist; refused, unreachable and broken raise.
- What was listed at a commit stays true, so it is not asked for again.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.hf_file_system import HfFileSystem

from pfreg.errors import BadOption, ImageNotFound, UnsupportedRegistry
from pfreg.filesystems.hf_calls import Patience, call, transferring, translated
from pfreg.filesystems.hf_commit import Stored
from pfreg.filesystems.hf_place import Branch, HubPath, PinnedPath
from pfreg.filesystems.hf_read import Span, download
from pfreg.filesystems.hf_repository import head_of, references
from pfreg.filesystems.range_file import RangeFile

__all__ = ["HfPinnedFileSystem"]

READ_AHEAD = 1 << 20
"""Bytes that an opened file fetches at a time."""

LOOK_UP = 1_000
"""Paths that one request may ask about."""


class HfPinnedFileSystem(HfFileSystem):
    """Repositories of the Hugging Face Hub, each read at one commit.

    Parameters
    ----------
    endpoint : str, optional
        URL of the Hub; else ``HF_ENDPOINT``, else huggingface.co.
    token : str or bool, optional
        An access token; else ``HF_TOKEN``, else that of ``hf auth login``. False reads anonymously.
    retry_for : float
        Seconds for which a failing call is repeated.
    **storage_options
        For fsspec.
    """

    cachable = False

    def __init__(
        self,
        *args: Any,
        endpoint: str | None = None,
        token: str | bool | None = None,
        retry_for: float = 90.0,
        **storage_options: Any,
    ) -> None:
        endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
        super().__init__(*args, endpoint=endpoint, token=token, **storage_options)
        self.retry_for = retry_for
        self._pins: dict[Branch, str | ImageNotFound] = {}
        self._pin_lock = threading.RLock()

    @property
    def api(self) -> HfApi:
        """The Hub's client, with our endpoint and token."""
        return self._api

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token."""
        return self.token is not False and (isinstance(self.token, str) or get_token() is not None)

    def patience(self) -> Patience:
        """Return a new deadline."""
        return Patience(self.retry_for)

    # -- revisions and commits ---------------------------------------------------------------------------------------

    def commit_of(self, place: Branch | str) -> str:
        """Return the commit that a path, or a branch, is read at.

        Raises
        ------
        ImageNotFound
            If there is no such repository or revision.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        branch = place if isinstance(place, Branch) else HubPath.parse(self._strip_protocol(place)).branch
        with self._pin_lock:
            if branch not in self._pins:
                self._pins[branch] = self._look_up(branch)
            pinned = self._pins[branch]
        if isinstance(pinned, ImageNotFound):
            raise pinned
        return pinned

    def _look_up(self, branch: Branch) -> str | ImageNotFound:
        try:
            return head_of(self.api, branch, self.patience())
        except ImageNotFound as error:
            return error

    def pin(self, branch: Branch, commit: str) -> None:
        """Read `branch` at `commit` from now on."""
        with self._pin_lock:
            self._pins[branch] = commit
            self.dircache.clear()

    def tags(self, path: str) -> dict[str, str]:
        """Return the branches and tags of a repository, and the commit that each names.

        Parameters
        ----------
        path : str
            Any path in the repository.

        Raises
        ------
        ImageNotFound
            If there is no such repository.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        refs = references(self.api, self._place(path).branch, self.patience())
        return {ref.name: ref.target_commit for ref in [*refs.branches, *refs.tags]}

    def resolve_path(self, path: str, revision: str | None = None) -> PinnedPath:
        """Return what `path` means, at the commit that its revision is pinned to.

        Raises
        ------
        BadReference
            If it names no repository.
        ImageNotFound, AccessDenied, TransferError
            As :meth:`commit_of` says.
        """
        place = self._place(path, revision)
        branch = place.branch
        return PinnedPath(branch.repo_type, branch.repo_id, self.commit_of(branch), place.path, named=place.root)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Do nothing: what is known of a commit stays true. To see newer commits, :meth:`refresh`."""

    def refresh(self) -> None:
        """Forget which commits the revisions stood at, so that each is looked up when it is next used."""
        with self._pin_lock:
            self._pins.clear()
            self.dircache.clear()

    def _place(self, path: str, revision: str | None = None) -> HubPath:
        return HubPath.parse(self._strip_protocol(path), revision)

    # -- what is there -----------------------------------------------------------------------------------------------

    def info(self, path: str, refresh: bool = False, revision: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Describe a file or folder: from a listing where there is one, else by one request.

        Raises
        ------
        FileNotFoundError
            If it is absent.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        resolved = self.resolve_path(path, revision)
        entry = self._look(resolved)
        if entry is None and "/" not in resolved.path:
            self.ls(resolved.root)  # as cheap as one look, and answers for manifest and signature alike
            entry = self._look(resolved)
        if entry is None:
            found = self._paths_info(resolved, [resolved.path])
            entry = _entry(found[0], resolved.root) if found else {}
        if not entry:
            raise FileNotFoundError(path)
        return entry

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        refresh: bool = False,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """List the files below `path`; an empty answer means that there are none, whatever ``on_error`` says.

        Raises
        ------
        FileNotFoundError
            If there is no such repository or revision.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        resolved = self.resolve_path(path, revision)
        entries: dict[str, Any] = {}
        if self._look(resolved) != {}:
            with translated("list", resolved.unresolve()):
                entries = super().find(path, maxdepth, withdirs, detail=True, revision=revision)  # type: ignore[assignment]
        return entries if detail else list(entries)

    def ls(
        self, path: str, detail: bool = True, refresh: bool = False, revision: str | None = None, **kwargs: Any
    ) -> Any:
        """List a folder.

        Raises
        ------
        FileNotFoundError
            If it is absent.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        with translated("list", path):
            return super().ls(path, detail=detail, revision=revision)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is a file or folder; a refusal or a failure raises instead of saying no."""
        try:
            self.info(path, **kwargs)
        except FileNotFoundError:
            return False
        return True

    def isdir(self, path: str) -> bool:
        """Whether there is a folder; a refusal or a failure raises instead of saying no."""
        return self.exists(path) and self.info(path)["type"] == "directory"

    def isfile(self, path: str) -> bool:
        """Whether there is a file; a refusal or a failure raises instead of saying no."""
        return self.exists(path) and self.info(path)["type"] == "file"

    def stored(self, root: HubPath, paths: Sequence[str]) -> dict[str, Stored]:
        """Return what there is under `paths` in the repository of `root`, absent ones left out."""
        top = self.resolve_path(root.root)
        if any("/" not in path for path in paths) and top.root not in self.dircache:
            self.ls(top.root)
        known = {path: self._look(replace(top, path_in_repo=path)) for path in paths}
        unknown = [path for path, entry in known.items() if entry is None]
        for at in range(0, len(unknown), LOOK_UP):
            found = self._paths_info(top, unknown[at : at + LOOK_UP])
            known.update((entry.path, _entry(entry, top.root)) for entry in found)
        return {path: _stored(entry) for path, entry in known.items() if entry and entry["type"] == "file"}

    def _look(self, resolved: PinnedPath) -> dict[str, Any] | None:
        """Return what listings say about a path, without asking for one: empty if absent, None if they do not say."""
        name = resolved.unresolve()
        if not resolved.path or name in self.dircache:
            return {"name": name, "size": 0, "type": "directory"}
        child, folder = name, self._parent(name)
        while folder not in self.dircache and child != resolved.root:
            child, folder = folder, self._parent(folder)
        listed = next((entry for entry in self.dircache.get(folder, ()) if entry["name"] == child), None)
        if folder not in self.dircache or (listed and child != name and listed["type"] == "directory"):
            return None
        return dict(listed) if listed and child == name else {}

    def _paths_info(self, resolved: PinnedPath, paths: Sequence[str]) -> list[RepoFile | RepoFolder]:
        return call(
            lambda: self.api.get_paths_info(
                resolved.repo_id, list(paths), repo_type=resolved.repo_type, revision=resolved.revision
            ),
            operation="look up",
            place=resolved.unresolve(),
            patience=self.patience(),
        )

    # -- reading -----------------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes of a file, or those from `start` to `end`, in one request.

        Raises
        ------
        FileNotFoundError
            If it is absent.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        if (start or 0) < 0 or (end is not None and end < 0):
            size = self.info(path)["size"]
            start, end, _ = slice(start, end).indices(size)
        out = io.BytesIO()
        if end is None or end > (start or 0):
            self._download(self.resolve_path(path), out, Span(start or 0, end), DEFAULT_CALLBACK)
        return out.getvalue()

    def get_file(
        self,
        rpath: str,
        lpath: str | BinaryIO | None = None,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: BinaryIO | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy a file to a local path or into an open file: through Xet where a listing says so, else in one request.

        Raises
        ------
        FileNotFoundError
            If it is absent.
        AccessDenied, TransferError
            If the Hub refuses or fails; no partial file is left at a local path then.
        """
        target = outfile if outfile is not None else lpath
        resolved = self.resolve_path(rpath)
        if target is None:
            raise BadOption("nowhere to copy it to", operation="read", place=rpath)
        if not isinstance(target, (str, os.PathLike)):
            self._download(resolved, target, Span(), callback)
            return
        known = self._look(resolved) or {}
        if known.get("type") == "directory":
            os.makedirs(target, exist_ok=True)
            return
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        try:
            if known.get("xet_hash"):
                with transferring("read", rpath):
                    super().get_file(rpath, target)
                callback.relative_update(known["size"])
            else:
                with open(target, "wb") as out:
                    self._download(resolved, out, Span(), callback)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            raise

    def _download(self, resolved: PinnedPath, out: BinaryIO, span: Span, callback: Callback) -> None:
        url = hf_hub_url(
            resolved.repo_id,
            resolved.path,
            repo_type=resolved.repo_type,
            revision=resolved.revision,
            endpoint=self.endpoint,
        )
        download(
            url,
            out,
            token=self.token,
            span=span,
            callback=callback,
            place=resolved.unresolve(),
            patience=self.patience(),
        )

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if mode != "rb":
            raise UnsupportedRegistry(f"files here cannot be opened with mode {mode!r}", place=path)
        return RangeFile(
            self, self.resolve_path(path, revision).unresolve(), block_size or self.block_size or READ_AHEAD
        )

    def _get_instance_state(self) -> dict[str, Any]:
        return {"_pins": dict(self._pins)}


def _entry(found: RepoFile | RepoFolder, root: str) -> dict[str, Any]:
    """Return what the parent's listings say of a file or folder."""
    entry: dict[str, Any] = {"name": f"{root}/{found.path}", "size": 0, "type": "directory"}
    if isinstance(found, RepoFile):
        entry |= {"size": found.size, "type": "file", "blob_id": found.blob_id}
        entry |= {"lfs": found.lfs, "xet_hash": found.xet_hash}
    return entry


def _stored(entry: Mapping[str, Any]) -> Stored:
    return Stored(entry["size"], entry["blob_id"], entry["lfs"].sha256 if entry["lfs"] else None)
