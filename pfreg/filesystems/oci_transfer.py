"""Moving one blob to or from a registry.

Rules
-----
- Down: what is read whole is checked, size and digest; what breaks off goes on from where it was. No byte beyond the
  descriptor's size is taken. Hashing and writing large pieces happen off the event loop.
- Up: at most two requests for a new blob. The first opens an upload session, and in the same breath asks whether the
  blob is there already, by "mounting" it from its own repository; only if it is, a HEAD compares the size.
- A session that failed is burnt: the next attempt opens another.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import aiohttp

from pfreg.digest import CHUNK
from pfreg.errors import BlobNotFound, FileChanged, IntegrityError, TransferError, UnsupportedRegistry
from pfreg.filesystems.oci_answers import Unavailable, network_failure, read_errors
from pfreg.filesystems.oci_client import OciClient, Request
from pfreg.filesystems.oci_manifest import Descriptor

__all__ = ["Body", "BytesBody", "FileBody", "download", "mount", "pull_scope", "push_scope", "stored_size", "upload"]

_OFFLOAD = 1 << 16  # bytes below which a thread costs more than the hashing
_CHUNKED = 16 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)\Z")


def pull_scope(repository: str) -> tuple[str, ...]:
    """Return what a token needs for reading."""
    return (f"repository:{repository}:pull",)


def push_scope(repository: str) -> tuple[str, ...]:
    """Return what a token needs for writing."""
    return (f"repository:{repository}:pull,push",)


class Body(Protocol):
    """Where the bytes of an upload come from; they can be had several times."""

    def part(self, start: int, stop: int) -> bytes | AsyncIterator[bytes]:
        """Return the bytes from `start` to `stop`."""
        ...


class BytesBody:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def part(self, start: int, stop: int) -> bytes | AsyncIterator[bytes]:
        """Return the bytes from `start` to `stop`."""
        if stop - start <= CHUNK:
            return self._data[start:stop]
        return self._pieces(start, stop)

    async def _pieces(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for at in range(start, stop, CHUNK):
            yield self._data[at : min(at + CHUNK, stop)]


class FileBody:
    """A body in a local file, of which a piece at a time is in memory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.changed = False

    async def part(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to `stop`."""
        with open(self._path, "rb") as file:
            file.seek(start)
            while start < stop:
                piece = await asyncio.to_thread(file.read, min(CHUNK, stop - start))
                if not piece:
                    self.changed = True
                    raise FileChanged("became shorter while it was sent", operation="upload", place=self._path)
                start += len(piece)
                yield piece


async def download(
    client: OciClient,
    repository: str,
    descriptor: Descriptor,
    write: Callable[[bytes], object],
    *,
    place: str,
    start: int = 0,
    stop: int | None = None,
) -> None:
    """Read a blob, or a part of it.

    Parameters
    ----------
    client, repository, descriptor, place
        Where it is, its digest and size, and what to call it in errors.
    write : callable
        Takes the bytes, in order; large pieces come on another thread.
    start, stop : int, optional
        The part, in bytes; the whole by default, which alone can be checked against the digest.

    Raises
    ------
    BlobNotFound, IntegrityError
        If the registry has no such blob, or other bytes than the descriptor says.
    AccessDenied, TransferError
        As the registry and the network have it.
    """
    stop = descriptor.size if stop is None else stop
    whole = (start, stop) == (0, descriptor.size)
    hasher = hashlib.sha256()

    def take(piece: bytes) -> None:
        hasher.update(piece)
        write(piece)

    at, patience = start, client.patience()
    while True:
        response = await client.send(_get_blob(client, repository, descriptor, place=place, start=at, stop=stop))
        failure: TransferError = Unavailable("the answer broke off", operation="download", place=place)
        try:
            async with response:
                async for piece in _pieces(response, descriptor, at, stop, place):
                    at, patience = at + len(piece), client.patience()
                    await asyncio.to_thread(take, piece) if len(piece) >= _OFFLOAD else take(piece)
        except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError) as error:
            failure = network_failure(error, operation="download", place=place)
        if at >= stop:
            break
        await patience.wait(failure)
    if whole and f"sha256:{hasher.hexdigest()}" != descriptor.digest:
        raise IntegrityError("the blob does not match its digest", operation="download", place=place)


async def _pieces(
    response: aiohttp.ClientResponse, blob: Descriptor, start: int, stop: int, place: str
) -> AsyncIterator[bytes]:
    """Yield what a response has of the bytes from `start` to `stop`."""
    skip = _check_answer(response, blob, start, place)
    while start < stop and (piece := await response.content.read(CHUNK)):
        piece, skip = piece[skip:], max(0, skip - len(piece))
        if stop == blob.size and len(piece) > stop - start:
            raise IntegrityError("the blob is longer than its descriptor", operation="download", place=place)
        piece = piece[: stop - start]
        start += len(piece)
        yield piece


def _get_blob(client: OciClient, repository: str, blob: Descriptor, *, place: str, start: int, stop: int) -> Request:
    part = (start, stop) != (0, blob.size)
    return Request(
        "GET",
        client.url(repository, f"blobs/{blob.digest}"),
        "download",
        place,
        pull_scope(repository),
        (200, 206, 404),
        headers={"Range": f"bytes={start}-{stop - 1}"} if part else {},
    )


def _check_answer(response: aiohttp.ClientResponse, blob: Descriptor, start: int, place: str) -> int:
    """Check what a response promises; return how many of its bytes come before `start`."""
    if response.status == 404:
        raise BlobNotFound("the registry does not have this blob", operation="download", place=place)
    if response.status == 200:
        begins, total = 0, response.content_length
    else:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != start:
            raise TransferError("the registry answered with another range", operation="download", place=place)
        begins, total = start, None if match[2] == "*" else int(match[2])
    if total is not None and total != blob.size:
        problem = f"the registry stores {total} bytes where the manifest says {blob.size}"
        raise IntegrityError(problem, operation="download", place=place)
    return start - begins


async def stored_size(client: OciClient, repository: str, digest: str, *, place: str) -> int | None:
    """Return the bytes that a registry stores under a digest, by HEAD; None if it has no such blob."""
    url = client.url(repository, f"blobs/{digest}")
    async with await client.send(
        Request("HEAD", url, "look up blob", place, pull_scope(repository), (200, 404))
    ) as response:
        return response.content_length if response.status == 200 else None


async def upload(
    client: OciClient,
    repository: str,
    descriptor: Descriptor,
    body: Body,
    *,
    place: str,
) -> None:
    """Write a blob, unless the registry has it.

    Parameters
    ----------
    client, repository, descriptor, place
        Where to, digest and size of what `body` holds, and what to call it in errors.
    body : Body
        The bytes.

    Raises
    ------
    IntegrityError
        If the registry got other bytes than the descriptor says, or holds a spoilt blob of that name and keeps it.
    FileChanged
        If the file became shorter meanwhile.
    AccessDenied, TransferError
        As the registry and the network have it.
    """
    source, spoilt = repository, False
    patience = client.patience()
    while True:
        try:
            session = await _open_session(client, repository, descriptor, source, place)
            if session:
                await _send(client, repository, descriptor, body, session=session, place=place)
            if session and not spoilt:
                return
            # "Mounted" says nothing about the bytes, and a registry may keep the spoilt ones that it has.
            if await stored_size(client, repository, descriptor.digest, place=place) == descriptor.size:
                return
            if spoilt:
                problem = "the registry holds a spoilt blob of this digest, and does not replace it"
                hint = "remove it from the registry's storage, then push again"
                raise IntegrityError(problem, operation="upload", place=place, hint=hint)
            source, spoilt = "", True
        except Unavailable as error:
            if isinstance(body, FileBody) and body.changed:
                raise FileChanged("became shorter while it was sent", operation="upload", place=place) from None
            await patience.wait(error)


async def mount(client: OciClient, repository: str, descriptor: Descriptor, *, source: str, place: str) -> None:
    """Take a blob over from another repository of the same registry.

    Raises
    ------
    UnsupportedRegistry
        If the registry does not.
    """
    if await _open_session(client, repository, descriptor, source, place) is not None:
        hint = "get the file and put it"
        raise UnsupportedRegistry(f"cannot be mounted from {source}", operation="copy", place=place, hint=hint)


@dataclass(frozen=True, slots=True)
class _Session:
    """An open upload: where to send to next, and the fewest bytes a chunk may have."""

    url: str
    shortest_chunk: int = 0


async def _open_session(
    client: OciClient, repository: str, blob: Descriptor, source: str, place: str
) -> _Session | None:
    """Open an upload session; None if the registry took the blob over from the repository `source` instead."""
    url, scopes = client.url(repository, "blobs/uploads/"), push_scope(repository)
    if source:
        url += f"?mount={blob.digest}&from={quote(source, safe='')}"
        scopes += pull_scope(source) if source != repository else ()
    refusals = (400, 404, 405) if source else ()
    request = Request("POST", url, "open upload", place, scopes, (201, 202, *refusals))
    async with await client.send(request) as response:
        if response.status == 201:
            return None
        if response.status == 202:
            shortest = response.headers.get("OCI-Chunk-Min-Length", "")
            return _Session(client.target(response, request), int(shortest[:9]) if shortest.isdecimal() else 0)
    return await _open_session(client, repository, blob, "", place)


async def _send(
    client: OciClient, repository: str, blob: Descriptor, body: Body, *, session: _Session, place: str
) -> None:
    chunk = max(client.chunk_bytes, session.shortest_chunk) if client.chunk_bytes else blob.size
    if chunk >= blob.size:
        last = functools.partial(body.part, 0, blob.size)
        return await _finish(client, repository, blob, session.url, last, blob.size, place=place)
    url = session.url
    for start in range(0, blob.size, chunk):
        stop = min(start + chunk, blob.size)
        headers = {"Content-Range": f"{start}-{stop - 1}", **_octets(stop - start)}
        part = functools.partial(body.part, start, stop)
        request = Request("PATCH", url, "upload", place, push_scope(repository), (202, 404, 416), headers, part)
        async with await client.attempt(request) as response:
            if response.status != 202:
                raise _burnt(place)
            url = client.target(response, request)
    return await _finish(client, repository, blob, url, bytes, 0, place=place)


async def _finish(
    client: OciClient,
    repository: str,
    blob: Descriptor,
    url: str,
    part: Callable[[], bytes | AsyncIterator[bytes]],
    length: int,
    *,
    place: str,
) -> None:
    url += f"{'&' if '?' in url else '?'}digest={blob.digest}"
    answers = (201, 400, 404, 413, 416)
    request = Request("PUT", url, "upload", place, push_scope(repository), answers, _octets(length), part)
    async with await client.attempt(request) as response:
        if response.status == 201:
            return
        codes = [code for code, _ in await read_errors(response)]
        if response.status == 413 and length and not client.chunk_bytes:
            client.chunk_bytes = _CHUNKED  # it asks for pieces; the next session sends them
            raise _burnt(place)
        if "DIGEST_INVALID" in codes or "SIZE_INVALID" in codes:
            raise IntegrityError("the registry got other bytes than were hashed", operation="upload", place=place)
        if response.status in (404, 416) or "BLOB_UPLOAD_INVALID" in codes or "BLOB_UPLOAD_UNKNOWN" in codes:
            raise _burnt(place)
        problem = f"the registry answered {response.status} {' '.join(codes)}".rstrip()
        raise TransferError(problem, operation="upload", place=place)


def _octets(length: int) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Content-Length": str(length)}


def _burnt(place: str) -> Unavailable:
    return Unavailable("the registry gave the upload up", operation="upload", place=place)
