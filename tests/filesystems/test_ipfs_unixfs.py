"""The builder of UnixFS against an independent one, and the reader against what it must not accept."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfreg.errors import BadOption, BadReference, IntegrityError, LimitExceeded
from pfreg.filesystems import car, cids, unixfs
from pfreg.filesystems.dagpb import MAX_LINKS, Kind, decode_node, shard_lookup, shard_prefix_width
from pfreg.filesystems.unixfs import Entry, Profile

aleph_cid = pytest.importorskip("aleph_cid")

KUBO_DEFAULT = Profile(chunk=256 * 1024, links=174)
"""The profile of Kubo's ``add --cid-version=1``, which is the one that the independent builder knows."""

TINY = Profile(chunk=4, links=3)


def built(data: bytes, profile: Profile = unixfs.PROFILE) -> list[unixfs.Block]:
    return list(unixfs.file_blocks(unixfs.chunks(io.BytesIO(data), profile), profile))


def root_of(files: dict[str, Entry]) -> unixfs.Block:
    return list(unixfs.tree_blocks(files))[-1]


def pattern(size: int) -> bytes:
    return random.Random(size).randbytes(1009) * (size // 1009 + 1)


@pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 174 << 18, (174 << 18) + 1])
def test_a_file_has_the_cid_that_an_independent_builder_gives_it(size: int) -> None:
    data = pattern(size)[:size]
    hasher = aleph_cid.CidHasher.for_ipfs_v1_raw_leaves()
    hasher.update(data)
    assert cids.text(built(data, KUBO_DEFAULT)[-1].entry.cid) == hasher.finalize()


@pytest.mark.parametrize("count", [1, 300, 2900, 3600, 9000])
def test_a_folder_has_the_cid_that_an_independent_builder_gives_it(count: int, tmp_path: Path) -> None:
    files = {}
    for number in range(count):
        name, data = f"blob_{number:043}ü.zst", b"%d" % number
        (tmp_path / name).write_bytes(data)
        files[name] = built(data)[-1].entry
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"deep")
    files["a/b/c"] = built(b"deep")[-1].entry
    root = root_of(files)
    assert cids.text(root.entry.cid) == aleph_cid.hash_folder(tmp_path)
    assert decode_node(root.data).kind is (Kind.SHARD if count >= 3600 else Kind.DIRECTORY)


@given(st.binary(max_size=200))
def test_a_tree_of_any_depth_comes_out_children_first_and_adds_up(data: bytes) -> None:
    blocks = built(data, TINY)
    known = {bytes(block.entry.cid): block for block in blocks}
    seen: set[bytes] = set()
    for block in blocks:
        if block.entry.cid.codec.name == "dag-pb":
            node = decode_node(block.data)
            assert 0 < len(node.links) <= TINY.links
            assert {link.cid for link in node.links} <= seen
            assert node.size == block.entry.size == sum(node.sizes)
            assert block.entry.total == len(block.data) + sum(link.total for link in node.links)
        cids.verify(block.entry.cid, block.data)
        seen.add(bytes(block.entry.cid))

    def content(block: unixfs.Block) -> bytes:
        if block.entry.cid.codec.name == "raw":
            return block.data
        return b"".join(content(known[link.cid]) for link in decode_node(block.data).links)

    assert content(blocks[-1]) == data


def test_the_order_in_which_files_are_written_does_not_matter() -> None:
    files = {f"blobs/{n % 7}/{n}": built(b"%d" % n)[-1].entry for n in range(50)}
    shuffled = dict(random.Random(1).sample(sorted(files.items()), len(files)))
    assert root_of(files).data == root_of(shuffled).data


def test_a_path_cannot_be_a_file_and_a_folder() -> None:
    entry = built(b"")[-1].entry
    with pytest.raises(BadOption):
        list(unixfs.tree_blocks({"a": entry, "a/b/c": entry}))


def test_every_name_in_a_sharded_directory_is_found_and_no_other() -> None:
    entry = built(b"x")[-1].entry
    names = [f"blob_{number:064}.zst" for number in range(4000)]
    blocks = {bytes(block.entry.cid): block.data for block in unixfs.directory_blocks(dict.fromkeys(names, entry))}
    root = list(blocks.values())[-1]

    def find(name: str) -> bool:
        node, depth = decode_node(root), 0
        while True:
            link, is_entry = shard_lookup(node, name, depth)
            if link is None or is_entry:
                return link is not None
            assert len(link.name) == shard_prefix_width(node.fanout)
            node, depth = decode_node(blocks[link.cid]), depth + 1

    assert len(blocks) > 100
    assert all(find(name) for name in names[::20])
    assert not any(find(name) for name in ("", "blob", "00", names[0] + "x"))


def test_a_car_is_read_by_another_implementation() -> None:
    from ipfsspec.car import read_car

    blocks = built(pattern(100), TINY)
    text = car.header(blocks[-1].entry.cid) + b"".join(car.section(b.entry.cid, b.data) for b in blocks)
    roots, sections = read_car(text)
    assert roots == [blocks[-1].entry.cid]
    assert [(cid, data) for cid, data, _ in sections] == [(b.entry.cid, b.data) for b in blocks]


# What a reader must not accept


def field(number: int, value: bytes | int) -> bytes:
    from multiformats import varint

    if isinstance(value, int):
        return varint.encode(number << 3) + varint.encode(value)
    return varint.encode(number << 3 | 2) + varint.encode(len(value)) + value


def link(name: str | bytes, total: int = 1) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return field(2, field(1, bytes(cids.of_block("raw", b"x"))) + field(2, raw) + field(3, total))


def directory(*links: bytes) -> bytes:
    return b"".join(links) + field(1, field(1, 1))


def shard(*links: bytes, hashed: int = 0x22, fanout: int = 256) -> bytes:
    return b"".join(links) + field(1, field(1, 5) + field(5, hashed) + field(6, fanout))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\xff",
        b"hello, I am no protobuf",
        b"\x0a\x7f\x08\x01",  # a length beyond the end
        b"\x0a\x02\x08\x80",  # a varint without an end
        field(3, b"x"),
        field(1, field(1, 1)) * 2,
        field(1, field(1, 9)),
        directory(link("a"), link("a")),
        directory(link("../../etc/passwd")),
        directory(link("..")),
        directory(link("")),
        directory(link("a\0b")),
        directory(link(b"\xff")),
        shard(link("00a"), hashed=0x11),
        shard(link("00a"), fanout=255),
        shard(link("00a"), fanout=1 << 40),
        shard(link("00..")),
        link("") + field(1, field(1, 2) + field(3, 5) + field(4, 4)),
        link("") + field(1, field(1, 2) + field(3, 8) + field(4, 4) + field(4, 4)),
        link("") * 2 + field(1, field(1, 2) + field(3, 4) + field(4, 4)),
    ],
)
def test_a_malformed_or_contradictory_node_is_refused(block: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_node(block)


def test_a_node_of_too_many_links_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        decode_node(field(2, b"") * (MAX_LINKS + 1) + field(1, field(1, 1)))


@given(st.data())
def test_no_damage_makes_the_reader_do_anything_but_refuse(data: st.DataObject) -> None:
    block = bytearray(
        root_of({f"d/{n}": built(b"%d" % n)[-1].entry for n in range(3)} | {"f": built(b"f")[-1].entry}).data
    )
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_node(bytes(block[: data.draw(st.integers(0, len(block)))]))
    except IntegrityError:
        pass


# CIDs

V0 = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG"
V1 = "bafybeie5nqv6kd3qnfjupgvz34woh3oksc3iau6abmyajn7qvtf47mvof4"


@pytest.mark.parametrize(
    "write",
    [
        lambda cid: V0,
        lambda cid: V1,
        lambda cid: V1.upper(),
        lambda cid: cid.encode("base58btc"),
        lambda cid: cid.encode("base36"),
        lambda cid: cid.encode("base16"),
    ],
)
def test_a_cid_in_any_version_and_base_is_printed_in_base32(write: Callable[[object], str]) -> None:
    assert cids.text(cids.parse(write(cids.parse(V1)))) == V1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bafy",
        "hello",
        V0[:-1],
        V1 + "a",
        "b" + "a" * 100_000,
        "bafkqaaa",  # the identity hash: no hash at all
        "zDveq94c7Ay",  # sha2-256 of four bytes
        "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8",  # a key, not a file
        "bafy/../x",
    ],
)
def test_what_is_no_cid_or_proves_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadReference):
        cids.parse(text)
