"""A trustless IPFS gateway (``?format=raw``) over a mapping or a node, which lies and fails by rule.

A rule names a block, or any, and how it is answered, and how often: ``gateway.rules.append(Rule(other_bytes, cid))``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from tests.servers.web_thread import WebThread

Find = Callable[[str], Awaitable[bytes | None]]
Answer = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Rule:
    """Answer requests for the block `cid` (any, if empty) with `answer`, at most `times` times."""

    answer: Answer
    cid: str = ""
    times: int = 1_000_000

    def takes(self, cid: str) -> bool:
        if self.times == 0 or self.cid not in ("", cid):
            return False
        self.times -= 1
        return True


class TrustlessGateway(WebThread):
    """Serves the blocks that `find` finds.

    Attributes
    ----------
    rules : list of Rule
        The first that takes a request answers it.
    asked : list of str
        The CIDs of all requests so far.
    headers : list
        The headers of all requests so far.
    names : dict
        What ``/ipns/<name>`` stands for: a CID.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self.rules: list[Rule] = []
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.names: dict[str, str] = {}
        app = web.Application()
        app.router.add_get("/{space:ipfs|ipns}/{name}", self._get)
        super().__init__(app)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        cid = request.match_info["name"]
        self.asked.append(cid)
        self.headers.append(dict(request.headers))
        if request.match_info["space"] == "ipns":
            if cid not in self.names:
                raise web.HTTPNotFound
            cid = self.names[cid]
        if request.query.get("format") != "raw":
            raise web.HTTPNotAcceptable
        block = await self._find(cid)
        for rule in self.rules:
            if rule.takes(cid):
                return await rule.answer(request, block or b"")
        if block is None:
            raise web.HTTPNotFound
        return web.Response(body=block, content_type="application/vnd.ipld.raw", headers={"X-Ipfs-Roots": cid})


def over_mapping(blocks: dict[str, bytes]) -> Find:
    async def find(cid: str) -> bytes | None:
        return blocks.get(cid)

    return find


def over_node(rpc: str) -> Find:
    async def find(cid: str) -> bytes | None:
        params = {"arg": cid, "offline": "true", "timeout": "1s"}
        async with aiohttp.ClientSession() as session, session.post(f"{rpc}/api/v0/block/get", params=params) as answer:
            return await answer.read() if answer.status == 200 else None

    return find


# Ways to answer


async def other_bytes(request: web.Request, block: bytes) -> web.StreamResponse:
    """As many bytes, one bit of them flipped."""
    return web.Response(body=bytes([block[0] ^ 1]) + block[1:] if block else b"\0")


async def cut_short(request: web.Request, block: bytes) -> web.StreamResponse:
    """The first half, as if it were all."""
    return web.Response(body=block[: len(block) // 2])


async def broken_off(request: web.Request, block: bytes) -> web.StreamResponse:
    """All announced, half sent, connection closed."""
    response = web.StreamResponse(headers={"Content-Length": str(len(block))})
    await response.prepare(request)
    await response.write(block[: len(block) // 2])
    assert request.transport
    request.transport.abort()
    return response


async def wrong_headers(request: web.Request, block: bytes) -> web.StreamResponse:
    """The right block under headers that lie about it."""
    headers = {"X-Ipfs-Roots": "bafkqaaa", "Etag": '"bafkqaaa"', "Content-Type": "text/html", "X-Content-Length": "7"}
    return web.Response(body=block, headers=headers)


async def silence(request: web.Request, block: bytes) -> web.StreamResponse:
    """Nothing, for ever."""
    await asyncio.Event().wait()
    raise AssertionError


async def flood(request: web.Request, block: bytes) -> web.StreamResponse:
    """Zeros without end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(1 << 20))


def other_block(instead: bytes) -> Answer:
    """A true block, but not the one that was asked for."""

    async def answer(request: web.Request, block: bytes) -> web.StreamResponse:
        return web.Response(body=instead)

    return answer


def status(code: int, **headers: str) -> Answer:
    """An HTTP status."""

    async def answer(request: web.Request, block: bytes) -> web.StreamResponse:
        return web.Response(status=code, headers={key.replace("_", "-"): value for key, value in headers.items()})

    return answer
