"""zstd frames, bounded.

Rules
-----
- A stored blob is one or more zstd frames and nothing else: garbage after the last frame, a frame that ends early and a
  frame that needs a dictionary are errors, although zstd's own reader overlooks some of them.
- No header is believed before its blocks bear it out, and no output is allocated beyond what the blocks can hold.
- Windows are at most 128 MiB, which is what zstd's highest level makes.
- Writing never states a size or a checksum. The stored bytes so depend on content and level alone, whether they were
  made from bytes or from a stream, and level 19 gives the very bytes of the original.

The frame format is that of RFC 8878, section 3.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import zstandard

from pfreg.digest import CHUNK, Digest
from pfreg.errors import BadOption, IntegrityError, LimitExceeded

__all__ = [
    "DEFAULT_LEVEL",
    "Compressor",
    "FrameScanner",
    "StreamHasher",
    "compress",
    "content",
    "contents",
    "digest_of",
    "verified_contents",
]

DEFAULT_LEVEL = 3
"""zstd's own default: on source text and on floats it compresses as well as level 19, a hundred times faster."""

LEVELS = range(-7, 23)
"""The levels that may be asked for; 0 would mean zstd's default and is spelled 3 here."""

MAX_WINDOW = 1 << 27
IN_MEMORY = 4 << 20
"""Content up to this many bytes is decompressed in one call, in memory; anything larger is streamed."""

_PARALLEL_FROM = 8 << 20
_MAX_BLOCK = 128 << 10
_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)


class Readable(Protocol):
    """Anything that bytes can be read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, and none at the end."""
        ...


class _PerThread(threading.local):
    """zstd contexts serve one stream at a time; each thread keeps its own."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)


_CONTEXTS = _PerThread()


class Compressor:
    """Compress a stream piece by piece.

    Parameters
    ----------
    level : int
        zstd's level.

    Raises
    ------
    BadOption
        If zstd has no such level.
    """

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        if level not in LEVELS or level == 0:
            raise BadOption(f"zstd has no level {level!r}", hint="1 to 22, or -7 to -1")
        self._stream = zstandard.ZstdCompressor(level=level).compressobj()

    def update(self, data: bytes) -> bytes:
        """Take `data`; return what of the frame is ready."""
        return self._stream.compress(data)

    def finish(self) -> bytes:
        """Return the rest of the frame."""
        return self._stream.flush()


def compress(data: bytes, *, level: int = DEFAULT_LEVEL) -> bytes:
    """Return `data` as one frame, byte for byte what :class:`Compressor` makes of it."""
    compressor = _CONTEXTS.compressors.get(level)
    if compressor is None:
        if level not in LEVELS or level == 0:
            raise BadOption(f"zstd has no level {level!r}", hint="1 to 22, or -7 to -1")
        compressor = _CONTEXTS.compressors[level] = zstandard.ZstdCompressor(level=level)
    stream = compressor.compressobj()
    return stream.compress(data) + stream.flush()


class FrameScanner:
    """Walk over the structure of frames without decompressing them.

    Feed it all bytes, then call :meth:`finish`. It knows afterwards how many frames there are, and a bound for their
    content that is never less than the content and never more than 128 KiB a block above it.

    Attributes
    ----------
    frames : int
        Frames seen, skippable ones not counted.
    skippable : int
        Skippable frames seen; they have no content.
    bound : int
        The content's length in bytes is at most this.
    """

    __slots__ = (
        "_block_max",
        "_declared",
        "_flags",
        "_frame_bound",
        "_head",
        "_need",
        "_skip",
        "_step",
        "bound",
        "frames",
        "skippable",
    )

    def __init__(self) -> None:
        self.frames = 0
        self.skippable = 0
        self.bound = 0
        self._head = b""
        self._skip = 0
        self._expect(4, self._magic)

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        IntegrityError
            If they cannot be frames.
        LimitExceeded
            If a frame wants a window of more than 128 MiB.
        """
        position, end = 0, len(data)
        while position < end:
            if self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
                continue
            take = self._need - len(self._head)
            self._head += data[position : position + take]
            position += take
            if len(self._head) == self._need:
                head, self._head = self._head, b""
                self._step(head)

    def finish(self) -> None:
        """Say that no more bytes come.

        Raises
        ------
        IntegrityError
            If there is no frame, or the last one is not whole.
        """
        if self._step != self._magic or self._head or self._skip:
            raise IntegrityError("truncated zstd frame, or garbage after it")
        if not self.frames:
            raise IntegrityError("no zstd frame")

    def _expect(self, need: int, step: Callable[[bytes], None]) -> None:
        self._need, self._step = need, step

    def _magic(self, head: bytes) -> None:
        magic = int.from_bytes(head, "little")
        if magic == _MAGIC:
            self._expect(1, self._descriptor)
        elif magic in _SKIPPABLE:
            self._expect(4, self._skippable)
        else:
            raise IntegrityError("not a zstd frame, or garbage after one")

    def _skippable(self, head: bytes) -> None:
        self._skip = int.from_bytes(head, "little")
        self.skippable += 1
        self._expect(4, self._magic)

    def _descriptor(self, head: bytes) -> None:
        flags = head[0]
        if flags & 0b1000:
            raise IntegrityError("zstd frame with its reserved bit set")
        if flags & 0b11:
            raise IntegrityError("zstd frame that needs a dictionary")
        self._flags = flags
        single = flags >> 5 & 1
        size_bytes = (1 if single else 0, 2, 4, 8)[flags >> 6]
        need = size_bytes + (0 if single else 1)
        self._expect(need, self._sizes)  # at least one byte: a window, or a size

    def _sizes(self, head: bytes) -> None:
        single = self._flags >> 5 & 1
        size_field = head if single else head[1:]
        declared = int.from_bytes(size_field, "little") + (256 if len(size_field) == 2 else 0)
        if single:
            window = declared
        else:
            base = 1 << (10 + (head[0] >> 3))
            window = base + (base >> 3) * (head[0] & 7)
        if window > MAX_WINDOW:
            raise LimitExceeded(f"zstd window of {window} bytes, more than {MAX_WINDOW}")
        self._declared = declared if size_field else -1
        self._block_max = min(window, _MAX_BLOCK)
        self._frame_bound = 0
        self._expect(3, self._block)

    def _block(self, head: bytes) -> None:
        header = int.from_bytes(head, "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 or size > self._block_max:
            raise IntegrityError("malformed zstd block")
        self._frame_bound += self._block_max if kind == 2 else size
        self._skip = 1 if kind == 1 else size
        if last:
            self._end()

    def _end(self) -> None:
        # zstd believes a header that claims nothing, and never looks at the blocks.
        if self._declared > self._frame_bound or (self._declared == 0 and self._frame_bound):
            raise IntegrityError(
                f"zstd header claims {self._declared} bytes, its blocks hold {self._frame_bound} at most"
            )
        self.bound += self._frame_bound if self._declared < 0 else self._declared
        self.frames += 1
        self._skip += 4 if self._flags & 0b100 else 0
        self._expect(4, self._magic)


class _Scanned:
    """A stream whose bytes pass a scanner on their way to zstd."""

    def __init__(self, stream: Readable, scanner: FrameScanner) -> None:
        self._stream, self._scanner = stream, scanner

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._scanner.feed(data)
        return data


class StreamHasher:
    """Hash a stream; a long one on a second thread, beside whoever makes the next piece.

    Attributes
    ----------
    size : int
        Bytes hashed so far.
    """

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def update(self, data: bytes) -> None:
        """Take the next bytes, which must not change afterwards."""
        self.size += len(data)
        if self.size <= _PARALLEL_FROM:
            self._hash.update(data)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="pfreg-hash")
        if self._pending is not None:
            self._pending.result()
        self._pending = self._pool.submit(self._hash.update, data)

    def digest(self) -> Digest:
        """Return the digest of everything taken."""
        self.close()
        return Digest(self._hash.hexdigest())

    def close(self) -> None:
        """End the second thread, if there is one."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = self._pending = None


def contents(stream: Readable, *, limit: int) -> Iterator[bytes]:
    """Decompress `stream` piece by piece, in constant memory.

    Parameters
    ----------
    stream : file-like
        Stored bytes, read to their end.
    limit : int
        The most bytes of content to yield.

    Yields
    ------
    bytes
        The content, 1 MiB at a time. It is not verified yet.

    Raises
    ------
    LimitExceeded
        If there is more than `limit`.
    IntegrityError
        If the stored bytes are not whole, well-formed frames.
    """
    scanner = FrameScanner()
    # A context of its own: the caller may have several of these generators under way in one thread.
    context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    source: Any = _Scanned(stream, scanner)
    reader = context.stream_reader(source, read_size=CHUNK >> 2, read_across_frames=True)
    total = 0
    try:
        while chunk := reader.read(CHUNK):
            total += len(chunk)
            if total > limit:
                raise LimitExceeded(f"more than {limit} bytes when decompressed")
            yield chunk
    except zstandard.ZstdError as e:
        raise IntegrityError(f"damaged zstd frame: {e}") from None
    scanner.finish()


def verified_contents(stream: Readable, digest: Digest, *, limit: int) -> Iterator[bytes]:
    """Decompress `stream` as :func:`contents` does, and raise at its end if the content is not what `digest` names.

    Whoever writes these pieces somewhere must not call the result complete before the iteration has ended.
    """
    hasher = StreamHasher()
    try:
        for chunk in contents(stream, limit=limit):
            hasher.update(chunk)
            yield chunk
        found = hasher.digest()
    finally:
        hasher.close()
    if found != digest:
        raise IntegrityError(f"content has the digest {found}, not {digest}")


def content(data: bytes, *, limit: int) -> bytes:
    """Return the content of stored bytes that are in memory.

    Raises
    ------
    LimitExceeded
        If it has more than `limit` bytes.
    IntegrityError
        If `data` is not whole, well-formed frames.
    """
    scanner = _scan(data)
    if _fits(scanner):
        return _at_once(data, scanner, limit)
    return b"".join(contents(_Bytes(data), limit=limit))


def digest_of(data: bytes, *, limit: int) -> tuple[Digest, int]:
    """Return digest and length of the content of stored bytes that are in memory, however large that content is.

    Raises
    ------
    LimitExceeded, IntegrityError
        As :func:`content` does.
    """
    scanner = _scan(data)
    if _fits(scanner):
        plain = _at_once(data, scanner, limit)
        return Digest.of(plain), len(plain)
    hasher = StreamHasher()
    try:
        for chunk in contents(_Bytes(data), limit=limit):
            hasher.update(chunk)
        return hasher.digest(), hasher.size
    finally:
        hasher.close()


def _scan(data: bytes) -> FrameScanner:
    scanner = FrameScanner()
    scanner.feed(data)
    scanner.finish()
    return scanner


def _fits(scanner: FrameScanner) -> bool:
    """Tell whether zstd's one-shot call will do, which reads the first frame only, skippable or not."""
    return scanner.frames == 1 and not scanner.skippable and scanner.bound <= IN_MEMORY


def _at_once(data: bytes, scanner: FrameScanner, limit: int) -> bytes:
    try:
        result = _CONTEXTS.decompressor.decompress(data, max_output_size=scanner.bound or 1)
    except zstandard.ZstdError as e:
        raise IntegrityError(f"damaged zstd frame: {e}") from None
    if len(result) > limit:
        raise LimitExceeded(f"{len(result)} bytes when decompressed, more than {limit}")
    return result


class _Bytes:
    """Bytes as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._position + size
        piece = self._data[self._position : end]
        self._position += len(piece)
        return piece
