"""HTTP for the double: requests, answers, routes by pattern, the log, and the server itself."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Fault, Faults

__all__ = ["Answer", "Call", "Refused", "Request", "Routes", "Server"]

_CHUNK = 1 << 20


class Refused(Exception):
    """An answer that is an error, as the Hub words them.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        For people.
    code : str
        For programs, such as ``RepoNotFound``.
    headers : mapping
        Further headers.
    """

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = Answer.of_json({"error": message}, status=status)
        self.answer.headers |= {"X-Error-Message": message.replace("\n", " ")[:300], **(headers or {})}
        if code:
            self.answer.headers["X-Error-Code"] = code


@dataclass(slots=True)
class Answer:
    """What is sent back: a status, headers, and a body that is bytes or a part of a file."""

    status: int = 200
    body: bytes | Path = b""
    headers: dict[str, str] = field(default_factory=dict)
    start: int = 0
    length: int | None = None

    @classmethod
    def of_json(cls, value: object, *, status: int = 200) -> Answer:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @property
    def size(self) -> int:
        whole = len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size
        return whole - self.start if self.length is None else self.length

    def open(self) -> BinaryIO:
        source: BinaryIO = BytesIO(self.body) if isinstance(self.body, bytes) else self.body.open("rb")
        source.seek(self.start)
        return source


@dataclass(slots=True)
class Request:
    """What was asked.

    Parameters
    ----------
    method, path : str
        The path still percent-encoded, without the query.
    query : dict
        The first value of each parameter.
    headers : mapping
        Names in any case.
    body : file
        To be read up to `size`.
    size : int
        Bytes of the body.
    base : str
        Our own URL, as the client wrote it.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: BinaryIO
    size: int
    base: str

    def read(self) -> bytes:
        content, self.size = self.body.read(self.size), 0
        return content

    def json(self) -> Any:
        return json.loads(self.read() or b"{}")


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the log. `sent` counts the bytes of the request's body."""

    method: str
    path: str
    status: int
    sent: int
    has_token: bool


Handler = Callable[..., Answer]


class Routes:
    """Patterns of paths, and what answers them. Groups of a pattern arrive percent-decoded, as keyword arguments."""

    def __init__(self) -> None:
        self._routes: list[tuple[frozenset[str], re.Pattern[str], Handler]] = []

    def add(self, methods: str, pattern: str, handler: Handler) -> None:
        self._routes.append((frozenset(methods.split()), re.compile(pattern + r"\Z"), handler))

    def answer(self, request: Request) -> Answer:
        for methods, pattern, handler in self._routes:
            match = pattern.match(request.path)
            if match and request.method in methods:
                given = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
                return handler(request, **given)
        raise Refused(404, f"the double knows no {request.method} {request.path}")


class Server:
    """Serves routes on a port of the loopback interface.

    Parameters
    ----------
    routes : Routes
        What is served.
    faults : Faults
        What goes wrong.
    port : int
        0 for any free one.
    """

    def __init__(self, routes: Routes, faults: Faults, port: int = 0) -> None:
        self.routes = routes
        self.faults = faults
        self.calls: list[Call] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Http(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def serve(self) -> None:
        """Serve until interrupted."""
        self._http.serve_forever()

    def answer(self, request: Request) -> Answer:
        try:
            return self.routes.answer(request)
        except Refused as refused:
            return refused.answer


class _Http(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body go out together and at once: else every answer waits 40 ms for the client's acknowledgement.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    owner: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the log is :attr:`Server.calls`."""

    def _handle(self) -> None:
        request = self._request()
        sent = request.size
        fault = self.owner.faults.strike(request.method, request.path)
        answer = self._faulty(fault, request) if fault else self.owner.answer(request)
        request.read()
        has_token = "Authorization" in self.headers
        status = answer.status if answer is not None else 0
        self.owner.calls.append(Call(request.method, self.path.partition("?")[0], status, sent, has_token))
        if answer is None:
            self._hang_up()
        else:
            self._send(answer, fault.cut if fault else None)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _faulty(self, fault: Fault, request: Request) -> Answer | None:
        """Do what the fault says; None is a connection that is closed without an answer."""
        if fault.cut is not None:
            return self.owner.answer(request)
        if fault.after:
            self.owner.answer(request)
        if fault.status == 0:
            return None
        return Refused(fault.status, fault.message, fault.code, fault.headers).answer

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body: BinaryIO = self.rfile  # type: ignore[assignment]
        size = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            content = self._dechunked()
            body, size = BytesIO(content), len(content)
        base = f"http://{self.headers.get('Host', '')}"
        return Request(self.command, parts.path, query, self.headers, body, size, base)

    def _dechunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer, cut: int | None) -> None:
        size = answer.size
        self.send_response(answer.status)
        headers = {"Content-Length": str(size), "X-Request-Id": "double"} | answer.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        left = size if cut is None else min(cut, size)
        try:
            with answer.open() as source:
                while left and (chunk := source.read(min(left, _CHUNK))):
                    self.wfile.write(chunk)
                    left -= len(chunk)
        except ConnectionError:
            self.close_connection = True
            return
        if cut is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        try:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
