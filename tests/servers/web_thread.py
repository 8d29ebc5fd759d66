"""An aiohttp server in a thread of its own, for tests that need an HTTP server to misbehave on purpose."""

from __future__ import annotations

import asyncio
import threading

from aiohttp import web


class WebThread:
    """Serves `app` on a free port of 127.0.0.1 until it is closed."""

    def __init__(self, app: web.Application) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
