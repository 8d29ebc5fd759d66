"""The registries that the suite runs on, each with a server of its own where it needs one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.conformance.hf import hf_branches, hf_bucket, hf_lfs, hf_real, hf_xet
from tests.conformance.places import Place, Registry
from tests.servers.azurite import azurite
from tests.servers.gcs_emulator import gcs_emulator
from tests.servers.ipfs_gateway import TrustlessGateway, over_node
from tests.servers.ipfs_node import IpfsNode, installed
from tests.servers.moto_s3 import moto_s3
from tests.servers.oci_places import OCI_REGISTRIES
from tests.servers.seaweedfs import seaweedfs
from tests.servers.sshd import sshd


@contextlib.contextmanager
def memory(folder: Path) -> Iterator[Registry]:
    fs = fsspec.filesystem("memory")

    def new(name: str) -> Place:
        return Place(f"memory://{folder.name}/{name}", {}, f"/{folder.name}/{name}", fs)

    yield Registry(new)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(f"/{folder.name}", recursive=True)


@contextlib.contextmanager
def file(folder: Path) -> Iterator[Registry]:
    fs = fsspec.filesystem("file", auto_mkdir=True)

    def new(name: str) -> Place:
        return Place(f"file://{folder}/{name}", {}, f"{folder}/{name}", fs)

    yield Registry(new)


@contextlib.contextmanager
def sftp(folder: Path) -> Iterator[Registry]:
    keys, data = folder / "keys", folder / "data"
    keys.mkdir()
    data.mkdir()
    with sshd(keys) as server:

        def new(name: str) -> Place:
            url = f"sftp://127.0.0.1:{server.port}{data}/{name}"
            return Place(url, server.storage_options, f"{data}/{name}", fsspec.filesystem("file"))

        yield Registry(new, copies=False)


@contextlib.contextmanager
def s3_moto(folder: Path) -> Iterator[Registry]:
    with moto_s3() as options:
        yield _on_s3(options, "s3fs")


@contextlib.contextmanager
def s3_s3fs(folder: Path) -> Iterator[Registry]:
    with seaweedfs(folder) as server:
        yield _on_s3(server.options(), "s3fs")


@contextlib.contextmanager
def s3_obstore(folder: Path) -> Iterator[Registry]:
    with seaweedfs(folder) as server:
        yield _on_s3(server.options(), "obstore")


def _on_s3(options: Mapping[str, Any], library: str) -> Registry:
    fs = fsspec.filesystem("s3", **options, use_listings_cache=False)
    ours = {**options, "library": library}
    return Registry(lambda name: Place(f"s3://images/{name}", ours, f"images/{name}", fs))


@contextlib.contextmanager
def gs(folder: Path) -> Iterator[Registry]:
    with gcs_emulator(folder) as options:
        yield _in_bucket("gs", options)


@contextlib.contextmanager
def abfs(folder: Path) -> Iterator[Registry]:
    with azurite(folder) as server:
        yield _in_bucket("abfs", server.options())


def _in_bucket(scheme: str, options: Mapping[str, Any]) -> Registry:
    fs = fsspec.filesystem(scheme, **options, use_listings_cache=False)
    return Registry(lambda name: Place(f"{scheme}://images/{name}", options, f"images/{name}", fs))


class RootOf:
    """A place on IPFS: nowhere until something is pushed there, and then the root that the last push made."""

    path, fs = "", None

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.url = "ipfs://"

    def where(self, done: Any) -> str:
        if done.committed:
            self.url = f"ipfs://{done.committed}"
        return self.url


@contextlib.contextmanager
def ipfs(folder: Path) -> Iterator[Registry]:
    node = IpfsNode(installed(), folder)
    node.start()
    gateway = TrustlessGateway(over_node(node.rpc))
    try:
        options = {"rpc": node.rpc, "gateway_addr": gateway.url}
        yield Registry(lambda name: RootOf(options), overlays=False, any_name=False)
    finally:
        gateway.close()
        node.kill()


REGISTRIES: dict[str, Callable[[Path], AbstractContextManager[Registry]]] = {
    "memory": memory,
    "file": file,
    "sftp": sftp,
    "s3-moto": s3_moto,
    "s3-s3fs": s3_s3fs,
    "s3-obstore": s3_obstore,
    "gs": gs,
    "abfs": abfs,
    "ipfs": ipfs,
    **OCI_REGISTRIES,
    "hf-lfs": hf_lfs,
    "hf-xet": hf_xet,
    "hf-branches": hf_branches,
    "hf-bucket": hf_bucket,
}
if "PFREG_TEST_HF_TOKEN" in os.environ:
    REGISTRIES["hf-real"] = hf_real
CHOSEN = os.environ.get("PFREG_TEST_REGISTRIES", " ".join(REGISTRIES)).split()
"""The registries to run on; ``PFREG_TEST_REGISTRIES="memory file"`` leaves the others out."""


@pytest.fixture(scope="session", params=CHOSEN)
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with REGISTRIES[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def place(registry: Registry) -> Place:
    return registry.place()
