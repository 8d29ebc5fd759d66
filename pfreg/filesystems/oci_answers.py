"""What a registry's answers mean when they are not what was asked for: errors with types.

Rules
-----
- What may pass by itself (a broken connection, 408, 429, 5xx) is :class:`Unavailable`; everything else is final.
  401 and 403 are :class:`pfreg.errors.AccessDenied`, and never read as "absent".
- The bodies of errors are bounded, and only the code of an error is repeated, for a message may echo anything. So may
  the texts of the client library's own errors, which know URLs and headers.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import socket
import time

import aiohttp

from pfreg.errors import AccessDenied, PfregError, StorageFull, TransferError

__all__ = ["Unavailable", "answer_failure", "network_failure", "read_bounded", "read_errors"]

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_ERROR = 1 << 16
_LONGEST_PAUSE = 60.0
_CODE = re.compile(r"[A-Z][A-Z_]{2,40}\Z")
_CREDENTIALS = "credentials: OCI_USERNAME and OCI_PASSWORD, username= and password=, or docker login"


class Unavailable(TransferError):
    """The registry could not answer now; the same request may succeed later."""

    retry_after: float = 0.0


async def answer_failure(response: aiohttp.ClientResponse, *, operation: str, place: str) -> PfregError:
    """Return the error that a response stands for, and release it."""
    status = response.status
    codes = " ".join(dict.fromkeys(code for code, _ in await read_errors(response)))
    problem = f"the registry answered {status} {codes}".rstrip()
    if status in _PASSING:
        error = Unavailable(problem, operation=operation, place=place)
        error.retry_after = min(_retry_after(response.headers.get("Retry-After", "")), _LONGEST_PAUSE)
        return error
    if status in (401, 403):
        return AccessDenied(problem, operation=operation, place=place, hint=_CREDENTIALS)
    if status == 507:
        return StorageFull(problem, operation=operation, place=place)
    tls = status == 400 and not codes and response.url.scheme == "http"
    hint = "if it speaks TLS, pass plain_http=False" if tls else ""
    return TransferError(problem, operation=operation, place=place, hint=hint)


def network_failure(error: Exception, *, operation: str, place: str) -> TransferError:
    """Return the error for a connection that failed; an :class:`Unavailable` if another attempt may succeed.

    The text of `error` is left out, for it may hold a signed URL.
    """
    if isinstance(error, aiohttp.ClientSSLError):
        hint = "for a private certificate set OCI_CA_BUNDLE or ca_bundle= to the PEM file of its authority"
        return TransferError(
            "the registry's TLS certificate is not trusted", operation=operation, place=place, hint=hint
        )
    cause = getattr(error, "os_error", None)
    if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
        return TransferError("no such host", operation=operation, place=place)
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return TransferError("the registry's answer is no HTTP", operation=operation, place=place)
    timed_out = isinstance(error, (TimeoutError, asyncio.TimeoutError))  # one class since Python 3.11
    reason = "timed out" if timed_out else getattr(error, "strerror", None) or type(error).__name__
    return Unavailable(f"the connection failed: {reason}", operation=operation, place=place)


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read at most `limit` bytes of a body, and one more if there are more."""
    parts: list[bytes] = []
    left = limit + 1
    while left > 0 and (part := await response.content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


async def read_errors(response: aiohttp.ClientResponse) -> list[tuple[str, object]]:
    """Return the codes and details of a registry's error answer, and release it; empty if it is something else."""
    try:
        document = json.loads(await read_bounded(response, _MAX_ERROR))
        errors = [(entry["code"], entry.get("detail")) for entry in document["errors"]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, aiohttp.ClientError, OSError):
        # Plain text, HTML of a proxy, a body that broke off: the status alone has to do.
        errors = []
    finally:
        response.release()
    return [(code, detail) for code, detail in errors if isinstance(code, str) and _CODE.match(code)]


def _retry_after(value: str) -> float:
    """Return the seconds that a ``Retry-After`` asks for: a number, or a date."""
    if value.isascii() and value.isdigit():
        return float(value[:6])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
