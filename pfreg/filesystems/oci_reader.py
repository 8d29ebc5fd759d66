"""Reading artifacts as trees of files: the half of the OCI filesystem that writes nothing.

Rules
-----
- A repository lists as its tags, an artifact as the files that its manifest names.
- A tag is resolved once in the life of an instance, and everything is read by digest from then on. That is no cache
  but what keeps a pull whole while the tag moves: ``refresh()`` ends it, ``invalidate_cache()`` does not.
- What is read whole is checked against size and digest. A range cannot be.
- A local file appears under its name when it is complete and checked.
"""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import weakref
from typing import Any

import aiohttp
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractBufferedFile

from pfreg.errors import BlobNotFound, UnsupportedRegistry
from pfreg.filesystems.oci_artifact import Artifact, list_tags, read_artifact
from pfreg.filesystems.oci_client import OciClient, close_session, new_session
from pfreg.filesystems.oci_manifest import Descriptor
from pfreg.filesystems.oci_path import PROTOCOL, ArtifactName, parse_path
from pfreg.filesystems.oci_tokens import Settings
from pfreg.filesystems.oci_transfer import download

__all__ = ["OciReader"]

_VERIFIED_WHOLE = 8 << 20  # bytes up to which open() reads a file whole, and so checks it


class OciFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A large file, read in ranges; a range cannot be checked against the digest."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start=start, end=end)
        return data


class OciReader(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What :class:`pfreg.filesystems.oci.OciFileSystem` reads with.

    Parameters
    ----------
    settings : Settings
        About registries.
    ca_bundle : str or None
        PEM file of authorities to trust beside the system's.
    concurrency : int
        Blobs, and connections, in flight.
    asynchronous, loop, batch_size, **storage_options
        For fsspec.
    """

    protocol = PROTOCOL
    root_marker = ""
    cachable = False

    def __init__(
        self,
        settings: Settings,
        *,
        ca_bundle: str | None,
        concurrency: int,
        asynchronous: bool,
        loop: asyncio.AbstractEventLoop | None,
        batch_size: int | None,
        **storage_options: Any,
    ) -> None:
        super().__init__(asynchronous=asynchronous, loop=loop, batch_size=batch_size, **storage_options)
        self._settings = settings
        self._ca_bundle = ca_bundle
        self._connections = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._resolving = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._clients: dict[str, OciClient] = {}
        self._artifacts: dict[ArtifactName, Artifact] = {}

    # -- connections

    def _client(self, host: str) -> OciClient:
        """Return the client of a registry; on the event loop, to which its connections belong."""
        if self._session is None:
            loop = asyncio.get_running_loop()
            self._session = new_session(self._ca_bundle, self._connections)
            weakref.finalize(self, close_session, loop, self._session)
        if host not in self._clients:
            self._clients[host] = OciClient(host, session=self._session, settings=self._settings)
        return self._clients[host]

    def refresh(self) -> None:
        """Forget what tags were resolved to, as a new instance would."""
        self._artifacts.clear()

    async def _artifact(self, name: ArtifactName) -> Artifact:
        """Return what is to be read under `name`."""
        return await self._resolved(name)

    async def _resolved(self, name: ArtifactName) -> Artifact:
        """Return what `name` was resolved to when it was first asked for."""
        found = self._artifacts.get(name)
        if found is None:
            async with self._resolving:
                found = self._artifacts.get(name)
                if found is None:
                    found = self._artifacts[name] = await read_artifact(self._client(name.host), name)
        return found

    async def _blob(self, path: str) -> tuple[ArtifactName, str, Descriptor]:
        """Return the artifact, the inner path and the blob of a file."""
        name, inner = parse_path(self._strip_protocol(path))
        artifact = await self._artifact(name)
        if inner not in artifact.files:
            if inner in artifact.folders:
                raise IsADirectoryError(f"{path} is a folder")
            raise BlobNotFound("the artifact has no such file", operation="read", place=path)
        return name, inner, artifact.files[inner]

    # -- listing

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        name, inner = parse_path(path)
        if name.is_repository:
            await list_tags(self._client(name.host), name)
            return _folder(path)
        artifact = await self._artifact(name)
        if inner in artifact.files:
            return _file(path, artifact.files[inner])
        if inner in artifact.folders:
            return _folder(path) if inner else {**_folder(path), "digest": artifact.digest}
        raise BlobNotFound("the artifact has no such file", operation="info", place=path)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        name, inner = parse_path(path)
        if name.is_repository:
            infos = [_folder(f"{path}:{tag}") for tag in await list_tags(self._client(name.host), name)]
        else:
            artifact = await self._artifact(name)
            if inner in artifact.folders:
                entries = sorted(artifact.folders[inner].items())
                infos = [_file(f"{path}/{n}", blob) if blob else _folder(f"{path}/{n}") for n, blob in entries]
            else:
                infos = [await self._info(path)]
        return infos if detail else [info["name"] for info in infos]

    async def _find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any) -> Any:
        path = self._strip_protocol(path)
        name, inner = parse_path(path)
        if maxdepth is not None or withdirs or name.is_repository:
            return await super()._find(path, maxdepth=maxdepth, withdirs=withdirs, **{**kwargs, "on_error": "raise"})
        files = (await self._artifact(name)).files
        root, prefix = (path.removesuffix(f"/{inner}"), f"{inner}/") if inner else (path, "")
        found = {f"{root}/{p}": blob for p, blob in sorted(files.items()) if p == inner or p.startswith(prefix)}
        return {p: _file(p, blob) for p, blob in found.items()} if kwargs.get("detail") else list(found)

    async def _tags(self, path: str) -> list[str]:
        name, _ = parse_path(self._strip_protocol(path))
        return await list_tags(self._client(name.host), name)

    def tags(self, path: str) -> list[str]:
        """Return the tags of the repository that `path` is in.

        Parameters
        ----------
        path : str
            A repository, or anything in it.

        Raises
        ------
        ImageNotFound
            If there is no such repository.
        AccessDenied, TransferError
            As the registry and the network have it.
        """
        tags: list[str] = sync(self.loop, self._tags, path)
        return tags

    def ukey(self, path: str) -> str:
        """Return the digest of a file's stored bytes, or of an artifact's manifest."""
        return str(self.info(path).get("digest", path))

    # -- reading

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        name, _, blob = await self._blob(path)
        first, last, _step = slice(start, end).indices(blob.size)
        parts: list[bytes] = []
        if first < last or blob.size == 0:
            client = self._client(name.host)
            async with self._slots:
                await download(client, name.repository, blob, parts.append, place=path, start=first, stop=last)
        return b"".join(parts)

    async def _get_file(self, rpath: str, lpath: str, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        if (await self._info(rpath))["type"] == "directory":
            os.makedirs(lpath, exist_ok=True)
            return
        name, _, blob = await self._blob(rpath)
        callback.set_size(blob.size)
        os.makedirs(os.path.dirname(lpath) or ".", exist_ok=True)
        temporary = f"{lpath}.{secrets.token_hex(8)}.part"
        try:
            async with self._slots:
                with open(temporary, "xb") as file:

                    def write(piece: bytes) -> None:
                        file.write(piece)
                        callback.relative_update(len(piece))

                    await download(self._client(name.host), name.repository, blob, write, place=rpath)
            os.replace(temporary, lpath)
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode != "rb":
            raise UnsupportedRegistry(
                "files of an artifact are written whole", operation="open", place=path, hint="use pipe_file or put_file"
            )
        info = self.info(path)
        if info["type"] != "file":
            raise IsADirectoryError(f"{path} is a folder")
        if info["size"] <= _VERIFIED_WHOLE:
            return io.BytesIO(self.cat_file(path))
        return OciFile(self, path, mode, block_size or "default", size=info["size"], **kwargs)


def _folder(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _file(path: str, blob: Descriptor) -> dict[str, Any]:
    return {"name": path, "size": blob.size, "type": "file", "digest": blob.digest}
