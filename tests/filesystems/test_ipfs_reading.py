"""Reading from gateways that may lie, break off, hang or refuse. No IPFS node is needed for these."""

from __future__ import annotations

import io
import logging
import pickle
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest

pytest.importorskip("ipfsspec")

from ipfsspec import AsyncIPFSFileSystem

from pfreg.errors import AccessDenied, BadOption, IntegrityError, LimitExceeded, TransferError, UnsupportedRegistry
from pfreg.filesystems import cids, unixfs
from pfreg.filesystems.dagpb import decode_node
from pfreg.filesystems.ipfs import IPFSFileSystem
from pfreg.filesystems.ipns import IPNSFileSystem
from tests.servers import ipfs_gateway as gateways
from tests.servers.ipfs_gateway import Rule, TrustlessGateway, over_mapping

HEX = "5b" * 32
NOBODY_HAS = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
BIG = random.Random(6).randbytes((3 << 20) + 12345)
FILES = {"manifest.json": b'{"a":1}', f"blobs/sha256/5b/{HEX}.zst": b"frame", "blobs/big": BIG, "empty": b""}
FLAT = {"manifest.json": b"{}", "manifest.json.sig": b"s", f"blob_{HEX}.zst": b"flat frame"}


class Image:
    """The blocks of an image, built here, and its root."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.blocks: dict[str, bytes] = {}
        entries = {}
        for path, data in files.items():
            for block in unixfs.file_blocks(unixfs.chunks(io.BytesIO(data))):
                self._add(block)
            entries[path] = block.entry
        for block in unixfs.tree_blocks(entries):
            self._add(block)
        self.cids = {path: cids.text(entry.cid) for path, entry in entries.items()}
        self.root = cids.text(block.entry.cid)

    def _add(self, block: unixfs.Block) -> None:
        self.blocks[cids.text(block.entry.cid)] = block.data


@pytest.fixture(scope="module")
def image() -> Image:
    return Image(FILES)


@pytest.fixture
def gateway(image: Image) -> Iterator[TrustlessGateway]:
    with closing(TrustlessGateway(over_mapping(dict(image.blocks)))) as server:
        yield server


def reader(gateway: TrustlessGateway, **options: Any) -> IPFSFileSystem:
    return IPFSFileSystem(gateway_addr=gateway.url, **{"retry_for": 5.0, **options})


def serving(files: dict[str, bytes]) -> tuple[TrustlessGateway, Image]:
    image = Image(files)
    return TrustlessGateway(over_mapping(image.blocks)), image


def test_all_files_are_read_and_listed(gateway: TrustlessGateway, image: Image) -> None:
    fs = reader(gateway)
    assert fs.find(image.root) == sorted(f"{image.root}/{path}" for path in FILES)
    assert {path: fs.cat_file(f"ipfs://{image.root}/{path}") for path in FILES} == FILES
    sizes = {name: info["size"] for name, info in fs.find(image.root, detail=True).items()}
    assert sizes == {f"{image.root}/{path}": len(data) for path, data in FILES.items()}
    assert sorted(fs.ls(f"{image.root}/blobs", detail=False)) == [
        f"{image.root}/blobs/big",
        f"{image.root}/blobs/sha256",
    ]
    assert fs.isdir(f"{image.root}/blobs")
    assert fs.info(f"{image.root}/empty")["type"] == "file"


@pytest.mark.parametrize("base", ["base58btc", "base36", "base16"])
def test_a_root_is_accepted_in_any_base(gateway: TrustlessGateway, image: Image, base: str) -> None:
    written = cids.parse(image.root).encode(base)
    assert reader(gateway).cat_file(f"ipfs://{written}/manifest.json") == FILES["manifest.json"]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 1),
        (1 << 20, 1 << 21),
        ((1 << 20) - 1, (1 << 20) + 1),
        (len(BIG) - 3, None),
        (-7, None),
        (5, -5),
        (7, 7),
        (9, 2),
        (0, len(BIG) + 99),
        (len(BIG) + 1, None),
    ],
)
def test_a_range_is_what_a_slice_is(gateway: TrustlessGateway, image: Image, start: int, end: int | None) -> None:
    assert reader(gateway).cat_file(f"{image.root}/blobs/big", start, end) == BIG[start:end]


def test_a_range_fetches_only_the_blocks_that_it_touches(gateway: TrustlessGateway, image: Image) -> None:
    fs = reader(gateway)
    fs.info(f"{image.root}/blobs/big")
    before = len(gateway.asked)
    fs.cat_file(f"{image.root}/blobs/big", (1 << 20) + 5, (1 << 20) + 10)
    leaves = [cids.text(cids.decode(link.cid)) for link in decode_node(image.blocks[image.cids["blobs/big"]]).links]
    assert gateway.asked[before:] == [leaves[1]]


def test_reading_one_file_asks_for_nothing_but_its_path(gateway: TrustlessGateway, image: Image) -> None:
    fs = reader(gateway)
    fs.cat_file(f"{image.root}/manifest.json")
    assert gateway.asked == [image.root, image.cids["manifest.json"]]
    fs.cat_file(f"{image.root}/empty")
    assert gateway.asked[2:] == [image.cids["empty"]]


def test_open_reads_by_range_and_seeks(gateway: TrustlessGateway, image: Image) -> None:
    with reader(gateway).open(f"{image.root}/blobs/big", block_size=1000) as file:
        file.seek(2_500_000)
        assert file.read(100) == BIG[2_500_000:2_500_100]
        file.seek(-5, 2)
        assert file.read() == BIG[-5:]
    assert len(gateway.asked) < 8


def test_get_file_writes_the_whole_file(gateway: TrustlessGateway, image: Image, tmp_path: Path) -> None:
    reader(gateway).get_file(f"{image.root}/blobs/big", str(tmp_path / "big"))
    assert (tmp_path / "big").read_bytes() == BIG
    assert [each.name for each in tmp_path.iterdir()] == ["big"]


def test_a_pickled_filesystem_reads(gateway: TrustlessGateway, image: Image) -> None:
    fs = pickle.loads(pickle.dumps(reader(gateway)))
    assert fs.cat_file(f"{image.root}/manifest.json") == FILES["manifest.json"]


# Both layouts, sharded or not


def test_the_flat_layout_is_read_under_the_paths_of_ours() -> None:
    server, image = serving(FLAT)
    with closing(server):
        fs = reader(server)
        assert fs.cat_file(f"{image.root}/blobs/sha256/5b/{HEX}.zst") == b"flat frame"
        assert fs.info(f"{image.root}/blobs/sha256/5b/{HEX}.zst")["size"] == 10
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{image.root}/blobs/sha256/00/{'00' * 32}.zst")


def test_a_sharded_flat_layout_is_read_by_path_without_a_listing() -> None:
    server, image = serving({f"blob_{number:064x}.zst": b"%d" % number for number in range(3000)} | FLAT)
    with closing(server):
        fs = reader(server)
        for number in (0, 1234, 2999):
            assert fs.cat_file(f"{image.root}/blobs/sha256/00/{number:064x}.zst") == b"%d" % number
        assert fs.cat_file(f"{image.root}/manifest.json") == b"{}"
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{image.root}/blobs/sha256/00/{3000:064x}.zst")
        assert len(server.asked) < 20
        assert len(fs.find(image.root)) == 3003


# A gateway that lies or fails

LIES = [
    gateways.other_bytes,
    gateways.cut_short,
    gateways.other_block(b"a true block of something else"),
    gateways.flood,
]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("victim", ["", "manifest.json", f"blobs/sha256/5b/{HEX}.zst", "blobs/big"])
def test_a_lie_is_an_integrity_error_wherever_it_is_told(
    gateway: TrustlessGateway, image: Image, lie: gateways.Answer, victim: str
) -> None:
    gateway.rules.append(Rule(lie, image.cids[victim] if victim else image.root))
    with pytest.raises(IntegrityError):
        reader(gateway).cat_file(f"{image.root}/{victim or 'manifest.json'}")


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_middle_of_a_large_file_leaves_no_file(
    gateway: TrustlessGateway, image: Image, lie: gateways.Answer, tmp_path: Path
) -> None:
    third = cids.text(cids.decode(decode_node(image.blocks[image.cids["blobs/big"]]).links[2].cid))
    gateway.rules.append(Rule(lie, third))
    with pytest.raises(IntegrityError):
        reader(gateway).get_file(f"{image.root}/blobs/big", str(tmp_path / "big"))
    assert list(tmp_path.iterdir()) == []


def test_headers_that_lie_are_not_believed(gateway: TrustlessGateway, image: Image) -> None:
    gateway.rules.append(Rule(gateways.wrong_headers))
    fs = reader(gateway)
    assert {path: fs.cat_file(f"{image.root}/{path}") for path in FILES} == FILES
    assert fs.info(f"{image.root}/blobs/big")["size"] == len(BIG)


def test_a_directory_whose_author_lies_about_a_size_is_found_out() -> None:
    frame = next(unixfs.file_blocks([b"frame"]))
    lying = unixfs.Entry(frame.entry.cid, 4, 4)
    *_, root = unixfs.tree_blocks({"blob": lying})
    blocks = {cids.text(block.entry.cid): block.data for block in (frame, root)}
    with closing(TrustlessGateway(over_mapping(blocks))) as server, pytest.raises(IntegrityError):
        reader(server).cat_file(f"{cids.text(root.entry.cid)}/blob")


@pytest.mark.parametrize("fault", [gateways.broken_off, gateways.status(503), gateways.status(429, Retry_After="0")])
def test_a_passing_fault_is_overcome(gateway: TrustlessGateway, image: Image, fault: gateways.Answer) -> None:
    gateway.rules += [Rule(fault, image.root, times=1), Rule(fault, image.cids["blobs/big"], times=1)]
    assert reader(gateway).cat_file(f"{image.root}/blobs/big") == BIG


@pytest.mark.parametrize("fault", [gateways.broken_off, gateways.silence, gateways.status(503), gateways.status(500)])
def test_a_lasting_fault_is_a_transfer_error_and_not_absence(
    gateway: TrustlessGateway, image: Image, fault: gateways.Answer
) -> None:
    gateway.rules.append(Rule(fault, image.cids["manifest.json"]))
    with pytest.raises(TransferError):
        reader(gateway, retry_for=0.3, gateway_timeout=0.2).cat_file(f"{image.root}/manifest.json")


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_is_access_denied_and_not_absence(gateway: TrustlessGateway, image: Image, code: int) -> None:
    gateway.rules.append(Rule(gateways.status(code)))
    with pytest.raises(AccessDenied):
        reader(gateway).exists(image.root)


def test_only_a_name_that_a_verified_directory_lacks_and_a_root_nobody_has_are_absent(
    gateway: TrustlessGateway, image: Image
) -> None:
    fs = reader(gateway)
    assert not fs.exists(f"{image.root}/nothing")
    assert not fs.exists(f"{image.root}/manifest.json/below")
    assert not fs.exists(NOBODY_HAS)
    gateway.rules.append(Rule(gateways.status(404), image.cids["manifest.json"]))
    with pytest.raises(TransferError):
        fs.cat_file(f"{image.root}/manifest.json")


def test_nobody_listening_is_a_transfer_error() -> None:
    with pytest.raises(TransferError):
        IPFSFileSystem(gateway_addr="http://127.0.0.1:9", retry_for=0.2).cat_file(NOBODY_HAS)


def test_a_file_that_claims_to_be_nested_without_end_is_refused() -> None:
    blocks, (block,) = {}, list(unixfs.file_blocks([b"x"]))
    for _ in range(40):
        blocks[cids.text(block.entry.cid)] = block.data
        block = unixfs._file_node([block.entry])
    blocks[cids.text(block.entry.cid)] = block.data
    with closing(TrustlessGateway(over_mapping(blocks))) as server, pytest.raises(LimitExceeded):
        reader(server).cat_file(cids.text(block.entry.cid))


# Credentials, addresses, and ipfsspec's own ways


def test_headers_go_to_their_gateway(gateway: TrustlessGateway, image: Image) -> None:
    reader(gateway, gateway_headers={"Authorization": "Bearer t0ken"}).cat_file(f"{image.root}/manifest.json")
    assert {headers.get("Authorization") for headers in gateway.headers} == {"Bearer t0ken"}


def test_a_redirect_to_another_origin_is_followed_without_the_headers(gateway: TrustlessGateway, image: Image) -> None:
    with closing(TrustlessGateway(over_mapping(image.blocks))) as front:
        for cid in (image.root, image.cids["manifest.json"]):
            front.rules.append(Rule(gateways.status(302, Location=f"{gateway.url}/ipfs/{cid}?format=raw"), cid))
        fs = reader(front, gateway_headers={"Authorization": "Bearer t0ken", "X-Api-Key": "k3y"})
        assert fs.cat_file(f"{image.root}/manifest.json") == FILES["manifest.json"]
    assert gateway.headers
    assert not any("t0ken" in str(headers) or "k3y" in str(headers) for headers in gateway.headers)


@pytest.mark.parametrize("target", ["ftp://example.org/x", "file:///etc/passwd", "", "/ipfs/loop"])
def test_a_redirect_to_nowhere_is_a_transfer_error(gateway: TrustlessGateway, image: Image, target: str) -> None:
    gateway.rules.append(Rule(gateways.status(302, Location=target or "?")))
    with pytest.raises((TransferError, FileNotFoundError)):
        reader(gateway, retry_for=0.3).cat_file(f"{image.root}/manifest.json")


@pytest.mark.parametrize(
    "options",
    [
        {"gateway_addr": "localhost:8080"},
        {"gateway_addr": "ftp://example.org"},
        {"gateway_addr": "https://user:pa55@example.org"},
        {"gateway_addr": "http://example.org", "gateway_headers": {"Authorization": "Bearer t0ken"}},
        {"gateway_addr": "http://127.0.0.1.example.org", "gateway_headers": {"Authorization": "Bearer t0ken"}},
        {"rpc": "http://127.0.0.1:1/?x=y"},
        {"rpc_timeout": 0},
    ],
)
def test_options_without_meaning_are_refused_without_a_secret_in_the_text(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption) as refused:
        IPFSFileSystem(**options)
    assert "t0ken" not in str(refused.value)
    assert "pa55" not in str(refused.value)


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError):
        IPFSFileSystem(gatway_addr="http://127.0.0.1:1")


def test_no_secret_is_in_errors_or_representations(gateway: TrustlessGateway, image: Image) -> None:
    gateway.rules.append(Rule(gateways.status(403)))
    fs = reader(
        gateway, gateway_headers={"Authorization": "Bearer t0ken"}, rpc_headers={"Authorization": "Basic s3cret"}
    )
    with pytest.raises(AccessDenied) as refused:
        fs.cat_file(f"{image.root}/manifest.json")
    shown = f"{refused.value} {refused.value!r} {fs!r} {fs.to_json(include_password=False)} {vars(fs.source._client)}"
    assert "t0ken" not in shown
    assert "s3cret" not in shown


def test_without_a_gateway_nobody_but_the_node_is_asked(
    monkeypatch: pytest.MonkeyPatch, gateway: TrustlessGateway
) -> None:
    monkeypatch.delenv("IPFS_GATEWAY", raising=False)
    fs = IPFSFileSystem(rpc="http://127.0.0.1:9", retry_for=0.1)
    with pytest.raises(TransferError, match=r"127\.0\.0\.1:9"):
        fs.cat_file(NOBODY_HAS)
    monkeypatch.setenv("IPFS_GATEWAY", gateway.url)
    assert not IPFSFileSystem().exists(NOBODY_HAS)
    assert gateway.asked


def test_no_unverified_way_of_ipfsspec_is_left() -> None:
    inherited = {
        name
        for name, value in vars(AsyncIPFSFileSystem).items()
        if callable(value) and not name.startswith("__") and getattr(IPFSFileSystem, name) is value
    }
    assert inherited <= {"close_session", "ukey"}
    with pytest.raises(UnsupportedRegistry):
        _ = IPFSFileSystem().gateway


def test_the_filesystem_leaves_fsspecs_registry_alone() -> None:
    assert fsspec.get_filesystem_class("ipfs") is AsyncIPFSFileSystem


# Names


def test_a_name_is_resolved_once_and_what_it_stood_for_is_logged(
    gateway: TrustlessGateway, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.names["example.org"] = image.root
    fs = IPNSFileSystem(gateway_addr=gateway.url)
    with caplog.at_level(logging.INFO, "pfreg"):
        assert fs.cat_file("ipns://example.org/manifest.json") == FILES["manifest.json"]
    gateway.names["example.org"] = NOBODY_HAS
    assert fs.cat_file("ipns://example.org/blobs/big") == BIG
    assert gateway.asked.count("example.org") == 1
    assert image.root in caplog.text


def test_an_unknown_name_is_absent_and_no_name_can_be_written(gateway: TrustlessGateway) -> None:
    fs = IPNSFileSystem(gateway_addr=gateway.url)
    with pytest.raises(FileNotFoundError):
        fs.cat_file("ipns://example.org/manifest.json")
    with pytest.raises(UnsupportedRegistry), fs.transaction:
        fs.pipe_file("ipns://example.org/manifest.json", b"{}")
    assert fs.committed is None
