"""The codec reads every valid frame, and nothing else."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pfreg import codec
from pfreg.digest import Digest
from pfreg.errors import BadOption, IntegrityError, LimitExceeded
from tests import golden
from tests.formats.frames import COMPRESSED, MAGIC, RESERVED, block, bomb, frame, raw, rle, sized, skippable

LIMIT = 1 << 24
LEVELS = (-7, -1, 1, 3, 9, 19)
FRAMES = golden.frames()
SMALL = b"hello hello hello hello, said the frame to the frame to the frame, 0123456789" * 3
KINDS = {
    "raw block": frame(raw(b"some bytes")),
    "repeated byte": frame(rle(b"x", 700)),
    "compressed": codec.compress(SMALL),
    "level 19": codec.compress(SMALL, level=19),
    "checksum and size": zstandard.ZstdCompressor(write_checksum=True).compress(SMALL),
    "two blocks": frame(raw(b"one", last=False) + raw(b"two")),
    "two frames": codec.compress(b"one") + codec.compress(b"two"),
    "empty": codec.compress(b""),
    "skippable first": skippable(b"note") + codec.compress(b"three"),
    "skippable last": codec.compress(b"four") + skippable(b"note"),
}

contents = st.one_of(
    st.binary(max_size=5000),
    st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 9000)).map(lambda t: t[0] * t[1]),
)


class Dripping:
    """A stream that answers every read with fewer bytes than it was asked for, as sockets do."""

    def __init__(self, data: bytes, seed: int = 0) -> None:
        self._stream, self._rng, self.taken = io.BytesIO(data), random.Random(seed), 0

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(self._rng.randint(1, 7) if size < 0 else min(size, self._rng.randint(1, 700)))
        self.taken += len(piece)
        return piece


def streamed(data: bytes, limit: int = LIMIT) -> bytes:
    return b"".join(codec.contents(io.BytesIO(data), limit=limit))


def hashed(data: bytes, limit: int = LIMIT) -> Digest:
    return codec.digest_of(data, limit=limit)[0]


READERS: dict[str, Callable[[bytes], object]] = {
    "content": lambda data: codec.content(data, limit=LIMIT),
    "contents": streamed,
    "digest_of": hashed,
}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@given(contents, st.sampled_from(LEVELS))
def test_what_is_compressed_comes_back(content: bytes, level: int) -> None:
    stored = codec.compress(content, level=level)
    assert codec.content(stored, limit=LIMIT) == content
    assert streamed(stored) == content
    assert codec.digest_of(stored, limit=LIMIT) == (Digest.of(content), len(content))


@given(contents, st.sampled_from(LEVELS), st.lists(st.integers(0, 400_000), max_size=6))
def test_a_stream_makes_the_same_frame_as_bytes_whatever_its_pieces(
    content: bytes, level: int, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    compressor = codec.Compressor(level)
    stored = b"".join(compressor.update(content[a:b]) for a, b in itertools.pairwise(edges))
    assert stored + compressor.finish() == codec.compress(content, level=level)


@given(contents, st.integers(0, 1000))
def test_short_reads_lose_nothing(content: bytes, seed: int) -> None:
    stream = Dripping(codec.compress(content) + skippable(b"x") + codec.compress(content), seed)
    assert b"".join(codec.contents(stream, limit=LIMIT)) == content * 2


@pytest.mark.parametrize("size", [(4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 5])
def test_content_on_both_sides_of_what_is_read_at_once(size: int) -> None:
    content = random.Random(size).randbytes(1000) * (size // 1000) + b"x" * (size % 1000)
    stored = codec.compress(content)
    assert codec.content(stored, limit=size) == content
    assert codec.digest_of(stored, limit=size) == (Digest.of(content), size)
    for read in (codec.content, codec.digest_of, streamed):
        with pytest.raises(LimitExceeded):
            read(stored, limit=size - 1)


@pytest.mark.parametrize("level", [0, 23, -8, 100, True + 99])
def test_a_level_that_zstd_lacks_is_refused(level: int) -> None:
    with pytest.raises(BadOption):
        codec.compress(b"", level=level)
    with pytest.raises(BadOption):
        codec.Compressor(level)


@pytest.mark.parametrize("level", codec.LEVELS)
def test_every_level_writes_what_we_read(level: int) -> None:
    if level:
        compressor = codec.Compressor(level)
        assert codec.content(compressor.update(SMALL) + compressor.finish(), limit=LIMIT) == SMALL


@pytest.mark.parametrize("name", FRAMES)
def test_golden_frames_are_read_and_level_19_makes_them_bit_for_bit(name: str) -> None:
    content = codec.content(FRAMES[name], limit=LIMIT)
    assert hashlib.sha256(content).hexdigest() == name
    assert codec.compress(content, level=19) == FRAMES[name]


def test_the_empty_blob_is_the_originals() -> None:
    assert codec.compress(b"", level=19).hex() == "28b52ffd2000010000"
    assert codec.content(codec.compress(b""), limit=1) == b""


def test_frames_in_a_row_are_one_content() -> None:
    stored = (
        skippable(b"") + frame(raw(b"a")) + skippable(b"xyz", number=15) + codec.compress(b"b") + sized(raw(b"c"), 1)
    )
    assert codec.content(stored, limit=3) == streamed(stored, 3) == b"abc"
    assert codec.digest_of(stored, limit=3) == (Digest.of(b"abc"), 3)


@every_reader
def test_a_whole_content_in_many_frames_is_bounded_as_one(read: Callable[[bytes], object]) -> None:
    many = frame(rle(b"\0", 1 << 17), header=b"\x38") * (LIMIT >> 17)
    read(many)
    with pytest.raises(LimitExceeded):
        read(many + frame(raw(b"x")))


@every_reader
@pytest.mark.parametrize("data", [b"", skippable(b"note"), skippable(b"") * 3], ids=["nothing", "skippable", "three"])
def test_no_frame_is_no_blob(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(IntegrityError):
        read(data)


@every_reader
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncation_is_found_wherever_it_is(kind: str, read: Callable[[bytes], object]) -> None:
    stored, whole = KINDS[kind], READERS["content"](KINDS[kind])
    boundaries = {len(codec.compress(b"one")), 12} if kind == "two frames" else {len(codec.compress(b"four"))}
    for end in range(len(stored)):
        if kind in ("two frames", "skippable last") and end in boundaries:
            # Whole frames, so no truncation that a frame could show; the content's digest has to.
            assert kind == "skippable last" or READERS["content"](stored[:end]) != whole
            continue
        with pytest.raises(IntegrityError):
            read(stored[:end])


GARBAGE = [bytes(n) for n in range(1, 9)] + [b"\xff" * n for n in range(1, 9)]
GARBAGE += [(MAGIC + b"\0\0\0\0")[:n] for n in range(1, 9)] + [skippable(b"12345")[:n] for n in range(1, 9)]


@every_reader
@pytest.mark.parametrize("garbage", GARBAGE, ids=bytes.hex)
def test_garbage_after_a_frame_is_found(garbage: bytes, read: Callable[[bytes], object]) -> None:
    for stored in (KINDS["compressed"], KINDS["empty"], KINDS["checksum and size"]):
        with pytest.raises(IntegrityError):
            read(stored + garbage)


@every_reader
@given(garbage=st.binary(min_size=1, max_size=8))
def test_no_garbage_passes(garbage: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(IntegrityError):  # eight bytes hold no frame but an empty skippable one
        read(KINDS["compressed"] + (garbage if garbage[1:4] != b"\x2a\x4d\x18" else b"?"))


LIES = {
    "more than there is": sized(raw(b"abc"), 4),
    "a gigabyte": sized(raw(b"abc"), 1 << 27),
    "less than there is": sized(raw(b"abc"), 2),
    "nothing": sized(raw(b"abc"), 0),
    "nothing, of a compressed block": sized(codec.compress(SMALL)[6:], 0),
    "nothing, beside a window": frame(raw(b"abc"), flags=0b1000_0000, header=b"\0" + bytes(4)),
    "more than a repeated byte": sized(rle(b"a", 1000), 1001),
    "less than a repeated byte": sized(rle(b"a", 1000), 999),
    "more, beside a window": frame(raw(b"abc"), flags=0b1000_0000, header=b"\0" + (4000).to_bytes(4, "little")),
    "more, in two bytes": frame(raw(b"abc"), flags=0b0100_0000, header=b"\0" + (300).to_bytes(2, "little")),
}


@every_reader
@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_about_the_size_is_found(lie: str, read: Callable[[bytes], object]) -> None:
    with pytest.raises(IntegrityError):
        read(LIES[lie])


@every_reader
def test_a_header_that_is_honest_is_believed(read: Callable[[bytes], object]) -> None:
    assert read(sized(raw(b"abc"), 3)) in (b"abc", Digest.of(b"abc"))


@every_reader
@pytest.mark.parametrize("huge", [1 << 28, 1 << 40, (1 << 64) - 1])
def test_a_header_that_claims_too_much_allocates_nothing(huge: int, read: Callable[[bytes], object]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            read(sized(raw(b"abc"), huge))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@every_reader
@pytest.mark.parametrize("window", [0x89, 0x90, 0xA8, 0xFF])
def test_a_window_of_more_than_128_mib_is_refused(window: int, read: Callable[[bytes], object]) -> None:
    with pytest.raises(LimitExceeded):
        read(frame(raw(b"abc"), header=bytes([window])))


@every_reader
def test_a_window_of_128_mib_is_taken(read: Callable[[bytes], object]) -> None:
    assert read(frame(raw(b"abc"), header=b"\x88")) in (b"abc", Digest.of(b"abc"))


def test_what_the_highest_level_makes_with_its_largest_window_is_read() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=0)
    stored = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert codec.content(stored.compress(SMALL) + stored.flush(), limit=LIMIT) == SMALL


@every_reader
@pytest.mark.parametrize("flags, width", [(1, 1), (2, 2), (3, 4)])
def test_a_frame_that_names_a_dictionary_is_refused(flags: int, width: int, read: Callable[[bytes], object]) -> None:
    for number in (0, 1):
        with pytest.raises(IntegrityError):
            read(frame(raw(b"abc"), flags=flags, header=b"\0" + number.to_bytes(width, "little")))


@every_reader
def test_a_frame_made_with_a_dictionary_is_refused(read: Callable[[bytes], object]) -> None:
    samples = [f"line {n} of a sample that has much in common with the others\n".encode() * 3 for n in range(300)]
    dictionary = zstandard.train_dictionary(4096, samples)
    with pytest.raises(IntegrityError):
        read(zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[7]))


@every_reader
def test_reserved_bits_are_refused(read: Callable[[bytes], object]) -> None:
    with pytest.raises(IntegrityError):
        read(frame(raw(b"abc"), flags=0b1000))
    with pytest.raises(IntegrityError):
        read(frame(block(RESERVED, 3, b"abc", last=True)))


@every_reader
@pytest.mark.parametrize(
    "blocks",
    [
        block(COMPRESSED, 3, b"\xff\xff\xff", last=True),
        block(0, (1 << 17) + 1, bytes((1 << 17) + 1), last=True),
        rle(b"a", (1 << 17) + 1),
        rle(b"a", 1025),
        raw(b"abc", last=False),
    ],
    ids=["nonsense", "raw too long", "repeated too long", "more than the window", "no last block"],
)
def test_malformed_blocks_are_refused(blocks: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(IntegrityError):
        read(frame(blocks))


def test_a_checksum_that_is_wrong_is_found() -> None:
    stored = bytearray(KINDS["checksum and size"])
    stored[-1] ^= 1
    for read in READERS.values():
        with pytest.raises(IntegrityError):
            read(bytes(stored))


def test_a_bomb_is_refused_in_bounded_memory_and_before_it_is_read() -> None:
    stored = bomb(32 << 30)
    stream = io.BytesIO(stored)
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            for _ in codec.contents(stream, limit=LIMIT):
                pass
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert stream.tell() <= len(stored) // 2


@pytest.mark.parametrize("read", [codec.content, codec.digest_of], ids=["content", "digest_of"])
def test_a_bomb_in_memory_is_refused_in_bounded_memory(read: Callable[..., object]) -> None:
    for stored in (bomb(1 << 30), sized(rle(b"\0", 1 << 17, last=False) * 255 + rle(b"\0", 1 << 17), 1 << 25)):
        tracemalloc.start()
        try:
            with pytest.raises(LimitExceeded):
                read(stored, limit=1 << 20)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def test_a_bomb_is_unpacked_no_further_than_its_limit() -> None:
    pieces = codec.contents(io.BytesIO(bomb(1 << 30)), limit=5 << 20)
    taken = 0
    with pytest.raises(LimitExceeded):
        for piece in pieces:
            taken += len(piece)
    assert taken <= 5 << 20


@every_reader
@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found_or_changes_nothing(kind: str, read: Callable[[bytes], object]) -> None:
    stored, harmless = KINDS[kind], 0
    digest = hashed(stored)
    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            read(bytes(flipped))
            harmless += hashed(bytes(flipped)) == digest
        except IntegrityError:
            continue
    assert harmless < len(stored) * 8  # some are found by the frame alone; the digest finds all others


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found_when_the_digest_is_known(kind: str) -> None:
    stored, content = KINDS[kind], codec.content(KINDS[kind], limit=LIMIT)
    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = b"".join(codec.verified_contents(io.BytesIO(flipped), Digest.of(content), limit=LIMIT))
        except IntegrityError:
            continue
        assert found == content


@given(st.binary(max_size=60))
def test_the_three_readers_agree_about_any_bytes(tail: bytes) -> None:
    for data in (tail, MAGIC + tail, frame(tail)):
        answers = set()
        for name, read in READERS.items():
            try:
                answer = read(data)
                answers.add(answer if name == "digest_of" else Digest.of(answer))  # type: ignore[arg-type]
            except IntegrityError:
                answers.add(None)
        assert len(answers) == 1


@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 300), max_size=8))
def test_the_scanner_sees_the_same_however_it_is_fed(kind: str, cuts: list[int]) -> None:
    stored = KINDS[kind]
    whole, pieces = codec.FrameScanner(), codec.FrameScanner()
    whole.feed(stored)
    edges = [0, *sorted(min(cut, len(stored)) for cut in cuts), len(stored)]
    for start, end in itertools.pairwise(edges):
        pieces.feed(stored[start:end])
    whole.finish()
    pieces.finish()
    size = len(codec.content(stored, limit=LIMIT))
    assert (whole.frames, whole.bound) == (pieces.frames, pieces.bound)
    assert size <= whole.bound <= size + (1 << 17) * 2


def test_verified_contents_raise_at_their_end_for_another_digest() -> None:
    content = random.Random(1).randbytes(9 << 20)
    for digest, right in ((Digest.of(content), True), (Digest.of(b"other"), False)):
        pieces = codec.verified_contents(io.BytesIO(codec.compress(content)), digest, limit=len(content))
        if right:
            assert sum(map(len, pieces)) == len(content)
            continue
        with pytest.raises(IntegrityError):
            list(pieces)


def test_a_reader_that_is_abandoned_leaves_no_thread() -> None:
    before = threading.active_count()
    content = bytes(24 << 20)
    pieces: Iterator[bytes] = codec.verified_contents(
        io.BytesIO(codec.compress(content)), Digest.of(content), limit=1 << 30
    )
    for _ in range(12):
        next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("size", [0, 1, 8 << 20, (8 << 20) + 1, 20 << 20])
def test_a_stream_is_hashed_right_on_one_thread_and_on_two(size: int) -> None:
    content, hasher = random.Random(2).randbytes(1 << 20), codec.StreamHasher()
    expected = hashlib.sha256()
    for start in range(0, size, 1 << 20):
        piece = content[: min(1 << 20, size - start)]
        hasher.update(piece)
        expected.update(piece)
    assert (hasher.digest().hex, hasher.size) == (expected.hexdigest(), size)
