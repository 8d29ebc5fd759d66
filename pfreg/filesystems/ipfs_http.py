"""HTTP as the two kinds of IPFS server are spoken to: bounded, retried until a deadline, and careful with credentials.

Rules
-----
- Every answer is bounded in size, every attempt in time, and all attempts together by a deadline. Only what may pass by
  itself is tried again: a broken connection, silence, 429, 502, 503, 504.
- 401 and 403 are :class:`AccessDenied`, never "absent".
- Headers that a user gave go to the origin that they were given for, and nowhere else. A redirect to another origin
  loses them, and one from https to http is refused. Requests that write follow none.
- No header and no part of a URL but its origin gets into an error.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType

import aiohttp
from yarl import URL

from pfreg.errors import AccessDenied, BadOption, LimitExceeded, PfregError, TransferError

__all__ = ["Answer", "Body", "Client", "Endpoint", "Session"]

Body = Callable[[], AsyncIterator[bytes]]
"""Makes the body of a request anew for every attempt."""

_PASSING = frozenset({429, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 4
_CONNECTIONS = 32
_SLOWEST = 64 * 1024  # bytes a second below which a transfer counts as hanging


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that the user named.

    Parameters
    ----------
    url : str
        ``http(s)://host[:port][/prefix]``, without userinfo.
    headers : mapping of str to str
        Sent with each request, such as ``Authorization``.
    timeout : float
        Seconds of silence after which an attempt is given up.
    retry_for : float
        Seconds after which no further attempt is started.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    timeout: float = 30.0
    retry_for: float = 30.0

    def __post_init__(self) -> None:
        url = URL(self.url)
        if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
            raise BadOption("not the address of a server", hint="expected http(s)://host[:port]")
        if url.user or url.password:
            raise BadOption("the address of a server must hold no user or password", hint="give them as headers")
        if self.headers and url.scheme == "http" and not _is_loopback(url.host):
            raise BadOption(f"headers for {url.origin()} would travel in the clear", hint="use https")
        if not (self.timeout > 0 and self.retry_for >= 0):
            raise BadOption("time-outs must be positive")

    @property
    def origin(self) -> str:
        """Scheme, host and port: all that errors say of the server."""
        return str(URL(self.url).origin())


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: status, headers, and the whole bounded body."""

    status: int
    headers: Mapping[str, str]
    data: bytes = field(repr=False)


class Session:
    """The connections of one filesystem, opened on the loop that first uses them."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self) -> aiohttp.ClientSession:
        """Return the session; only on the loop."""
        if self._session is None:
            self._loop = asyncio.get_running_loop()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=1 << 20,
            )
        return self._session

    def close(self) -> None:
        """Close the connections, from any thread."""
        session, loop, self._session = self._session, self._loop, None
        if session is None or loop is None or not loop.is_running():
            return
        closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
        if not _is_loop_of_this_thread(loop):
            with suppress(TimeoutError, concurrent.futures.TimeoutError):
                closing.result(1.0)


def _is_loop_of_this_thread(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class Client:
    """Requests to one :class:`Endpoint`.

    Parameters
    ----------
    endpoint : Endpoint
        Whom to ask.
    session : Session
        Several clients may share it.
    """

    def __init__(self, endpoint: Endpoint, session: Session) -> None:
        self.endpoint = endpoint
        self._session = session

    async def get(self, path: str, params: Mapping[str, str], *, limit: int) -> Answer:
        """GET `path`, following redirects.

        Parameters
        ----------
        path : str
            Below the endpoint's URL, not yet percent-encoded.
        params : mapping of str to str
            The query.
        limit : int
            Bytes that the answer may have.

        Raises
        ------
        AccessDenied
            On 401 and 403.
        LimitExceeded
            If the answer is longer than `limit`.
        TransferError
            If the deadline passed without an answer.
        """
        return await self._until_deadline("GET", path, params, None, limit, self._seconds(limit))

    async def post(
        self, path: str, params: Mapping[str, str], *, limit: int, body: Body | None = None, seconds: float = 0.0
    ) -> Answer:
        """POST to `path`, following no redirect; `body`, if any, goes as the one file of a form.

        Parameters
        ----------
        path, params, limit
            As in :meth:`get`.
        body : callable, optional
            Gives the bytes of the file, once for each attempt.
        seconds : float
            What one attempt may take beyond the endpoint's time-out: a large body, or long work of the server.

        Raises
        ------
        AccessDenied, LimitExceeded, TransferError
            As in :meth:`get`.
        """
        return await self._until_deadline("POST", path, params, body, limit, self._seconds(limit) + seconds)

    @staticmethod
    def upload_seconds(size: int) -> float:
        """Return the time in seconds after which sending `size` bytes counts as hanging."""
        return size / _SLOWEST

    def _seconds(self, limit: int) -> float:
        return self.endpoint.timeout + limit / _SLOWEST

    async def _until_deadline(
        self, method: str, path: str, params: Mapping[str, str], body: Body | None, limit: int, seconds: float
    ) -> Answer:
        deadline = time.monotonic() + self.endpoint.retry_for
        pause = 0.1
        while True:
            wait = 0.0
            try:
                answer = await asyncio.wait_for(self._attempt(method, path, params, body, limit, seconds), seconds)
                if answer.status not in _PASSING:
                    return self._allowed(answer, path)
                problem, wait = f"HTTP {answer.status}", _retry_after(answer.headers)
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                if isinstance(error.__cause__, PfregError):  # raised by the body that was being sent: not the network's
                    raise error.__cause__ from None
                problem = type(error).__name__
            pause = min(pause * 2, 5.0)
            wait = max(wait, pause * random.uniform(0.5, 1.0))  # noqa: S311
            if time.monotonic() + wait > deadline:
                raise TransferError(
                    f"{self.endpoint.origin} does not answer: {problem}",
                    operation=f"{method} {path}",
                    hint="try again later, or give more time (timeout and retry_for options)",
                )
            await asyncio.sleep(wait)

    async def _attempt(
        self, method: str, path: str, params: Mapping[str, str], body: Body | None, limit: int, seconds: float
    ) -> Answer:
        home = URL(self.endpoint.url)
        url = home.joinpath(*path.split("/")).with_query(params)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.endpoint.timeout, sock_read=seconds if body else self.endpoint.timeout
        )
        for _ in range(_HOPS):
            headers = dict(self.endpoint.headers) if url.origin() == home.origin() else {}
            headers["Accept-Encoding"] = "identity"
            async with self._session().request(
                method, url, headers=headers, data=_form(body), timeout=timeout, allow_redirects=False
            ) as response:
                if method == "GET" and response.status in _REDIRECTS:
                    url = self._next(url, response.headers.get("Location", ""))
                    continue
                return Answer(
                    response.status, MappingProxyType(dict(response.headers)), await _bounded(response, limit)
                )
        raise TransferError(f"{self.endpoint.origin} redirects in circles", operation=f"{method} {path}")

    def _next(self, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location))
        except ValueError as error:
            raise TransferError(f"{self.endpoint.origin} redirects to something that is no URL") from error
        if (
            target.scheme not in ("http", "https")
            or not target.host
            or (url.scheme, target.scheme) == ("https", "http")
        ):
            raise TransferError(f"{self.endpoint.origin} redirects to an insecure or unknown protocol")
        return target

    def _allowed(self, answer: Answer, path: str) -> Answer:
        if answer.status in (401, 403):
            raise AccessDenied(
                f"{self.endpoint.origin} answers {answer.status}", operation=path, hint="check the headers given for it"
            )
        return answer


def _form(body: Body | None) -> aiohttp.MultipartWriter | None:
    if body is None:
        return None
    form = aiohttp.MultipartWriter("form-data")
    part = form.append(body(), {"Content-Type": "application/octet-stream"})
    part.set_content_disposition("form-data", name="file", filename="blocks.car")
    return form


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > limit:
            raise LimitExceeded(f"{response.url.origin()} sends more than {limit} bytes")
    return bytes(data)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0.0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
