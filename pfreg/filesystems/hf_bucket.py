"""Buckets of the Hugging Face Hub: files without history, and so an ordinary filesystem without a transaction.

Rules
-----
- A file appears whole, by one request after its content was uploaded through Xet; several files do not appear at once.
- Nothing is cached, for a bucket changes under its readers.
- A missing bucket is created when something is written to it, private unless asked for otherwise.
- Only what is truly absent does not exist; refused, unreachable and broken raise.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractFileSystem
from huggingface_hub import BucketFile, HfApi

from pfreg.errors import BadReference, TargetExists, UnsupportedRegistry
from pfreg.filesystems.hf_calls import Patience, call, quiet, transferring
from pfreg.filesystems.hf_read import Span, download
from pfreg.filesystems.hf_transaction import OutgoingFile
from pfreg.filesystems.range_file import RangeFile

__all__ = ["HfBucketFileSystem"]

T = TypeVar("T")

READ_AHEAD = 1 << 20
"""Bytes that an opened file fetches at a time."""

_PATH = re.compile(r"buckets/(?P<bucket>[^/@]+/[^/@]+)(?:/(?P<path>.*))?\Z", re.DOTALL)


class HfBucketFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Buckets, by paths such as ``buckets/namespace/name/path``.

    Parameters
    ----------
    endpoint : str, optional
        URL of the Hub; else ``HF_ENDPOINT``, else huggingface.co.
    token : str or bool, optional
        An access token; else ``HF_TOKEN``, else that of ``hf auth login``. False reads anonymously.
    public : bool
        Make a bucket that is created public; private otherwise.
    retry_for : float
        Seconds for which a failing call is repeated.
    **storage_options
        For fsspec.
    """

    protocol = "hf"
    cachable = False
    root_marker = ""

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | bool | None = None,
        public: bool = False,
        retry_for: float = 90.0,
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
        self.api = HfApi(endpoint=endpoint, token=token)
        self.token = token
        self.public = public
        self.retry_for = retry_for
        self._made: set[str] = set()

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """List the files below `path`, whatever ``on_error`` says.

        Raises
        ------
        FileNotFoundError
            If there is no such bucket.
        AccessDenied, TransferError
            If the Hub refuses or fails.
        """
        bucket, prefix = self._split(path)
        below = f"{prefix}/" if prefix else ""
        listed = self._call("list", path, lambda: list(self.api.list_bucket_tree(bucket, prefix, recursive=True)))
        depth = below.count("/") + (maxdepth or 0)
        found = {
            f"buckets/{bucket}/{file.path}": _entry(bucket, file)
            for file in listed
            if file.type == "file"
            and (file.path == prefix or file.path.startswith(below))
            and (maxdepth is None or file.path.count("/") < depth)
        }
        return found if detail else sorted(found)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        """List a folder.

        Raises
        ------
        FileNotFoundError
            If there is nothing below it.
        """
        root = self._strip_protocol(path).rstrip("/")
        entries: dict[str, dict[str, Any]] = {}
        for name, entry in self.find(path, detail=True).items():
            child = "/".join([root, *name[len(root) + 1 :].split("/")[:1]]).rstrip("/")
            entries[child] = entry if child == name else {"name": child, "size": 0, "type": "directory"}
        if not entries and self._split(path)[1]:
            raise FileNotFoundError(path)
        return list(entries.values()) if detail else sorted(entries)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Describe a file, or a folder that has files.

        Raises
        ------
        FileNotFoundError
            If it is absent.
        """
        bucket, inner = self._split(path)
        found = self._call("look up", path, lambda: list(self.api.get_bucket_paths_info(bucket, [inner])))
        if found:
            return _entry(bucket, found[0])
        self.ls(path)
        return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is a file or folder; a refusal or a failure raises instead of saying no."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes of a file, or a part of them."""
        if (start or 0) < 0 or (end is not None and end < 0):
            start, end, _ = slice(start, end).indices(self.info(path)["size"])
        out = io.BytesIO()
        if end is None or end > (start or 0):
            self._download(path, out, Span(start or 0, end), DEFAULT_CALLBACK)
        return out.getvalue()

    def get_file(self, rpath: str, lpath: str | BinaryIO, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Copy a file to a local path, where no partial one is left if that fails, or into an open file."""
        if not isinstance(lpath, (str, os.PathLike)):
            self._download(rpath, lpath, Span(), callback)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        try:
            with open(lpath, "wb") as out:
                self._download(rpath, out, Span(), callback)
        except BaseException:
            os.unlink(lpath)
            raise

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file.

        Raises
        ------
        TargetExists
            If it is there and `mode` is ``"create"``.
        AccessDenied, StorageFull, TransferError
            If the Hub refuses or fails.
        """
        self._put(bytes(value), path, mode)

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Write a local file; errors are those of :meth:`pipe_file`."""
        if not os.path.isdir(lpath):
            self._put(os.fspath(lpath), rpath, mode)
            callback.relative_update(os.path.getsize(lpath))

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file between buckets, without moving its bytes."""
        source, _ = self._split(path1)
        target, inner = self._split(path2)
        copy = ("bucket", source, self.info(path1)["xet_hash"], inner)
        self._call("copy", path2, lambda: self.api.batch_bucket_files(target, copy=[copy]))

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files; a folder goes with the last file in it."""
        found = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        for name in [name for name in found if self.info(name)["type"] == "file"]:
            self._rm(name)

    def _rm(self, path: str) -> None:
        bucket, inner = self._split(path)
        self.info(path)
        self._call("remove", path, lambda: self.api.batch_bucket_files(bucket, delete=[inner]))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode == "rb":
            return RangeFile(self, self._strip_protocol(path), block_size or READ_AHEAD)
        if mode != "wb":
            raise UnsupportedRegistry(f"files here cannot be opened with mode {mode!r}", place=path)
        handle, local = tempfile.mkstemp(prefix="pfreg-hf-")
        return OutgoingFile(self, self._strip_protocol(path), handle, local)

    def finished(self, file: OutgoingFile[str], *, keep: bool) -> None:
        """Upload a temporary file that was written to its end, and remove it."""
        try:
            if keep:
                self._put(file.local, file.path, "overwrite")
        finally:
            os.unlink(file.local)

    def _put(self, source: bytes | str, path: str, mode: str) -> None:
        bucket, inner = self._split(path)
        if mode == "create" and self.exists(path):
            raise TargetExists("there is such a file already", operation="create", place=path)
        self._make(bucket)
        with transferring("write", path):
            self.api.batch_bucket_files(bucket, add=[(source, inner)])

    def _make(self, bucket: str) -> None:
        """Create a bucket if it is missing; asked once, for the upload itself would not say so."""
        if bucket in self._made:
            return
        try:
            self._call("look up", bucket, lambda: self.api.bucket_info(bucket))
        except FileNotFoundError:
            new = partial(self.api.create_bucket, bucket, private=not self.public, exist_ok=True)
            self._call("create bucket", bucket, new)
        self._made.add(bucket)

    def _download(self, path: str, out: BinaryIO, span: Span, callback: Callback) -> None:
        bucket, inner = self._split(path)
        download(
            f"{self.api.endpoint}/buckets/{bucket}/resolve/{quote(inner)}",
            out,
            token=self.token,
            span=span,
            callback=callback,
            place=path,
            patience=Patience(self.retry_for),
        )

    def _call(self, operation: str, path: str, work: Callable[[], T]) -> T:
        with quiet():
            return call(work, operation=operation, place=path, patience=Patience(self.retry_for))

    def _split(self, path: str) -> tuple[str, str]:
        match = _PATH.match(self._strip_protocol(path).strip("/"))
        if match is None:
            raise BadReference("not a bucket", place=path, hint="expected buckets/namespace/name[/path]")
        return match["bucket"], match["path"] or ""


def _entry(bucket: str, file: BucketFile) -> dict[str, Any]:
    name = f"buckets/{bucket}/{file.path}"
    return {"name": name, "size": file.size, "type": "file", "xet_hash": file.xet_hash}
