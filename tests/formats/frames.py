"""zstd frames made by hand, bit by bit (RFC 8878, section 3), for what no compressor writes."""

from __future__ import annotations

MAGIC = (0xFD2FB528).to_bytes(4, "little")
RAW, RLE, COMPRESSED, RESERVED = range(4)
WINDOW_1_KIB = b"\x00"


def block(kind: int, size: int, body: bytes, *, last: bool) -> bytes:
    """Return one block; `size` is what its header says."""
    return (int(last) | kind << 1 | size << 3).to_bytes(3, "little") + body


def raw(content: bytes, *, last: bool = True) -> bytes:
    """Return a block that holds `content` as it is."""
    return block(RAW, len(content), content, last=last)


def rle(byte: bytes, count: int, *, last: bool = True) -> bytes:
    """Return a block that holds `count` times `byte`."""
    return block(RLE, count, byte, last=last)


def frame(blocks: bytes, *, flags: int = 0, header: bytes = WINDOW_1_KIB) -> bytes:
    """Return a frame; `header` is what follows the descriptor: window, dictionary, content size."""
    return MAGIC + bytes([flags]) + header + blocks


def sized(blocks: bytes, declared: int) -> bytes:
    """Return a single-segment frame whose header says that its content has `declared` bytes."""
    return frame(blocks, flags=0b1110_0000, header=declared.to_bytes(8, "little"))


def skippable(body: bytes, *, number: int = 0) -> bytes:
    """Return a skippable frame, which has no content."""
    return (0x184D2A50 + number).to_bytes(4, "little") + len(body).to_bytes(4, "little") + body


def bomb(content: int) -> bytes:
    """Return a frame of `content` zeros, in blocks of 128 KiB that take four bytes each."""
    blocks, rest = divmod(content, 1 << 17)
    body = rle(b"\0", 1 << 17, last=False) * blocks + rle(b"\0", rest)
    return frame(body, header=b"\x38")  # a window of 128 KiB
