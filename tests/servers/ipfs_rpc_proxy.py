"""A proxy in front of a node's RPC that answers by itself, or does something first, where a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from tests.servers.web_thread import WebThread

Hook = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class RpcProxy(WebThread):
    """Forwards ``/api/v0`` to `rpc`.

    Attributes
    ----------
    hooks : dict
        By command (``"dag/import"``): called before it is forwarded; a response that it returns is sent instead.
    commands : list of str
        All commands so far.
    received : int
        Bytes of all bodies so far.
    headers : list
        The headers of all requests so far.
    """

    def __init__(self, rpc: str) -> None:
        self._rpc = rpc
        self.hooks: dict[str, Hook] = {}
        self.commands: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.received = 0
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/api/v0/{command:.+}", self._post)
        super().__init__(app)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        command = request.match_info["command"]
        self.commands.append(command)
        self.headers.append(dict(request.headers))
        if command in self.hooks and (answer := await self.hooks[command](request)) is not None:
            return answer
        body = await request.read()
        self.received += len(body)
        headers = {key: value for key, value in request.headers.items() if key == "Content-Type"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._rpc}{request.path_qs}", data=body, headers=headers) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read())


def pins(request: web.Request) -> bool:
    """Say whether a ``dag/import`` is the one that ends a push."""
    return request.query.get("pin-roots") == "true"


def lines(text: str) -> Hook:
    """Swallow what is sent and answer 200 with `text`."""

    async def hook(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(text=text, content_type="application/json")

    return hook


async def silence(request: web.Request) -> web.StreamResponse:
    """Read nothing, say nothing."""
    await asyncio.Event().wait()
    raise AssertionError


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Close the connection while the request is being sent."""
    assert request.transport
    request.transport.abort()
    raise web.HTTPBadGateway
