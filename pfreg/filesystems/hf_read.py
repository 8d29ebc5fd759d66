"""Reading files of the Hugging Face Hub: one request a file, resumed where it broke off.

Rules
-----
- A download streams: memory does not grow with the file. The redirect to the Hub's storage is followed without the
  token.
- After a lost connection only what is missing is asked for; a server that ignores the range is read past it.
- An answer shorter than it said it would be is an error of the HTTP library, never a short file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from fsspec.callbacks import Callback
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from pfreg.filesystems.hf_calls import Patience, call

__all__ = ["Span", "download"]

CHUNK = 1 << 20
"""Bytes handled at a time."""

_BEYOND_THE_END = 416
_PARTIAL = 206


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file.

    Parameters
    ----------
    start : int
        Offset of its first byte.
    end : int or None
        Offset after its last byte; None for the end of the file.
    """

    start: int = 0
    end: int | None = None


def download(
    url: str,
    out: BinaryIO,
    *,
    token: str | bool | None,
    span: Span,
    callback: Callback,
    place: str,
    patience: Patience,
) -> None:
    """Stream a file, or a part of it, into `out`; go on where a lost connection broke off.

    Parameters
    ----------
    url : str
        Where the Hub has it.
    out : file
        Gets the bytes.
    token : str or bool or None
        As the filesystem was given it.
    span : Span
        What is wanted of the file.
    callback : Callback
        Is told about every piece.
    place : str
        What an error calls it.
    patience : Patience
        When to stop repeating.

    Raises
    ------
    FileNotFoundError
        If it is absent.
    AccessDenied, TransferError
        If the Hub refuses or fails.
    """
    arrived = _Arrived(span.start)
    headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
    call(
        lambda: _receive(url, headers, out, arrived, span.end, callback),
        operation="read",
        place=place,
        patience=patience,
    )


@dataclass(slots=True)
class _Arrived:
    """The offset in the file of the next byte that is needed."""

    position: int


def _receive(
    url: str, headers: dict[str, str], out: BinaryIO, arrived: _Arrived, end: int | None, callback: Callback
) -> None:
    """Write what is missing up to `end` into `out`; `arrived` moves on with every byte written."""
    wanted = dict(headers)
    if arrived.position or end is not None:
        wanted["Range"] = f"bytes={arrived.position}-{'' if end is None else end - 1}"
    with get_session().stream("GET", url, headers=wanted, follow_redirects=True) as response:
        if response.status_code == _BEYOND_THE_END:
            return
        hf_raise_for_status(response)
        at = arrived.position if response.status_code == _PARTIAL else 0
        for chunk in response.iter_bytes(CHUNK):
            piece = chunk[max(arrived.position - at, 0) : None if end is None else max(end - at, 0)]
            out.write(piece)
            arrived.position += len(piece)
            callback.relative_update(len(piece))
            at += len(chunk)
            if end is not None and at >= end:
                return
