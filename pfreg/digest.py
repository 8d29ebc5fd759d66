"""Digests: the names of blobs, manifests and images.

Rules
-----
- A digest is ``sha256:`` and 64 lower-case hexadecimal digits, of *uncompressed* bytes. Upper case, other lengths and
  other algorithms are refused, for two spellings of one name would be two blobs.
- Hashing a stream takes constant memory.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import BinaryIO

from pfreg.errors import IntegrityError

__all__ = ["CHUNK", "Digest", "hash_stream"]

CHUNK = 1 << 20
"""Bytes handled at a time by everything that streams: 1 MiB, where a call's overhead has vanished beside its work."""

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The sha256 of some bytes, as the name of those bytes.

    Parameters
    ----------
    hex : str
        64 lower-case hexadecimal digits.

    Raises
    ------
    IntegrityError
        If `hex` is anything else.
    """

    hex: str

    def __post_init__(self) -> None:
        if not isinstance(self.hex, str) or not _HEX.match(self.hex):
            raise IntegrityError(
                f"not a sha256 digest: {str(self.hex)[:80]!r}", hint="expected 64 lower-case hex digits"
            )

    def __hash__(self) -> int:
        return hash(self.hex)  # what dataclass makes goes through a tuple, which is felt where many are looked up

    def __str__(self) -> str:
        return _PREFIX + self.hex

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self.hex[:12]

    @classmethod
    def parse(cls, text: str | Digest) -> Digest:
        """Read ``sha256:<hex>``.

        Raises
        ------
        IntegrityError
            If `text` is not exactly that.
        """
        if isinstance(text, Digest):
            return text
        if not isinstance(text, str) or not text.startswith(_PREFIX):
            raise IntegrityError(f"not a digest: {str(text)[:80]!r}", hint="expected sha256:<64 lower-case hex digits>")
        return cls(text[len(_PREFIX) :])

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """Return the digest of `data`."""
        return cls(hashlib.sha256(data).hexdigest())


def hash_stream(stream: BinaryIO) -> tuple[Digest, int]:
    """Return the digest and the length in bytes of what is left in `stream`, in constant memory."""
    hasher, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        hasher.update(chunk)
        size += len(chunk)
    return Digest(hasher.hexdigest()), size
