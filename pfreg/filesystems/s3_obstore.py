"""S3 through obstore: the same paths and options as s3fs, with the work of a request done in Rust.

Rules
-----
- Options are those of s3fs (``s3_options``); what obstore would do otherwise is refused when the instance is made.
- Paths are keys. A key is a file or absent; folders exist in listings only, and nothing is ever cached.
- Blocking calls, made by several threads at once: obstore releases the interpreter while it waits. That is twice as
  fast as its coroutines for small files.
- Absent, refused and contested are :class:`FileNotFoundError`, :class:`PermissionError` and :class:`FileExistsError`.
  Of a listing obstore does not say why it failed: if the server answers another request, it was refused.
- An object appears whole. Large ones travel in parts, of which few are in memory; an upload that fails is abandoned.
- Threads of obstore do not survive a fork: in a child of a process that used it the class refuses to be made.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import obstore
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractFileSystem
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from pfreg.errors import BadOption
from pfreg.filesystems.range_file import RangeFile
from pfreg.filesystems.s3_options import Untranslatable, translate
from pfreg.filesystems.s3_swap import Swapping

__all__ = ["ObstoreFileSystem", "forked"]

_PART = 8 << 20  # bytes of a part of a large upload; at least 5 MiB, and at most 10,000 parts, says S3
_PARTS = 9_500
_AT_ONCE = 2  # parts of one file under way
_READ = 1 << 20  # bytes asked of a download at a time
_PAGE = 1000

_user = 0  # the process whose threads obstore has


def forked() -> bool:
    """Tell whether obstore's threads were left behind in a parent process."""
    return _user not in (0, os.getpid())


class ObstoreFileSystem(Swapping, AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """S3 and its kin.

    Parameters
    ----------
    **storage_options
        As for s3fs: ``key``, ``secret``, ``token``, ``anon``, ``endpoint_url``, ``client_kwargs``, ``config_kwargs``,
        ``use_ssl``, ``requester_pays``. What is not given comes from the environment (``AWS_ACCESS_KEY_ID``, ...).

    Raises
    ------
    BadOption
        If obstore cannot do what the options ask for.
    """

    protocol = ("s3", "s3a")
    cachable = False
    root_marker = ""
    largest_copy = 5 << 30
    """Bytes that the server copies in one request."""

    def __init__(self, **storage_options: Any) -> None:
        global _user
        if forked():
            raise BadOption(
                "obstore cannot be used in a child of a process that used it",
                operation="open",
                hint="PFREG_S3=s3fs, or start processes by 'spawn' or 'forkserver'",
            )
        super().__init__(**storage_options)
        try:
            self._made = translate(storage_options)
        except Untranslatable as e:
            raise BadOption(f"{e}", operation="open", hint="PFREG_S3=s3fs does it by s3fs") from None
        _user = os.getpid()
        self._stores: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._made.config.get('endpoint', 'AWS')!r})"

    __str__ = __repr__

    def _at(self, path: str) -> tuple[S3Store, str]:
        """Return the store of the bucket in a path, and the key."""
        bucket, _, key = self._strip_protocol(path).partition("/")
        if not bucket:
            raise ValueError(f"no bucket in {path!r}")
        with self._lock:
            if bucket not in self._stores:
                made = self._made
                self._stores[bucket] = S3Store(
                    bucket,
                    config=dict(made.config),  # type: ignore[arg-type]
                    client_options=dict(made.client),  # type: ignore[arg-type]
                    retry_config=dict(made.retry),  # type: ignore[arg-type]
                    credential_provider=made.credentials,  # type: ignore[arg-type]
                )
            return self._stores[bucket], key

    # -- looking -------------------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return name, size, time and ETag of an object, by one request."""
        store, key = self._at(path)
        if not key:
            return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}
        with _translated(path):
            return _described(obstore.head(store, key), path)

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """List all objects below a prefix, a thousand a request."""
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        store, key = self._at(path)
        bucket = self._strip_protocol(path).partition("/")[0]
        found: dict[str, dict[str, Any]] = {}
        with self._listing(store, path):
            for page in obstore.list(store, prefix=key or None, chunk_size=_PAGE):
                for meta in page:
                    name = f"{bucket}/{meta['path']}"
                    found[name] = _described(meta, name)
        return found if detail else list(found)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List one folder."""
        store, key = self._at(path)
        bucket = self._strip_protocol(path).partition("/")[0]
        with self._listing(store, path):
            listed = obstore.list_with_delimiter(store, prefix=key or None)
        folders = [{"name": f"{bucket}/{name}", "size": 0, "type": "directory"} for name in listed["common_prefixes"]]
        entries = [*folders, *(_described(meta, f"{bucket}/{meta['path']}") for meta in listed["objects"])]
        if not entries:
            entries = [self.info(path)]  # a file, or nothing
        return entries if detail else [entry["name"] for entry in entries]

    @contextmanager
    def _listing(self, store: S3Store, path: str) -> Iterator[None]:
        try:
            with _translated(path):
                yield
        except OSError as e:
            if isinstance(e, PermissionError | FileNotFoundError):
                raise
            self._answers(store, path)
            raise PermissionError(f"listing of {path} is refused, or there is no such bucket") from e

    def _answers(self, store: S3Store, path: str) -> None:
        """Raise OSError unless the server answers another request, whatever it says to that."""
        try:
            with _translated(path):
                obstore.head(store, f"{self._at(path)[1] or 'a'}/manifest.json")
        except (FileNotFoundError, PermissionError):
            return

    # -- reading -------------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return an object's bytes, or some of them; no more than those travel, but for what is on its way already."""
        store, key = self._at(path)
        with _translated(path):
            if start:
                first, last, _ = slice(start, end).indices(obstore.head(store, key)["size"])
                return obstore.get_range(store, key, start=first, end=last).to_bytes() if first < last else b""
            answer = obstore.get(store, key)
            _, last, _ = slice(0, end).indices(answer.meta["size"])
            if last == answer.meta["size"]:
                return answer.bytes().to_bytes()
            return obstore.get_range(store, key, start=0, end=last).to_bytes() if last else b""

    def get_file(
        self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Download an object into a local file, through little memory."""
        store, key = self._at(rpath)
        with _translated(rpath):
            answer = obstore.get(store, key)
            callback.set_size(answer.meta["size"])
            with open(lpath, "wb", buffering=0) as target:
                for piece in answer.stream(min_chunk_size=_READ):
                    target.write(piece)
                    callback.relative_update(len(piece))

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> BinaryIO:
        """Open an object for reading. Written are whole files only, by ``pipe_file`` and ``put_file``."""
        if mode != "rb":
            raise NotImplementedError(f"mode {mode!r}")
        self.info(path)  # an absent one is told now
        return RangeFile(self, path, _READ)

    # -- writing -------------------------------------------------------------------------------------------------

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write an object; with ``mode="create"`` only if there is none."""
        store, key = self._at(path)
        with _translated(path):
            if len(value) <= 2 * _PART:
                obstore.put(store, key, value, mode="create" if mode == "create" else "overwrite", use_multipart=False)
            else:
                obstore.put(store, key, value, chunk_size=_part(len(value)), max_concurrency=_AT_ONCE)

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Upload a local file, through little memory."""
        store, key = self._at(rpath)
        with open(lpath, "rb", buffering=0) as source:
            size = os.fstat(source.fileno()).st_size
            callback.set_size(size)
            with _translated(rpath):
                if size <= 2 * _PART:
                    obstore.put(store, key, source.read(), mode="overwrite", use_multipart=False)
                    callback.relative_update(size)
                else:
                    pieces = _pieces(source, size, callback)
                    obstore.put(store, key, pieces, chunk_size=_part(size), max_concurrency=_AT_ONCE)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy an object inside its bucket, on the server.

        Raises
        ------
        NotImplementedError
            Between buckets.
        """
        store, key = self._at(path1)
        target, name = self._at(path2)
        if store is not target:
            raise NotImplementedError("obstore copies inside a bucket only")
        with _translated(path1):
            obstore.copy(store, key, name)

    def rm_file(self, path: str) -> None:
        """Remove an object; one that is absent is fine."""
        store, key = self._at(path)
        with _translated(path):
            obstore.delete(store, key)

    _rm = rm_file

    def version(self, path: str) -> str | None:
        """Return the ETag of an object, None where there is none."""
        try:
            return str(self.info(path)["ETag"])
        except FileNotFoundError:
            return None

    def swap(self, path: str, data: bytes, *, version: str | None) -> str:
        """Write an object if it is still what `version` names; see :class:`~pfreg.filesystems.s3_swap.Swapping`."""
        store, key = self._at(path)
        mode: Any = "create" if version is None else {"e_tag": version}
        try:
            with _translated(path):
                return str(obstore.put(store, key, data, mode=mode, use_multipart=False)["e_tag"])
        except FileNotFoundError as e:  # what AWS says to a condition on an object that is gone
            raise e if version is None else FileExistsError(path) from e


def _described(meta: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "name": name,
        "size": meta["size"],
        "type": "file",
        "LastModified": meta["last_modified"],
        "ETag": meta["e_tag"] or "",
    }


def _part(size: int) -> int:
    return max(_PART, -(-size // _PARTS))


def _pieces(source: BinaryIO, size: int, callback: Callback) -> Iterator[bytes]:
    """Yield a file of `size` bytes; raise if it turns out to have fewer."""
    left = size
    while left:
        data = source.read(min(left, _READ))
        if not data:
            raise OSError("the file became shorter while it was sent")
        left -= len(data)
        yield data
        callback.relative_update(len(data))


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn obstore's exceptions into those of files."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as e:
        raise FileNotFoundError(path) from e
    except (PermissionDeniedError, UnauthenticatedError) as e:
        raise PermissionError(_first_line(e)) from e
    except (AlreadyExistsError, PreconditionError) as e:
        raise FileExistsError(path) from e
    except NotImplementedError:
        raise
    except BaseError as e:
        raise OSError(_first_line(e)) from e


def _first_line(e: BaseException) -> str:
    return str(e).partition("\n")[0]
