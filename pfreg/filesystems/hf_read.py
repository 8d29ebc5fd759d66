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
from typing import TYPE_CHECKING, Any, BinaryIO

from fsspec.spec import AbstractBufferedFile
from huggingface_hub.utils import get_session, hf_raise_for_status

if TYPE_CHECKING:
    from pfreg.filesystems.hf import HfCommitFileSystem

__all__ = ["HubFile", "Progress", "receive"]

CHUNK = 1 << 20
"""Bytes handled at a time."""

_BEYOND_THE_END = 416
_PARTIAL = 206


@dataclass(slots=True)
class Progress:
    """How far a download has come.

    Parameters
    ----------
    position : int
        Offset in the file of the next byte that is needed.
    """

    position: int


def receive(url: str, headers: dict[str, str], out: BinaryIO, progress: Progress, end: int | None) -> None:
    """Write a file, from `progress` up to `end`, into `out`.

    Parameters
    ----------
    url : str
        Where the Hub has it.
    headers : dict
        The Hub client's, with the token.
    out : file
        Gets the bytes.
    progress : Progress
        Where to begin; moves on with every byte written, so that a further call goes on from there.
    end : int or None
        Offset after the last byte wanted; None for the end of the file.

    Raises
    ------
    HubError
        If the Hub refuses or fails.
    """
    wanted = {**headers, "Accept-Encoding": "identity"}
    if progress.position or end is not None:
        wanted["Range"] = f"bytes={progress.position}-{'' if end is None else end - 1}"
    with get_session().stream("GET", url, headers=wanted, follow_redirects=True) as response:
        if response.status_code == _BEYOND_THE_END:
            return
        hf_raise_for_status(response)
        at = progress.position if response.status_code == _PARTIAL else 0
        for chunk in response.iter_bytes(CHUNK):
            piece = chunk[max(progress.position - at, 0) : None if end is None else max(end - at, 0)]
            out.write(piece)
            progress.position += len(piece)
            at += len(chunk)
            if end is not None and at >= end:
                return


class HubFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file opened for reading: random access by ranges of its pinned commit.

    Parameters
    ----------
    fs : HfCommitFileSystem
        The filesystem.
    path : str
        The path of the file.
    **kwargs
        ``block_size``, ``cache_type``, ``cache_options`` as fsspec has them.
    """

    def __init__(self, fs: HfCommitFileSystem, path: str, **kwargs: Any) -> None:
        super().__init__(fs, path, mode="rb", **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start, end)
        return content
