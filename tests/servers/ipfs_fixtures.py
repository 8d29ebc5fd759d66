"""Fixtures of a real IPFS node, a trustless gateway beside it, and a proxy that breaks its RPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.ipfs_gateway import TrustlessGateway, over_node
from tests.servers.ipfs_node import IpfsNode, installed
from tests.servers.ipfs_rpc_proxy import RpcProxy


@pytest.fixture(scope="session")
def ipfs_installed() -> Path:
    """js-ipfs."""
    return installed()


@pytest.fixture(scope="session")
def ipfs_node(ipfs_installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpfsNode]:
    """A node for all tests that leave it running."""
    node = IpfsNode(ipfs_installed, tmp_path_factory.mktemp("ipfs"))
    node.start()
    yield node
    node.kill()


@pytest.fixture
def mortal_node(ipfs_installed: Path, tmp_path: Path) -> Iterator[IpfsNode]:
    """A node for one test, which may kill it and start it again."""
    home = tmp_path / "mortal-node"
    home.mkdir()
    node = IpfsNode(ipfs_installed, home)
    node.start()
    yield node
    node.kill()


@pytest.fixture
def ipfs_gateway(ipfs_node: IpfsNode) -> Iterator[TrustlessGateway]:
    """A trustless gateway that serves the blocks of the node."""
    with closing(TrustlessGateway(over_node(ipfs_node.rpc))) as gateway:
        yield gateway


@pytest.fixture
def ipfs_proxy(ipfs_node: IpfsNode) -> Iterator[RpcProxy]:
    """A proxy in front of the node's RPC."""
    with closing(RpcProxy(ipfs_node.rpc)) as proxy:
        yield proxy
