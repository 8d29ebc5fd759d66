"""Artifacts in OCI registries as trees of files: an fsspec filesystem with the protocol ``ocireg``.

Rules
-----
- Paths are ``host[:port]/repository[:tag][@sha256:<hex>][/path/of/a/file]`` (``oci_path.py``). How they are read, says
  ``oci_reader.py``; what is a file, says ``oci_manifest.py``.
- Files are written inside ``with fs.transaction:`` only, and all into one tag. Their blobs go up as they are written;
  the end of the block puts the manifest, which *replaces* what the tag named. ``keep`` takes files over from there.
- It knows nothing of ProcessFork but two names and three media types: any artifact whose layers say their path can be
  read, and anything can be written.

``oci`` itself is the name of another filesystem in fsspec (Oracle's object storage), so this one is called ``ocireg``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from typing import Any

from fsspec.asyn import sync
from fsspec.callbacks import DEFAULT_CALLBACK

from pfreg.digest import CHUNK, Digest, hash_stream
from pfreg.errors import BadOption, BadReference, BlobNotFound, ImageNotFound, UnsupportedRegistry
from pfreg.filesystems.oci_artifact import Artifact, delete_artifact, publish, read_artifact, tag_artifact
from pfreg.filesystems.oci_auth import BearerToken, Credentials, Login
from pfreg.filesystems.oci_manifest import (
    CONFIG_FILE,
    EMPTY_CONFIG,
    MAX_MANIFEST,
    MAX_SHARDS,
    Descriptor,
    layer_length,
)
from pfreg.filesystems.oci_path import PROTOCOL, ArtifactName, parse_path
from pfreg.filesystems.oci_reader import OciReader
from pfreg.filesystems.oci_tokens import Settings
from pfreg.filesystems.oci_transaction import OciTransaction, Staged, refuse_nested, too_many_files
from pfreg.filesystems.oci_transfer import Body, BytesBody, FileBody, mount, stored_size, upload

__all__ = ["OciFileSystem"]

_FSSPEC_OPTIONS = {"use_listings_cache", "listings_expiry_time", "max_paths"}


class OciFileSystem(OciReader):
    """Artifacts in OCI registries.

    Parameters
    ----------
    username, password : str, optional
        Credentials; without them ``OCI_BEARER``, ``OCI_USERNAME`` and ``OCI_PASSWORD``, and docker's configuration are
        asked.
    bearer : str, optional
        A token that the registry takes as it is.
    plain_http : bool, optional
        True for http, False for https; by default http for loopback and https for everything else.
    ca_bundle : str, optional
        PEM file of authorities to trust beside the system's; ``OCI_CA_BUNDLE`` otherwise.
    token_realms : sequence of str, optional
        Origins (``https://host``) of token services on other hosts that may see the credentials.
    oci_shard : int, optional
        Layers per manifest, for registries that cap them; 0 puts all into one.
    deadline : float, optional
        Seconds for which a failing request is tried again.
    chunk_bytes : int, optional
        Bytes per request of an upload in chunks; 0 for whole blobs, unless the registry asks for chunks.
    helper_timeout : float, optional
        Seconds that a docker credential helper may take.
    concurrency : int, optional
        Blobs, and connections, in flight.
    asynchronous, loop, batch_size
        As every asynchronous fsspec filesystem has them.
    **storage_options
        Only fsspec's own.

    Attributes
    ----------
    committed : str or None
        The digest of the manifest that the last transaction put.

    Raises
    ------
    BadOption
        If an option is unknown, or has no meaning.
    """

    transaction_type = OciTransaction
    transaction_is_commit = True

    def __init__(
        self,
        *,
        username: str | None = None,
        password: str | None = None,
        bearer: str | None = None,
        plain_http: bool | None = None,
        ca_bundle: str | None = None,
        token_realms: Sequence[str] = (),
        oci_shard: int = 0,
        deadline: float = 120.0,
        chunk_bytes: int = 0,
        helper_timeout: float = 30.0,
        concurrency: int = 16,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        batch_size: int | None = None,
        **storage_options: Any,
    ) -> None:
        unknown = sorted(set(storage_options) - _FSSPEC_OPTIONS)
        if unknown:
            raise BadOption(f"unknown option {unknown[0]!r}", operation="open filesystem", place=PROTOCOL)
        if oci_shard < 0 or chunk_bytes < 0 or concurrency < 1:
            raise BadOption("a negative number", operation="open filesystem", place=PROTOCOL)
        settings = Settings(
            credentials=_credentials(username, password, bearer),
            plain_http=plain_http,
            token_realms=(token_realms,) if isinstance(token_realms, str) else tuple(token_realms),
            helper_timeout=helper_timeout,
            deadline=deadline,
            chunk_bytes=chunk_bytes,
        )
        super().__init__(
            settings,
            ca_bundle=ca_bundle or os.environ.get("OCI_CA_BUNDLE"),
            concurrency=concurrency,
            asynchronous=asynchronous,
            loop=loop,
            batch_size=batch_size,
            **storage_options,
        )
        self.committed: str | None = None
        self._shard_layers = oci_shard

    def start_transaction(self) -> OciTransaction:
        """Begin a transaction without ``with``; ``end_transaction()`` commits it."""
        refuse_nested(self)
        transaction: OciTransaction = super().start_transaction()
        return transaction

    def announce(self, paths: Collection[str]) -> None:
        """Say what the commit is going to hold, so that too much of it is refused before anything is sent.

        Parameters
        ----------
        paths : collection of str
            Every file of the commit, as full paths.

        Raises
        ------
        LimitExceeded
            If one manifest cannot hold so many.
        """
        if not paths:
            return
        name, _ = self._writable(next(iter(paths)))
        length = sum(layer_length(parse_path(self._strip_protocol(path))[1], 0) for path in paths)
        if len(paths) > self._shard_layers * MAX_SHARDS if self._shard_layers else length > MAX_MANIFEST:
            raise too_many_files(str(name))

    def keep(self, paths: Sequence[str]) -> None:
        """Take files that the tag names now into the commit, without sending or reading them.

        Parameters
        ----------
        paths : sequence of str
            Full paths.

        Raises
        ------
        BlobNotFound
            If the tag does not name one of them.
        """
        parsed = [self._writable(path) for path in paths]
        if not parsed:
            return
        name = parsed[0][0]
        artifact = self._artifacts.get(name) or sync(self.loop, self._resolved, name)
        for target, inner in parsed:
            blob = artifact.files.get(inner)
            if blob is None:
                raise BlobNotFound(
                    "cannot be kept: the artifact has no such file", operation="keep", place=f"{target}/{inner}"
                )
            self._stage(target, inner, Staged(blob))

    async def _artifact(self, name: ArtifactName) -> Artifact:
        # What an open transaction is going to replace is looked up anew: somebody may have published meanwhile.
        if self._intrans and self._transaction.name == name:
            return await read_artifact(self._client(name.host), name)
        return await super()._artifact(name)

    def _writable(self, path: str) -> tuple[ArtifactName, str]:
        """Check that a file may be written under `path` now; return its artifact and inner path."""
        path = self._strip_protocol(path)
        name, inner = parse_path(path)
        if name.digest or not name.tag:
            raise BadReference("only a tag can be written", operation="write", place=path, hint="name no digest")
        if not inner:
            raise BadReference("names no file of the artifact", operation="write", place=path)
        if not self._intrans:
            hint = "with fs.transaction: ..."
            raise UnsupportedRegistry("is written in a transaction", operation="write", place=path, hint=hint)
        return name, inner

    def _stage(self, name: ArtifactName, inner: str, staged: Staged) -> None:
        self._writable(f"{name}/{inner}")  # the transaction may have ended while the blob was sent
        self._transaction.reserve(name, inner, staged.descriptor.size, shard_layers=self._shard_layers)
        self._transaction.staged[inner] = staged

    async def _present(self, transaction: OciTransaction, name: ArtifactName) -> dict[str, int]:
        """Return size by digest of the blobs that the tag names now, and so need no request."""
        async with transaction.looking:
            if transaction.present is None:
                try:
                    files = (await self._resolved(name)).files
                except ImageNotFound:
                    files = {}
                transaction.present = {blob.digest: blob.size for blob in files.values()}
        return transaction.present

    async def _write(self, path: str, blob: Descriptor, body: Body, *, source: str = "") -> None:
        name, inner = self._writable(path)
        transaction: OciTransaction = self._transaction
        transaction.reserve(name, inner, blob.size, shard_layers=self._shard_layers)
        present = await self._present(transaction, name)
        if present.get(blob.digest) != blob.size:
            await upload(self._client(name.host), name.repository, blob, body, place=path)
            present[blob.digest] = blob.size
        self._stage(name, inner, Staged(blob, source))

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        _refuse_mode(mode, path)
        data = bytes(value)
        async with self._slots:
            digest = await asyncio.to_thread(Digest.of, data) if len(data) > CHUNK else Digest.of(data)
            await self._write(path, Descriptor(str(digest), len(data)), BytesBody(data))

    async def _put_file(
        self, lpath: str, rpath: str, mode: str = "overwrite", callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        _refuse_mode(mode, rpath)
        if os.path.isdir(lpath):
            return
        async with self._slots:
            blob, body = await asyncio.to_thread(_local_body, lpath)
            callback.set_size(blob.size)
            await self._write(rpath, blob, body, source=lpath)
            callback.relative_update(blob.size)

    async def _commit(self, transaction: OciTransaction) -> str | None:
        """Put the manifest of what is staged; return its digest, or None if there is nothing."""
        name, staged = transaction.name, transaction.staged
        if name is None or not staged:
            return None
        client = self._client(name.host)
        by_digest = {file.descriptor.digest: file for file in staged.values()}

        async def resend(digest: str) -> bool:
            file = by_digest.get(digest)
            if file is None:
                return False
            # Another writer's upload of the same blob can hide it from a registry for a moment.
            if await stored_size(client, name.repository, digest, place=str(name)) == file.descriptor.size:
                return True
            if not os.path.exists(file.source):
                return False
            blob, body = await asyncio.to_thread(_local_body, file.source)
            if blob == file.descriptor:
                await upload(client, name.repository, blob, body, place=file.source)
            return blob == file.descriptor

        if CONFIG_FILE not in staged:
            empty = Descriptor(str(Digest.of(EMPTY_CONFIG)), len(EMPTY_CONFIG))
            await upload(client, name.repository, empty, BytesBody(EMPTY_CONFIG), place=str(name))
        files = {path: file.descriptor for path, file in staged.items()}
        digest = await publish(client, name, files, shard_layers=self._shard_layers, resend=resend)
        self._artifacts[name] = Artifact(digest, files)
        return digest

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, source_inner = parse_path(self._strip_protocol(path1))
        target, inner = parse_path(self._strip_protocol(path2))
        if source.host != target.host or (not inner and source.repository != target.repository):
            raise UnsupportedRegistry("copies within one repository only", operation="copy", place=path2)
        if not inner and not source_inner:
            if target.digest or not target.tag:
                raise BadReference("only a tag can be written", operation="copy", place=path2)
            await tag_artifact(self._client(source.host), source, target)
            self._artifacts.pop(target, None)
            return
        _, _, blob = await self._blob(path1)
        name, inner = self._writable(path2)
        if source.repository != name.repository:
            await mount(self._client(name.host), name.repository, blob, source=source.repository, place=path2)
        self._stage(name, inner, Staged(blob))

    async def _copy(self, path1: Any, path2: Any, recursive: bool = False, **kwargs: Any) -> Any:
        if isinstance(path1, str) and isinstance(path2, str) and not parse_path(self._strip_protocol(path1))[1]:
            return await self._cp_file(path1, path2)
        return await super()._copy(path1, path2, recursive=recursive, **kwargs)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        name, inner = parse_path(path)
        if inner:
            hint = "write a new one without the file"
            raise UnsupportedRegistry("an artifact is deleted whole", operation="delete", place=path, hint=hint)
        await delete_artifact(self._client(name.host), name)
        self._artifacts.clear()

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        for one in [path] if isinstance(path, str) else path:
            await self._rm_file(one)

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Do nothing: folders are only parts of the paths of files."""

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: folders are only parts of the paths of files."""

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return what describes this instance, without its secrets if `include_password` is False."""
        described: dict[str, Any] = super().to_dict(include_password=include_password)
        if not include_password:
            described.pop("bearer", None)
        return described


def _credentials(username: str | None, password: str | None, bearer: str | None) -> Credentials | None:
    if (username is None) != (password is None) or (bearer is not None and username is not None):
        problem = "give username and password together, or bearer alone"
        raise BadOption(problem, operation="open filesystem", place=PROTOCOL)
    if bearer is not None:
        return BearerToken(bearer)
    return Login(username, password) if username is not None and password is not None else None


def _local_body(path: str) -> tuple[Descriptor, Body]:
    """Hash a local file; small ones are read once and kept for sending."""
    with open(path, "rb") as file:
        head = file.read(CHUNK)
        if len(head) < CHUNK:
            return Descriptor(str(Digest.of(head)), len(head)), BytesBody(head)
        file.seek(0)
        digest, size = hash_stream(file)
        return Descriptor(str(digest), size), FileBody(path)


def _refuse_mode(mode: str, path: str) -> None:
    if mode != "overwrite":
        raise UnsupportedRegistry(f"mode={mode!r}: a commit replaces the artifact", operation="write", place=path)
