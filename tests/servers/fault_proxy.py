"""A proxy that fails on purpose, and a registry that lies on purpose.

A rule looks at each request and says what happens: ``None`` passes it on, an :class:`Answer` is given instead, a
:class:`Cut` passes it on and resets the connection in the middle, a :class:`Meddled` one passes changed. Every request
is kept in ``seen``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """What is answered instead of the registry; an endless body repeats itself."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    endless: bool = False


@dataclass(frozen=True)
class Cut:
    """The connection is reset after so many bytes of the answer's body, or of the request's if `upward`."""

    after: int
    upward: bool = False


@dataclass(frozen=True)
class Meddled:
    """The request arrives with another body, or without some headers; the answer with other status codes, or never."""

    body: Callable[[bytes], bytes] = bytes
    without: frozenset[str] = frozenset()
    status: Mapping[int, int] = field(default_factory=dict)
    lost: bool = False


Rule = Callable[[Seen], "Answer | Cut | Meddled | None"]

_UNTOUCHED = Meddled()

_HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}


class FaultProxy:
    """A proxy on a free port of 127.0.0.1 before `target` (``http://host:port``), on a thread of its own."""

    def __init__(self, target: str = "http://127.0.0.1:1", rule: Rule = lambda seen: None) -> None:
        self.target = target
        self.rule = rule
        self.seen: list[Seen] = []
        self.passed = 0
        """Bytes of bodies that the target's answers had so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._call(self._start())
        self.host = f"127.0.0.1:{self.port}"

    def requests(self, method: str = "", containing: str = "") -> list[Seen]:
        """Return the requests so far, those of one method, those with some text in their path."""
        return [s for s in self.seen if (not method or s.method == method) and containing in s.path]

    def stop(self) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, coroutine):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> int:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, request.path_qs, dict(request.headers))
        self.seen.append(seen)
        fault = self.rule(seen)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if isinstance(fault, Answer):
            await request.content.read()
            return await self._answer(request, fault)
        if isinstance(fault, Cut) and fault.upward:
            await request.content.read(fault.after)
            return self._reset(request)
        meddled = fault if isinstance(fault, Meddled) else _UNTOUCHED
        return await self._pass_on(request, fault.after if isinstance(fault, Cut) else None, meddled)

    async def _answer(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if "Content-Length" not in answer.headers and not answer.endless:
            response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body)
        while answer.endless:
            await response.write(answer.body)
        return response

    async def _pass_on(self, request: web.BaseRequest, cut_after: int | None, meddled: Meddled) -> web.StreamResponse:
        body = meddled.body(await request.content.read())
        dropped = _HOP_BY_HOP | meddled.without
        headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        url = f"{self.target}{request.raw_path}"
        async with self._session.request(
            request.method, aiohttp.client.URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
        ) as upstream:
            if meddled.lost:
                await upstream.read()
                return self._reset(request)
            kept = {name: value for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=meddled.status.get(upstream.status, upstream.status), headers=kept)
            await response.prepare(request)
            left = cut_after
            async for piece in upstream.content.iter_chunked(1 << 14):
                self.passed += len(piece)
                await response.write(piece if left is None else piece[:left])
                if left is not None and len(piece) >= left:
                    return self._reset(request)
                left = left if left is None else left - len(piece)
            return response

    def _reset(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.StreamResponse()
