"""Talking HTTP to one OCI registry: authentication, redirects, retries, and errors with types.

Rules
-----
- Every request carries its credentials to the origin of the registry only; redirects are followed by hand, for reads.
- http only for loopback, or when asked for (``plain_http=True``). There is no falling back.
- No cookies, no decompression, no total time-out: a blob takes as long as it takes, but silence ends. A private
  certificate authority is trusted beside those of the system, never instead of checking.
- What may pass by itself (a broken connection, 408, 429, 5xx) is tried again, with growing pauses or as ``Retry-After``
  says, until a deadline; 429 holds back every request to this registry. What cannot pass is an error at once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from pfreg.digest import CHUNK
from pfreg.errors import BadOption, PfregError, TransferError
from pfreg.filesystems.oci_answers import Unavailable, answer_failure, network_failure
from pfreg.filesystems.oci_auth import may_speak, origin
from pfreg.filesystems.oci_path import is_loopback
from pfreg.filesystems.oci_tokens import Authorizer, Settings

__all__ = ["OciClient", "Patience", "Request", "close_session", "new_session"]

Payload = bytes | AsyncIterator[bytes]

_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 60
_CLOSE_SECONDS = 0.1
_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_FIRST_CONTACT = 5.0  # seconds for a registry that never answered: a wrong name should not take minutes to show


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Parameters
    ----------
    method, url : str
        As HTTP has them.
    operation, place : str
        For errors.
    scopes : tuple of str
        What a token has to allow.
    answers : collection of int
        Status codes that are an answer; every other one is an error.
    headers : mapping of str to str
        Beyond those of every request.
    body : callable or None
        Makes the body anew for each attempt.
    """

    method: str
    url: str
    operation: str
    place: str
    scopes: tuple[str, ...]
    answers: Collection[int]
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Payload] | None = None


class Patience:
    """How often and how long to wait for something that fails.

    Parameters
    ----------
    seconds : float
        No new attempt begins later than this after the first.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause = 0.1

    async def wait(self, error: TransferError) -> None:
        """Wait before the next attempt.

        Raises
        ------
        TransferError
            `error` itself, if it does not pass by itself or the deadline does not allow another attempt.
        """
        if not isinstance(error, Unavailable):
            raise error
        # Jitter: many requests that failed together should not come back together.
        pause = max(error.retry_after, self._pause * random.uniform(0.5, 1))  # noqa: S311  # no secret
        if time.monotonic() + pause > self._until:
            raise error
        self._pause = min(self._pause * 2, 10.0)
        await asyncio.sleep(pause)


class OciClient:
    """One registry.

    Parameters
    ----------
    host : str
        Host and port as in a reference.
    session : aiohttp.ClientSession
        Shared by all registries of a filesystem; belongs to the caller.
    settings : Settings
        The user's choices.
    """

    def __init__(self, host: str, *, session: aiohttp.ClientSession, settings: Settings) -> None:
        api = _API_HOSTS.get(host, host)
        name = api if api.endswith("]") else re.sub(r":\d+\Z", "", api)
        plain = settings.plain_http if settings.plain_http is not None else is_loopback(name)
        self.host = host
        self.origin = origin(f"{'http' if plain else 'https'}://{api}")
        self.settings = settings
        self.chunk_bytes = settings.chunk_bytes
        self._session = session
        self._answered = False
        self._resume_at = 0.0
        self._authorizer = Authorizer(host, self.origin, session=session, settings=settings)

    def url(self, repository: str, rest: str) -> str:
        """Return the URL of something in a repository, such as ``tags/list``."""
        return f"{self.origin}/v2/{repository}/{rest}"

    def target(self, response: aiohttp.ClientResponse, request: Request) -> str:
        """Return where the ``Location`` of a response points; raises as :meth:`resolve` does."""
        return self.resolve(response.headers.get("Location", ""), response, request)

    def resolve(self, reference: str, response: aiohttp.ClientResponse, request: Request) -> str:
        """Return the URL that a response names.

        Raises
        ------
        TransferError
            If it is empty, no URL, or a place where this registry may not send us.
        """
        try:
            url = urljoin(str(response.url), reference)
            origin(url)
            fine = bool(reference) and url.isascii() and url.isprintable() and " " not in url
        except ValueError:
            fine = False
        if not fine or not may_speak(url, registry=self.origin, plain_http=bool(self.settings.plain_http)):
            problem = "the registry points to a place that is no https URL"
            raise TransferError(problem, operation=request.operation, place=request.place)
        return url

    def patience(self) -> Patience:
        """Return the patience for one operation with this registry."""
        deadline = self.settings.deadline
        return Patience(deadline if self._answered else min(deadline, _FIRST_CONTACT))

    async def send(self, request: Request) -> aiohttp.ClientResponse:
        """Send `request`, again and again while it fails in ways that pass.

        Returns
        -------
        aiohttp.ClientResponse
            With one of the statuses of ``request.answers``; the caller releases it.

        Raises
        ------
        AccessDenied
            For 401 and 403.
        TransferError
            For every other answer, and for the network.
        """
        patience = self.patience()
        while True:
            try:
                return await self.attempt(request)
            except Unavailable as error:
                await patience.wait(error)

    async def attempt(self, request: Request) -> aiohttp.ClientResponse:
        """Send `request` once (twice, where a token has to be fetched first).

        Raises
        ------
        Unavailable
            If it failed in a way that passes.
        AccessDenied, TransferError
            As :meth:`send` does.
        """
        pause = self._resume_at - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        try:
            response = await self._authorized(request)
            self._answered = True
            if response.status in request.answers:
                return response
            failure = await answer_failure(response, operation=request.operation, place=request.place)
        except PfregError:
            raise
        except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError) as error:
            raise network_failure(error, operation=request.operation, place=request.place) from None
        if isinstance(failure, Unavailable) and failure.retry_after:
            self._resume_at = max(self._resume_at, time.monotonic() + failure.retry_after)
        raise failure

    async def _authorized(self, request: Request) -> aiohttp.ClientResponse:
        used = await self._authorizer.header(request.scopes)
        response = await self._follow(request, used)
        if response.status != 401 or origin(str(response.url)) != self.origin:
            return response
        await self._authorizer.learn(response, request.scopes, used)
        renewed = await self._authorizer.header(request.scopes)
        if renewed == used:
            return response
        response.release()
        return await self._follow(request, renewed)

    async def _follow(self, request: Request, authorization: str) -> aiohttp.ClientResponse:
        url = request.url
        for _ in range(_MAX_REDIRECTS + 1):
            headers = dict(request.headers)
            if authorization and origin(url) == self.origin:
                headers["Authorization"] = authorization
            response = await self._session.request(
                request.method,
                URL(url, encoded=True),
                data=request.body() if request.body else None,
                headers=headers,
                allow_redirects=False,
            )
            if response.status not in _REDIRECTS or request.method not in ("GET", "HEAD"):
                return response
            url = self.target(response, request)
            response.release()
        raise TransferError("redirected too often", operation=request.operation, place=request.place)


def new_session(ca_bundle: str | None, connections: int) -> aiohttp.ClientSession:
    """Return a session for the running event loop.

    Parameters
    ----------
    ca_bundle : str or None
        PEM file of more authorities to trust.
    connections : int
        The most that are open at once.

    Raises
    ------
    BadOption
        If `ca_bundle` holds no certificates.
    """
    context = ssl.create_default_context()
    if ca_bundle:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except OSError as error:  # an SSLError is one, too
            raise BadOption("holds no certificates in PEM", operation="read CA bundle", place=ca_bundle) from error
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=context),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
        headers={"User-Agent": "pfreg", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=CHUNK,
    )


def close_session(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """Close `session`, which belongs to `loop`, from whatever thread its filesystem is collected on."""
    if loop.is_closed() or session.closed:
        return
    if not loop.is_running():
        loop.run_until_complete(session.close())
        return
    closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
    if getattr(loop, "_thread_id", None) != threading.get_ident():
        # Not to the end: the collector may have interrupted this thread with a lock in hand that the loop needs.
        concurrent.futures.wait([closing], _CLOSE_SECONDS)
