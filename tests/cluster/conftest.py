"""A dask cluster of processes, an image in a folder, and S3 servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

import pfreg
from pfreg import distribution
from pfreg.digest import Digest
from tests.cluster import mortal
from tests.conftest import make_tree
from tests.servers.moto_s3 import moto_s3
from tests.servers.seaweedfs import S3Server, seaweedfs

NO_WAITING = {"distributed.scheduler.allowed-failures": 0, "distributed.comm.timeouts.connect": "5s"}


@pytest.fixture(autouse=True)
def many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even a small image into several batches."""
    monkeypatch.setattr(distribution, "_BATCH_BLOBS", 4)


@pytest.fixture(scope="module", autouse=True)
def known() -> None:
    mortal.register()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of a cluster that leaves it to us to run again what a dead worker was at."""
    with (
        dask.config.set(NO_WAITING),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        made.register_plugin(mortal.Registering())
        yield made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", small=8)


@pytest.fixture
def root(tmp_path: Path, store: pfreg.Store, image: pfreg.Snapshotted) -> Path:
    """A folder with the image."""
    pfreg.push(image, tmp_path / "root", store=store)
    return tmp_path / "root"


@pytest.fixture
def leaf(tree: Path) -> str:
    """The digits of a blob that only the workers read."""
    return Digest.of((tree / "src" / "deep" / "module_3.py").read_bytes()).hex


@pytest.fixture
def deaths(tmp_path: Path) -> Path:
    folder = tmp_path / "deaths"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[dict[str, Any]]:
    with moto_s3() as options:
        yield options
