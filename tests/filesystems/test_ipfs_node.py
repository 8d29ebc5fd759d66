"""Pushes to a real IPFS node and reads from it, by gateway and by RPC, with faults on the way."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pfreg.errors import (
    AccessDenied,
    BadOption,
    FileChanged,
    IntegrityError,
    PfregError,
    TransferError,
    UnsupportedRegistry,
)
from pfreg.filesystems import cids, unixfs
from pfreg.filesystems.dagpb import decode_node
from pfreg.filesystems.ipfs import IPFSFileSystem
from pfreg.filesystems.ipns import IPNSFileSystem
from tests.servers import ipfs_rpc_proxy as proxies
from tests.servers.ipfs_gateway import TrustlessGateway, over_node
from tests.servers.ipfs_node import IpfsNode
from tests.servers.ipfs_rpc_proxy import RpcProxy


def files_of(seed: int, *, large: int = (2 << 20) + 99) -> dict[str, bytes]:
    """An image's worth of files that no other seed shares."""
    rng = random.Random(seed)
    names = [f"{rng.randrange(1 << 256):064x}" for _ in range(12)]
    blobs = {f"blobs/sha256/{name[:2]}/{name}.zst": rng.randbytes(rng.randrange(1, 5000)) for name in names}
    return blobs | {"blobs/large": rng.randbytes(large), "manifest.json.sig": b"sig", "manifest.json": b"%d" % seed}


def write(fs: IPFSFileSystem, files: Mapping[str, bytes]) -> str:
    with fs.transaction:
        fs.pipe(dict(files))
    assert fs.committed
    return fs.committed


def dry(files: Mapping[str, bytes]) -> str:
    return write(IPFSFileSystem(rpc="http://127.0.0.1:9", dry_run=True), files)


def read(fs: IPFSFileSystem, root: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in fs.find(root)}


def on(rpc: str, **options: Any) -> IPFSFileSystem:
    return IPFSFileSystem(rpc=rpc, **{"retry_for": 2.0, **options})


# What works


def test_a_push_answers_with_the_cid_that_was_known_before_it(ipfs_node: IpfsNode) -> None:
    files = files_of(1)
    root = dry(files)
    assert not ipfs_node.pinned(root)
    assert write(on(ipfs_node.rpc), files) == root
    assert root.startswith("bafybei")
    assert ipfs_node.pinned(root)


def test_what_was_pushed_is_read_by_gateway_by_rpc_and_by_the_node_itself(
    ipfs_node: IpfsNode, ipfs_gateway: TrustlessGateway
) -> None:
    files = files_of(2)
    root = write(on(ipfs_node.rpc), files)
    assert read(on(ipfs_node.rpc), root) == files
    assert read(IPFSFileSystem(gateway_addr=ipfs_gateway.url, rpc="http://127.0.0.1:9"), root) == files
    assert {path: ipfs_node.content(f"{root}/{path}") for path in files} == files


def test_pushing_again_sends_less_than_a_kibibyte_and_makes_the_same_root(
    ipfs_node: IpfsNode, ipfs_proxy: RpcProxy
) -> None:
    files = files_of(3)
    root = write(on(ipfs_node.rpc), files)
    again = on(ipfs_proxy.url)
    assert write(again, files) == root
    assert again.writer.sent < 1024
    assert ipfs_proxy.received < 1024
    assert "dag/import" not in ipfs_proxy.commands


def test_a_similar_image_sends_only_what_is_new(ipfs_node: IpfsNode, ipfs_proxy: RpcProxy) -> None:
    files = files_of(4)
    write(on(ipfs_node.rpc), files)
    fs = on(ipfs_proxy.url)
    write(fs, files | {"blobs/new": b"n" * 1000})
    assert fs.writer.sent < 10_000


def test_files_of_any_size_come_from_paths_in_constant_pieces(ipfs_node: IpfsNode, tmp_path: Path) -> None:
    data = random.Random(5).randbytes((5 << 20) + 1)
    (tmp_path / "blob").write_bytes(data)
    fs = on(ipfs_node.rpc)
    with fs.transaction:
        fs.put_file(str(tmp_path / "blob"), "blob")
        assert fs.info("blob")["size"] == len(data)
    fs.get_file(f"{fs.committed}/blob", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    assert fs.cat_file("blob", 7, 9) == data[7:9], "without a CID, the root that was just made"


def test_files_that_are_there_are_kept_without_being_read_or_sent(ipfs_node: IpfsNode, ipfs_proxy: RpcProxy) -> None:
    files = files_of(6)
    root = write(on(ipfs_node.rpc), files)
    kept = [f"{root}/{path}" for path in files if path != "manifest.json"]
    fs = on(ipfs_proxy.url)
    assert set(fs.find(root)) >= set(kept)
    ipfs_proxy.commands.clear()
    with fs.transaction:
        fs.keep(kept)
        fs.pipe_file(f"{root}/manifest.json", b"new")
    assert "block/get" not in ipfs_proxy.commands
    assert fs.committed == dry(files | {"manifest.json": b"new"})
    assert read(on(ipfs_node.rpc), fs.committed) == files | {"manifest.json": b"new"}


def test_keeping_what_is_not_there_fails(ipfs_node: IpfsNode) -> None:
    root = write(on(ipfs_node.rpc), files_of(7))
    fs = on(ipfs_node.rpc)
    with pytest.raises(FileNotFoundError), fs.transaction:
        fs.keep([f"{root}/nothing"])
    assert fs.committed is None


@pytest.mark.parametrize(
    "flags", [("--cid-version=0",), ("--cid-version=1", "--raw-leaves=false"), ("--cid-version=1",)]
)
def test_an_image_that_another_program_added_is_read(
    ipfs_node: IpfsNode, ipfs_gateway: TrustlessGateway, tmp_path: Path, flags: list[str]
) -> None:
    files = files_of(8)
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    root = ipfs_node.add(tmp_path, *flags)
    assert not root.startswith("bafy"), "the node prints base58, which is the point of this test"
    assert read(IPFSFileSystem(gateway_addr=ipfs_gateway.url), root) == files
    large = IPFSFileSystem(gateway_addr=ipfs_gateway.url).cat_file(f"{root}/blobs/large", 300_000, 1_500_000)
    assert large == files["blobs/large"][300_000:1_500_000]


@pytest.mark.parametrize("sharded", [True, False])
def test_an_image_of_the_original_is_read_by_path_sharded_or_not(
    ipfs_node: IpfsNode, ipfs_gateway: TrustlessGateway, tmp_path: Path, sharded: bool
) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{}")
    for number in range(1500):
        (tmp_path / f"blob_{number:064x}.zst").write_bytes(b"%d" % number)
    root = ipfs_node.add(tmp_path, "--cid-version=1", f"--shard-split-threshold={1000 if sharded else 10_000}")
    fs = IPFSFileSystem(gateway_addr=ipfs_gateway.url)
    assert fs.cat_file(f"{root}/manifest.json") == b"{}"
    for number in range(0, 1500, 29):
        assert fs.cat_file(f"{root}/blobs/sha256/00/{number:064x}.zst") == b"%d" % number
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{root}/blobs/sha256/00/{1500:064x}.zst")
    assert (len(ipfs_gateway.asked) == 1 + 1 + 52) != sharded, "the directory, the manifest, the blobs"


def test_a_sharded_directory_of_ours_is_read_by_the_node(ipfs_node: IpfsNode) -> None:
    files = {f"{number:0200}": b"x" for number in range(1200)}
    root = write(on(ipfs_node.rpc), files)
    assert ipfs_node.content(f"{root}/{1134:0200}") == b"x"
    assert set(on(ipfs_node.rpc).find(root)) == {f"{root}/{name}" for name in files}


# What makes no commit


def test_an_exception_inside_pins_nothing(ipfs_node: IpfsNode, ipfs_proxy: RpcProxy) -> None:
    files = files_of(10)
    fs = on(ipfs_proxy.url)
    with pytest.raises(KeyError), fs.transaction:
        for path, data in files.items():
            fs.pipe_file(path, data)
        raise KeyError
    assert fs.committed is None
    assert not ipfs_node.pinned(dry(files))
    assert write(fs, files) == dry(files), "and the same filesystem can try again"


def test_a_transaction_without_files_makes_no_root(ipfs_node: IpfsNode) -> None:
    fs = on(ipfs_node.rpc)
    with fs.transaction:
        pass
    assert fs.committed is None


def test_transactions_do_not_nest(ipfs_node: IpfsNode) -> None:
    fs = on(ipfs_node.rpc)
    with pytest.raises(BadOption), fs.transaction:
        fs.pipe_file("a", b"a")
        with fs.transaction:
            pass
    assert fs.committed is None


@pytest.mark.parametrize(
    "write_one", [lambda fs: fs.pipe_file("a", b""), lambda fs: fs.open("a", "wb"), lambda fs: fs.rm_file("a")]
)
def test_nothing_is_written_outside_a_transaction(
    ipfs_node: IpfsNode, write_one: Callable[[IPFSFileSystem], None]
) -> None:
    with pytest.raises(UnsupportedRegistry):
        write_one(on(ipfs_node.rpc))


@pytest.mark.parametrize("path", ["", "a/../b", "./a", "a//b"])
def test_a_path_that_names_no_file_is_refused(ipfs_node: IpfsNode, path: str) -> None:
    fs = on(ipfs_node.rpc)
    with pytest.raises(BadOption), fs.transaction:
        fs.pipe_file(path, b"")
    assert fs.committed is None


def test_a_file_that_changes_while_it_is_sent_breaks_the_push_off(
    ipfs_node: IpfsNode, ipfs_proxy: RpcProxy, tmp_path: Path
) -> None:
    (tmp_path / "blob").write_bytes(random.Random(11).randbytes(3 << 20))

    async def change(request: web.Request) -> None:
        (tmp_path / "blob").write_bytes(b"changed")

    ipfs_proxy.hooks["block/stat"] = change
    fs = on(ipfs_proxy.url)
    with pytest.raises(FileChanged), fs.transaction:
        fs.put_file(str(tmp_path / "blob"), "blob")
    assert fs.committed is None


# A node that fails

ROOTLESS = '{"Root":{"Cid":{"/":"bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"},"PinErrorMsg":""}}\n'


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\n",
        ROOTLESS,
        '{"Message":"disk full","Code":0,"Type":"error"}\n',
        ROOTLESS + '{"Message":"context canceled","Code":0,"Type":"error"}\n',
        '{"Root":{"Cid":{"/":"ba',
        '{"Root":{"Cid":{"/":"%s"},"PinErrorMsg":"block not found"}}\n',
        '{"Root":{"Cid":{"/":"%s"},"PinErrorMsg":""}}\n{"Message":"late","Code":0,"Type":"error"}\n',
        "[" * 100_000,
        "no json at all",
    ],
)
def test_200_with_an_error_in_the_stream_is_no_pin(ipfs_node: IpfsNode, ipfs_proxy: RpcProxy, answer: str) -> None:
    files = files_of(20, large=10)
    root = dry(files)

    async def hook(request: web.Request) -> web.StreamResponse | None:
        text = answer % root if "%s" in answer else answer
        return await proxies.lines(text)(request) if proxies.pins(request) else None

    ipfs_proxy.hooks["dag/import"] = hook
    fs = on(ipfs_proxy.url)
    with pytest.raises(TransferError):
        write(fs, files)
    assert fs.committed is None
    assert not ipfs_node.pinned(root)


def test_an_error_in_the_stream_of_a_blob_is_an_error(ipfs_proxy: RpcProxy) -> None:
    ipfs_proxy.hooks["dag/import"] = proxies.lines('{"Message":"disk full","Code":0,"Type":"error"}\n')
    fs = on(ipfs_proxy.url)
    with pytest.raises(TransferError, match="disk full"):
        write(fs, files_of(21, large=10))
    assert fs.committed is None


@pytest.mark.parametrize("fault", [proxies.silence, proxies.hang_up])
@pytest.mark.parametrize("large", [10, 8 << 20])
def test_a_node_that_hangs_or_hangs_up_is_a_transfer_error(
    ipfs_node: IpfsNode, ipfs_proxy: RpcProxy, fault: proxies.Hook, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfreg.filesystems.ipfs_http._SLOWEST", 1 << 30)  # or a hang takes as long as a slow transfer
    ipfs_proxy.hooks["dag/import"] = fault
    fs = on(ipfs_proxy.url, rpc_timeout=1.0, retry_for=0.3)
    with pytest.raises(TransferError), fs.transaction:
        fs.pipe_file("blob", random.Random(22 + large).randbytes(large))
    assert fs.committed is None


def test_a_node_that_fails_for_a_moment_costs_nothing_but_time(ipfs_node: IpfsNode, ipfs_proxy: RpcProxy) -> None:
    left = [2]

    async def sometimes(request: web.Request) -> web.StreamResponse | None:
        left[0] -= 1
        return await proxies.hang_up(request) if left[0] >= 0 else None

    ipfs_proxy.hooks["dag/import"] = sometimes
    files = files_of(23)
    root = write(on(ipfs_proxy.url, retry_for=10.0), files)
    assert read(on(ipfs_node.rpc), root) == files


def test_a_block_that_is_lost_before_the_pin_is_an_error_and_pushing_again_heals_it(
    ipfs_node: IpfsNode, ipfs_proxy: RpcProxy
) -> None:
    files = files_of(24)
    root = dry(files)
    *_, large = unixfs.file_blocks(unixfs.chunks(io.BytesIO(files["blobs/large"])))
    leaf = cids.text(cids.decode(decode_node(large.data).links[1].cid))

    async def lose_one(request: web.Request) -> None:
        if proxies.pins(request):
            ipfs_node.lose(leaf)

    ipfs_proxy.hooks["dag/import"] = lose_one
    with pytest.raises(TransferError):
        write(on(ipfs_proxy.url, pin_timeout=1.0), files)
    assert not ipfs_node.pinned(root)
    assert write(on(ipfs_node.rpc), files) == root
    assert ipfs_node.pinned(root)
    assert read(on(ipfs_node.rpc), root) == files


def test_a_node_that_is_killed_in_the_middle_is_an_error_and_pushing_again_finishes(mortal_node: IpfsNode) -> None:
    files = files_of(25)
    root = dry(files)
    with closing(RpcProxy(mortal_node.rpc)) as proxy:
        left = [6]

        async def kill(request: web.Request) -> None:
            left[0] -= 1
            if left[0] == 0:
                mortal_node.kill()

        proxy.hooks["dag/import"] = kill
        fs = on(proxy.url, retry_for=0.5)
        with pytest.raises(TransferError):
            write(fs, files)
        assert fs.committed is None
    mortal_node.start()
    assert not mortal_node.pinned(root)
    assert write(on(mortal_node.rpc), files) == root
    with closing(TrustlessGateway(over_node(mortal_node.rpc))) as gateway:
        assert read(IPFSFileSystem(gateway_addr=gateway.url), root) == files


def test_a_node_that_is_killed_at_the_pin_is_never_called_done(mortal_node: IpfsNode) -> None:
    files = files_of(26)
    with closing(RpcProxy(mortal_node.rpc)) as proxy:

        async def kill(request: web.Request) -> None:
            if proxies.pins(request):
                mortal_node.kill()

        proxy.hooks["dag/import"] = kill
        fs = on(proxy.url, retry_for=0.5)
        with pytest.raises(TransferError):
            write(fs, files)
        assert fs.committed is None
    mortal_node.start()
    assert write(on(mortal_node.rpc), files) == dry(files)


def test_a_refusal_of_the_node_is_access_denied(ipfs_proxy: RpcProxy) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    ipfs_proxy.hooks["block/stat"] = refuse
    with pytest.raises(AccessDenied):
        write(on(ipfs_proxy.url), files_of(27, large=10))


def test_a_lying_node_is_found_out(ipfs_node: IpfsNode, ipfs_proxy: RpcProxy) -> None:
    async def lie(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"something else")

    root = write(on(ipfs_node.rpc), files_of(28, large=10))
    ipfs_proxy.hooks["block/get"] = lie
    with pytest.raises(IntegrityError):
        on(ipfs_proxy.url).cat_file(f"{root}/manifest.json")


def test_headers_go_to_the_node_and_not_to_the_gateway(ipfs_gateway: TrustlessGateway, ipfs_proxy: RpcProxy) -> None:
    fs = on(ipfs_proxy.url, rpc_headers={"Authorization": "Basic s3cret"}, gateway_addr=ipfs_gateway.url)
    root = write(fs, {"a": b"a"})
    assert fs.cat_file(f"{root}/a") == b"a"
    assert {headers.get("Authorization") for headers in ipfs_proxy.headers} == {"Basic s3cret"}
    assert {headers.get("Authorization") for headers in ipfs_gateway.headers} == {None}


# Names and pins elsewhere


def test_a_name_that_the_node_publishes_is_read(ipfs_node: IpfsNode) -> None:
    files = files_of(30, large=10)
    root = write(on(ipfs_node.rpc), files)
    name = ipfs_node.call("name/publish", arg=f"/ipfs/{root}", **{"allow-offline": "true", "resolve": "false"})[0][
        "Name"
    ]
    fs = IPNSFileSystem(rpc=ipfs_node.rpc, retry_for=1.0)
    assert fs.cat_file(f"ipns://{name}/manifest.json") == files["manifest.json"]


def test_a_remote_pin_that_fails_is_reported_and_the_push_is_good(ipfs_node: IpfsNode) -> None:
    fs = on(ipfs_node.rpc, pin_remote="pinata")
    root = write(fs, {"a": b"remote"})
    assert ipfs_node.pinned(root)
    assert fs.remote_pin
    assert (fs.remote_pin.service, fs.remote_pin.status) == ("pinata", "failed")
    assert fs.remote_pin.problem


def test_a_remote_pin_is_asked_for_and_its_status_reported(ipfs_proxy: RpcProxy) -> None:
    asked: list[str] = []

    async def service(request: web.Request) -> web.StreamResponse:
        asked.append(request.query["arg"] + " " + request.query["service"])
        return web.json_response({"Status": "queued", "Cid": request.query["arg"], "Name": ""})

    ipfs_proxy.hooks["pin/remote/add"] = service
    fs = on(ipfs_proxy.url, pin_remote="pinata")
    root = write(fs, {"a": b"remote"})
    assert asked == [f"{root} pinata"]
    assert fs.remote_pin
    assert (fs.remote_pin.status, fs.remote_pin.problem) == ("queued", "")


def test_every_failure_is_one_of_ours(ipfs_node: IpfsNode) -> None:
    with pytest.raises(PfregError):
        on(ipfs_node.rpc, rpc_timeout=0.5).cat_file("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
