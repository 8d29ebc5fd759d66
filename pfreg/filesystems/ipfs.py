"""``ipfs://``: images on IPFS, read from anybody, written to one's own node.

Rules
-----
- Every block is verified against the chain of CIDs that begins at the root, so a server needs no trust.
- Only servers that the user named are asked: ``gateway_addr``, or else the node's ``rpc``. There is no fallback.
- The transaction is the commit. Files go to the node as they are written, unpinned; the end of the transaction sends
  the directories and pins the root, whose CID is then ``committed``. Otherwise nothing is pinned.
- A root is immutable. Writing makes a new one, of exactly the files that were written and kept in the transaction.
- An image of the original's flat layout is read under the same paths: ``blobs/sha256/<aa>/<hex>.zst`` also finds
  ``blob_<hex>.zst``, by name and without a listing.

Paths are ``CID/path``. Without a CID they mean what the current transaction wrote or, after one, the root that it made.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from functools import partial
from typing import Any

import aiohttp
from fsspec.asyn import sync, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from fsspec.utils import isfilelike
from ipfsspec import AsyncIPFSFileSystem
from multiformats import CID

from pfreg.errors import (
    AccessDenied,
    BadOption,
    BadReference,
    LimitExceeded,
    TransferError,
    UnsupportedRegistry,
)
from pfreg.filesystems import cids
from pfreg.filesystems.dag import Dag, Found
from pfreg.filesystems.ipfs_http import Client, Endpoint, Session
from pfreg.filesystems.ipfs_servers import BlockSource, Gateway, Node
from pfreg.filesystems.ipfs_writer import Content, IPFSTransaction, RemotePin, Writer
from pfreg.filesystems.unixfs import Entry
from pfreg.filesystems.whole_files import appearing_whole, opened

__all__ = ["IPFSFileSystem", "RemotePin"]

_log = logging.getLogger(__name__)

LOCAL_NODE = "http://127.0.0.1:5001"
"""Where a node listens if nobody configured it otherwise."""

_LISTED_AT_ONCE = 16
_DEEPEST = 32
_MOST_FILES = 1_000_000

_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})\.zst\Z")
"""How pfreg names a blob; the original calls it ``blob_<hex>.zst``."""


class IPFSFileSystem(AsyncIPFSFileSystem):  # type: ignore[misc]
    """An fsspec filesystem of verified reads and committed writes on IPFS.

    Parameters
    ----------
    gateway_addr : str, optional
        A trustless gateway to read from, such as ``http://127.0.0.1:8080``; default: the environment variable
        ``IPFS_GATEWAY``, and if that is empty the node itself.
    gateway_headers : mapping of str to str, optional
        Sent to the gateway and nobody else: ``{"Authorization": "Bearer ..."}`` or ``"Basic ..."``.
    gateway_timeout : float
        Seconds of the gateway's silence after which an attempt is given up.
    rpc : str, optional
        The node's RPC address; default: a node on this machine.
    rpc_headers : mapping of str to str, optional
        Sent to the node and nobody else.
    rpc_timeout : float
        Seconds of the node's silence after which an attempt is given up.
    pin_timeout : float
        Seconds that the node may take to walk a whole image when it pins it.
    retry_for : float
        Seconds after which a request that fails is not tried again.
    pin_remote : str, optional
        The node's name of a pinning service that is asked to pin the new root as well; best effort, see `remote_pin`.
    dry_run : bool
        Build everything and send nothing: `committed` is then what a real transaction would answer.
    asynchronous, loop, batch_size
        As in :class:`fsspec.asyn.AsyncFileSystem`.

    Attributes
    ----------
    committed : str or None
        The root CID (version 1, base32) that the last transaction made.
    remote_pin : RemotePin or None
        What became of `pin_remote` in the last transaction.

    Raises
    ------
    BadOption
        If an address or a time-out makes no sense, or headers would travel unencrypted to another machine.
    """

    protocol = "ipfs"
    cachable = False
    transaction_type = IPFSTransaction
    transaction_is_commit = True

    def __init__(
        self,
        *,
        gateway_addr: str | None = None,
        gateway_headers: Mapping[str, str] | None = None,
        gateway_timeout: float = 30.0,
        rpc: str | None = None,
        rpc_headers: Mapping[str, str] | None = None,
        rpc_timeout: float = 30.0,
        pin_timeout: float = 600.0,
        retry_for: float = 30.0,
        pin_remote: str | None = None,
        dry_run: bool = False,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._http = Session()
        rpc_endpoint = Endpoint(rpc or LOCAL_NODE, rpc_headers or {}, rpc_timeout, retry_for)
        node = Node(Client(rpc_endpoint, self._http), pin_seconds=pin_timeout)
        gateway_addr = gateway_addr or os.environ.get("IPFS_GATEWAY")
        gateway: Gateway | None = None
        if gateway_addr:
            endpoint = Endpoint(gateway_addr, gateway_headers or {}, gateway_timeout, retry_for)
            gateway = Gateway(Client(endpoint, self._http))
        self.source: BlockSource = gateway or node
        self._dag = Dag(self.source)
        self._node = node
        self.writer = Writer(None if dry_run else node)
        self._pin_remote = pin_remote
        self._root: CID | None = None
        self._rehearsed: Sequence[CID] = ()
        self.committed: str | None = None
        self.remote_pin: RemotePin | None = None
        super().__init__(asynchronous=asynchronous, loop=loop, gateway_addr=gateway_addr, batch_size=batch_size)
        weakref.finalize(self, self._http.close)

    async def set_session(self) -> aiohttp.ClientSession:
        """Return the HTTP session, for ipfsspec."""
        return self._http()

    @property
    def gateway(self) -> None:
        """Refuse: ipfsspec's gateway verifies nothing, and may be anybody's."""
        raise UnsupportedRegistry("reads go through verified blocks only")

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return what :meth:`from_dict` needs, without the headers unless `include_password`."""
        fields: dict[str, Any] = super().to_dict(include_password=include_password)
        if not include_password:
            fields = {key: value for key, value in fields.items() if key not in ("gateway_headers", "rpc_headers")}
        return fields

    # Paths

    def _split(self, path: str) -> tuple[str, str]:
        """Take a path apart into what names its root (empty if nothing does) and what follows below."""
        whole: str = self._strip_protocol(path).strip("/")
        head, _, below = whole.partition("/")
        try:
            cids.parse(head)
        except BadReference:
            return "", whole
        return head, below

    async def _resolve(self, name: str) -> tuple[CID, str]:
        """Return the root that `name` stands for, and a path below it."""
        return cids.parse(name), ""

    async def _locate(self, path: str) -> Found:
        name, below = self._split(path)
        if name:
            root, above = await self._resolve(name)
            below = f"{above}/{below}"
        elif self._intrans and below in self.transaction.staged:
            entry = self.transaction.staged[below]
            return Found(entry.cid, entry.total)
        elif self._root:
            root = self._root
        else:
            raise FileNotFoundError(f"nothing was written yet, and {path!r} begins with no CID")
        try:
            return await self._dag.walk(root, below)
        except FileNotFoundError:
            blob = _BLOB.search(below)
            if not blob:
                raise
            return await self._dag.walk(root, f"{below[: blob.start()]}blob_{blob[1]}.zst")

    async def _located_folder(self, path: str) -> Found:
        try:
            return await self._locate(path)
        except FileNotFoundError:
            root, slash, last = self._strip_protocol(path).rpartition("/")
            if slash and last == "blobs" and await self._exists(f"{root}/manifest.json"):
                raise NotImplementedError("an image of the flat layout has no folder of blobs") from None
            raise

    # Reading

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return await self._describe(self._strip_protocol(path), await self._locate(path))

    async def _describe(self, name: str, found: Found) -> dict[str, Any]:
        size = await self._dag.size(found)
        kind = "directory" if size is None else "file"
        return {"name": name, "size": size or 0, "type": kind, "CID": cids.text(found.cid)}

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        name, found = self._strip_protocol(path), await self._locate(path)
        if await self._dag.size(found) is not None:
            listed = [await self._describe(name, found)]
        else:
            listed = [info for info, _ in await self._children(name, found)]
        return listed if detail else [info["name"] for info in listed]

    ls = sync_wrapper(_ls)  # ipfsspec binds its own at class level, which verifies nothing

    async def _children(self, name: str, directory: Found) -> list[tuple[dict[str, Any], Found]]:
        prefix = f"{name}/" if name else ""
        entries = [(prefix + child, found) async for child, found in self._dag.entries(directory)]
        infos: list[dict[str, Any]] = []
        while batch := entries[len(infos) : len(infos) + _LISTED_AT_ONCE]:
            infos += await asyncio.gather(*(self._describe(*entry) for entry in batch))
        return [(info, found) for info, (_, found) in zip(infos, entries, strict=True)]

    async def _find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> list[str] | dict[str, dict[str, Any]]:
        """List all files below `path`. Whatever cannot be read raises, whatever ``on_error`` says.

        Raises
        ------
        NotImplementedError
            For the folder of blobs of an image in the flat layout, which has none: its blobs are found by name.
        """
        name = self._strip_protocol(path)
        found = await self._located_folder(path)
        top = await self._describe(name, found)
        infos = {} if top["type"] == "directory" and not withdirs else {name: top}
        level = [(top, found)] if top["type"] == "directory" else []
        depth = 0
        while level and (maxdepth is None or depth < maxdepth):
            depth += 1
            if depth > _DEEPEST or len(infos) > _MOST_FILES:
                raise LimitExceeded(f"{path} is too deep or too large to list")
            children = [child for info, folder in level for child in await self._children(info["name"], folder)]
            infos |= {info["name"]: info for info, _ in children if withdirs or info["type"] == "file"}
            level = [child for child in children if child[0]["type"] == "directory"]
        infos = dict(sorted(infos.items()))
        return infos if kwargs.get("detail") else list(infos)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        found = await self._locate(path)
        if (start or 0) < 0 or (end or 0) < 0:
            size = await self._dag.size(found) or 0
            start, end, _ = slice(start, end).indices(size)
        async with aclosing(self._dag.content(found, start or 0, end)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def _get_file(self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Fetch a file: to a temporary name first, and to `lpath` when it is whole and verified."""
        found = await self._locate(rpath)
        callback.set_size(await self._dag.size(found))
        with ExitStack() as stack:
            out = lpath if isfilelike(lpath) else stack.enter_context(appearing_whole(os.fspath(lpath)))
            async with aclosing(self._dag.content(found)) as pieces:
                async for piece in pieces:
                    out.write(piece)
                    callback.relative_update(len(piece))

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file for reading, by ranges as they are needed."""
        if mode not in ("rb", "r", "rt"):
            raise UnsupportedRegistry("ipfs:// opens files for reading only", hint="write with pipe_file or put_file")
        return AbstractFileSystem.open(self, path, mode, block_size, cache_options, **kwargs)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> _RangedFile:
        return _RangedFile(self, path, mode, block_size or 1 << 20, cache_type=kwargs.get("cache_type", "readahead"))

    # Writing

    async def _stage(self, path: str, content: Content) -> Entry:
        _, below = self._writable(path)
        entry = await self.writer.add(content)
        self.transaction.staged[below] = entry
        return entry

    def _writable(self, path: str) -> tuple[str, str]:
        name, below = self._split(path)
        if not self._intrans:
            raise UnsupportedRegistry("ipfs:// is immutable", place=path, hint="write inside `with fs.transaction:`")
        if not below or any(part in ("", ".", "..") for part in below.split("/")):
            raise BadOption("not the path of a file", place=path)
        return name, below

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        await self._stage(path, partial(io.BytesIO, value))

    async def _put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        callback.set_size(os.stat(lpath).st_size)
        entry = await self._stage(rpath, partial(opened, lpath))
        callback.relative_update(entry.size)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Take a file that is on IPFS already into the new root, without reading or sending it."""
        _, below = self._writable(path2)
        found = await self._locate(path1)
        size = await self._dag.size(found)
        if found.total is None or size is None:
            raise UnsupportedRegistry("only files inside a root can be taken over", place=path1)
        self.transaction.staged[below] = Entry(found.cid, found.total, size)

    async def _keep(self, paths: Sequence[str]) -> None:
        for path in paths:
            await self._cp_file(path, path)

    def keep(self, paths: Sequence[str]) -> None:
        """Take files of an existing root into the new one, under the same names, without reading or sending them.

        Parameters
        ----------
        paths : sequence of str
            ``CID/path`` of each.

        Raises
        ------
        FileNotFoundError
            If one is not there.
        """
        sync(self.loop, self._keep, paths)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Give a block in which transactions build everything and send nothing; `committed` is what they would make."""
        writer, self.writer = self.writer, Writer(None)
        try:
            yield
        finally:
            self._rehearsed, self.writer = self.writer.directories, writer

    def holds(self, commit: str) -> bool:
        """Tell whether the node pins the root that the last rehearsal made.

        A pin says that the node had every block when it was made, and keeps them. The directories are asked for one by
        one, files are not: unpin a root that a node has damaged, and pushing sends what is missing.
        """
        return not self._pin_remote and bool(sync(self.loop, self._holds, commit))

    async def _holds(self, commit: str) -> bool:
        return await self.writer.stands(cids.parse(commit), self._rehearsed)

    def _publish(self, staged: Mapping[str, Entry]) -> None:
        if staged:
            sync(self.loop, self._commit, staged)

    async def _commit(self, staged: Mapping[str, Entry]) -> None:
        self._root = await self.writer.publish(staged)
        self.committed = cids.text(self._root)
        wished = self._pin_remote and not self.writer.is_dry
        self.remote_pin = await self._pinned_remotely(self._root) if wished else None

    async def _pinned_remotely(self, root: CID) -> RemotePin:
        service = self._pin_remote or ""
        try:
            status = await self._node.pin_remotely(root, service)
            _log.info("%s is %s by %s", cids.text(root), status, service)
            return RemotePin(service, status)
        except (AccessDenied, TransferError, UnsupportedRegistry) as error:
            _log.warning("%s is pinned, but not by %s: %s", cids.text(root), service, error)
            return RemotePin(service, "failed", str(error))

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Do nothing: directories come with their files."""

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: directories come with their files."""

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        raise UnsupportedRegistry("a root on IPFS is immutable", place=path, hint="unpin it on the node")


class _RangedFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file on IPFS, of which only the blocks are fetched that are read."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start, end))
