"""Content that is kept outside git: LFS objects by their sha256, and Xet files by the store of the genuine ``hf_xet``.

``hf_xet`` writes its chunks below a folder when it is told to upload to ``local://<folder>``; only one process at a time
can have that folder open, so clients in several processes at once need LFS. The real Hub learns which
sha256 a Xet file has from the shards that the client uploads; so do we, by reading the shards that it left there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

__all__ = ["Contents", "WrongContent"]

_CHUNK = 1 << 20
_RECORD = 48
_HASH = 32
_EMPTY = "0" * 64  # the Xet hash of no bytes, which no shard knows
_HAS_VERIFICATION = 0x80000000
_HAS_METADATA = 0x40000000


class WrongContent(Exception):
    """What was uploaded does not have the sha256 it was announced with."""


class Contents:
    """The objects of all repositories.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.xet_url = f"local://{folder / 'xet'}"
        self.sizes: dict[str, int] = {}
        self._xet_hashes: dict[str, str] = {}
        self._shards: dict[Path, bytes] = {}
        self._lock = threading.Lock()
        for name in ("lfs", "xet", "bridge"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def has(self, sha256: str) -> bool:
        """Whether an object is there, through LFS or through Xet."""
        return self._object(sha256).exists() or self.xet_hash(sha256) is not None

    def write(self, sha256: str, source: BinaryIO, size: int) -> None:
        """Store an LFS object of `size` bytes.

        Raises
        ------
        WrongContent
            If the bytes are others than announced.
        """
        self._store(sha256, _chunks(source, size))

    def write_part(self, sha256: str, number: int, source: BinaryIO, size: int) -> str:
        """Store one part of an LFS object; return its entity tag."""
        hasher = hashlib.md5(usedforsecurity=False)
        with open(self._part(sha256, number), "wb") as out:
            for chunk in _chunks(source, size):
                hasher.update(chunk)
                out.write(chunk)
        return hasher.hexdigest()

    def join_parts(self, sha256: str, numbers: Iterable[int]) -> None:
        """Make an LFS object of its parts.

        Raises
        ------
        WrongContent
            If the bytes are others than announced.
        """
        parts = [self._part(sha256, number) for number in numbers]
        self._store(sha256, (chunk for part in parts for chunk in _file_chunks(part)))
        for part in parts:
            part.unlink()

    def path(self, sha256: str, size: int) -> Path | None:
        """Return a file with the content of an object; a Xet file is put together first, as the Hub's bridge does."""
        if self._object(sha256).exists():
            return self._object(sha256)
        xet_hash = self.xet_hash(sha256)
        return None if xet_hash is None else self.bridge(xet_hash, size)

    def bridge(self, xet_hash: str, size: int) -> Path:
        """Return a file with the content of a Xet file."""
        target = self.folder / "bridge" / xet_hash
        with self._lock:
            if xet_hash == _EMPTY:
                target.touch()
            if not target.exists():
                _download_xet(self.xet_url, xet_hash, size, target)
        return target

    def xet_hash(self, sha256: str) -> str | None:
        """Return the Xet hash of a file that was uploaded through Xet, None if it was not."""
        with self._lock:
            if sha256 not in self._xet_hashes:
                found = self._search_shards(bytes.fromhex(sha256))
                if found is None:
                    return None
                self._xet_hashes[sha256] = found
            return self._xet_hashes[sha256]

    def xet_size(self, xet_hash: str) -> int | None:
        """Return the length of a file that was uploaded through Xet, None if it was not."""
        if xet_hash == _EMPTY:
            return 0
        needle = _swapped(bytes.fromhex(xet_hash))
        with self._lock:
            for shard in self._every_shard():
                at = shard.find(needle)
                while at >= 0:
                    if (size := _file_size(shard, at)) is not None:
                        return size
                    at = shard.find(needle, at + 1)
        return None

    def _every_shard(self) -> Iterable[bytes]:
        """Yield the bytes of every shard; what was read once is kept, for shards do not change."""
        for path in (self.folder / "xet").rglob("*.mdb"):
            if path not in self._shards:
                self._shards[path] = path.read_bytes()
            yield self._shards[path]

    def _search_shards(self, sha256: bytes) -> str | None:
        swapped = _swapped(sha256)
        for shard in self._every_shard():
            for needle in (swapped, sha256):
                at = shard.find(needle)
                if at >= 0 and (found := _file_hash(shard, at)):
                    return found
        return None

    def _store(self, sha256: str, chunks: Iterable[bytes]) -> None:
        hasher = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self.folder / "lfs")
        with os.fdopen(handle, "wb") as out:
            for chunk in chunks:
                hasher.update(chunk)
                out.write(chunk)
        if hasher.hexdigest() != sha256:
            os.unlink(name)
            raise WrongContent(sha256)
        os.replace(name, self._object(sha256))

    def _object(self, sha256: str) -> Path:
        return self.folder / "lfs" / sha256

    def _part(self, sha256: str, number: int) -> Path:
        return self.folder / "lfs" / f"{sha256}.{number}"

    def clear(self) -> None:
        """Forget everything that is stored."""
        shutil.rmtree(self.folder)


def _download_xet(url: str, xet_hash: str, size: int, target: Path) -> None:
    import hf_xet

    partial = target.with_suffix(".partial")
    expiry = int(time.time()) + 3600
    session = hf_xet.XetSession()
    with session.new_file_download_group(endpoint=url, token="bridge", token_expiry_unix_secs=expiry) as group:
        group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), str(partial))
    partial.replace(target)


def _file_hash(shard: bytes, sha256_at: int) -> str | None:
    """Return the hash of the file whose metadata record, in a shard, begins with the sha256 found at `sha256_at`.

    A file is a header record (hash, flags, number of segments), that many segment records, as many verification
    records if a flag says so, and a metadata record if another does. The header is found by walking back to the one
    whose counts lead exactly here.
    """
    at = sha256_at - _RECORD
    while at >= 0:
        flags = int.from_bytes(shard[at + _HASH : at + _HASH + 4], "little")
        segments = int.from_bytes(shard[at + _HASH + 4 : at + _HASH + 8], "little")
        records = 1 + segments + (segments if flags & _HAS_VERIFICATION else 0)
        if flags & _HAS_METADATA and at + _RECORD * records == sha256_at:
            return _swapped(shard[at : at + _HASH]).hex()
        at -= _RECORD
    return None


def _file_size(shard: bytes, header_at: int) -> int | None:
    """Return the length of the file whose header record is at `header_at`: the sum of its segments' lengths."""
    flags = int.from_bytes(shard[header_at + _HASH : header_at + _HASH + 4], "little")
    segments = int.from_bytes(shard[header_at + _HASH + 4 : header_at + _HASH + 8], "little")
    first, end = header_at + _RECORD, header_at + _RECORD * (1 + segments)
    if flags & ~(_HAS_VERIFICATION | _HAS_METADATA) or not segments or end > len(shard):
        return None
    return sum(int.from_bytes(shard[at + _HASH + 4 : at + _HASH + 8], "little") for at in range(first, end, _RECORD))


def _swapped(value: bytes) -> bytes:
    """Return 32 bytes with the order inside each group of eight turned round: hashes are stored as four integers."""
    return b"".join(value[at : at + 8][::-1] for at in range(0, _HASH, 8))


def _chunks(source: BinaryIO, size: int) -> Iterable[bytes]:
    while size > 0 and (chunk := source.read(min(size, _CHUNK))):
        size -= len(chunk)
        yield chunk


def _file_chunks(path: Path) -> Iterable[bytes]:
    with open(path, "rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk
