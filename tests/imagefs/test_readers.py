"""The one-liners of the documentation, with the real packages, on registries of every kind."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.bag
import dask.dataframe
import duckdb
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from dask.distributed import Client, LocalCluster
from upath import UPath

import pfreg
from tests.conformance.conftest import CHOSEN, REGISTRIES
from tests.conformance.places import Registry

FRAME = pd.DataFrame({"a": range(100), "b": [str(i) for i in range(100)]})
KINDS = ("memory", "file", "s3-obstore", "hf-lfs", "oci", "ipfs")
READ_ON = [name for name in KINDS if name in CHOSEN]


@dataclass(frozen=True)
class Lying:
    """Where an image lies, as a user would name it.

    Parameters
    ----------
    reference : str
        Its reference.
    options : dict
        The ``storage_options`` of its filesystem.
    """

    reference: str
    options: dict[str, Any]

    @property
    def scheme(self) -> str:
        return self.reference.partition("://")[0]

    @property
    def link(self) -> str:
        """The last link of a chain; ``oci`` is another library's there."""
        return self.reference.replace("oci://", "ocireg://") if self.scheme == "oci" else self.reference

    @property
    def chained(self) -> dict[str, Any]:
        """The ``storage_options`` of a chain."""
        return {self.link.partition("://")[0]: self.options} if self.options else {}

    def url(self, inside: str) -> str:
        return f"pfimg://{inside}::{self.link}"

    def fs(self, kind: type[pfreg.PfimgFileSystem] = pfreg.PfimgFileSystem) -> pfreg.PfimgFileSystem:
        return kind(fo=self.reference, target_options=self.options, skip_instance_cache=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> pfreg.Store:
    return pfreg.Store(tmp_path_factory.mktemp("tables") / "store")


@pytest.fixture(scope="module")
def tables(store: pfreg.Store, tmp_path_factory: pytest.TempPathFactory) -> pfreg.Snapshotted:
    """An image with tables in every format."""
    agent = tmp_path_factory.mktemp("agent")
    data = agent / "data"
    data.mkdir()
    for i in range(3):
        FRAME.to_csv(data / f"{i}.csv", index=False)
        FRAME.to_parquet(data / f"{i}.parquet")
    with zipfile.ZipFile(data / "z.zip", "w") as archive:
        archive.writestr("in.csv", "p,q\n1,2\n")
    zarr.save_array(str(data / "array.zarr"), np.arange(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about formats that have no specification yet
        xr.Dataset({"t": ("x", np.arange(6.0))}, {"x": range(6)}).to_zarr(data / "set.zarr")
    messages = [{"role": "user", "content": "hi"}]
    return pfreg.snapshot(agent, store=store, messages=messages, effects=[{"tool_id": "x"}])


@pytest.fixture(scope="module", params=READ_ON)
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with REGISTRIES[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


def test_every_kind_of_registry_is_one_that_there_is() -> None:
    assert set(KINDS) <= set(REGISTRIES)


def pushed(image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry) -> Lying:
    place = registry.place()
    done = pfreg.push(image, place.url, store=store, storage_options=place.options)
    return Lying(place.where(done), dict(place.options))


@pytest.fixture(scope="module")
def at(tables: pfreg.Snapshotted, store: pfreg.Store, registry: Registry) -> Lying:
    return pushed(tables, store, registry)


@pytest.fixture(scope="module")
def other(store: pfreg.Store, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Lying:
    """Another image in the same registry."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "t.csv").write_text("a,c\n7,seven\n")
    return pushed(pfreg.snapshot(folder, store=store), store, registry)


@pytest.fixture(autouse=True)
def anew() -> None:
    """Let every reader open the image itself, with the options that it was given."""
    pfreg.PfimgFileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as here:
        with Client(here) as client:
            yield client


@pytest.fixture
def scheduled(at: Lying, request: pytest.FixtureRequest) -> Iterator[None]:
    """A cluster of processes, where they can reach the image: not into this one's memory."""
    if at.scheme == "memory":
        with dask.config.set(scheduler="threads"):
            yield
    else:
        request.getfixturevalue("cluster")
        yield


def test_pandas(at: Lying) -> None:
    options = at.chained or None
    table = pd.read_csv(at.url("world/fs/data/0.csv"), storage_options=options, dtype={"b": object})
    pd.testing.assert_frame_equal(table, FRAME.astype({"b": object}))
    assert len(pd.read_parquet(at.url("world/fs/data/0.parquet"), storage_options=options)) == 100
    trace = pd.read_json(at.url("trace/messages.jsonl"), storage_options=options, lines=True)
    assert trace["content"].tolist() == ["hi"]


@pytest.mark.usefixtures("scheduled")
def test_dask(at: Lying) -> None:
    options = at.chained
    csv = dask.dataframe.read_csv(at.url("world/fs/data/*.csv"), blocksize=150, storage_options=options)
    assert csv.npartitions > 3 and csv["a"].sum().compute() == 3 * FRAME["a"].sum()
    parquet = dask.dataframe.read_parquet(at.url("world/fs/data/*.parquet"), storage_options=options)
    assert parquet["a"].count().compute() == 300
    trace = dask.bag.read_text(at.url("trace/messages.jsonl"), storage_options=options)
    assert trace.count().compute() == 1


def test_pyarrow(at: Lying) -> None:
    fs = at.fs()
    assert pq.read_table("world/fs/data/0.parquet", filesystem=fs).num_rows == 100
    found = pyarrow.dataset.dataset("world/fs/data", filesystem=fs, format="parquet", exclude_invalid_files=True)
    assert found.count_rows() == 300


def test_pyarrow_by_url(at: Lying, monkeypatch: pytest.MonkeyPatch) -> None:
    """No options can be given here: they come from fsspec's own configuration."""
    monkeypatch.setitem(fsspec.config.conf, at.scheme, at.options)
    assert pq.read_table(f"fsspec+{at.url('world/fs/data/0.parquet')}").num_rows == 100


def test_duckdb(at: Lying) -> None:
    with duckdb.connect() as database:
        database.register_filesystem(at.fs())
        for format_, rows in (("csv", 300), ("parquet", 300)):
            query = f"select count(*) from read_{format_}('pfimg://world/fs/data/*.{format_}')"
            assert database.sql(query).fetchall() == [(rows,)]
        assert database.sql("select content from read_json('pfimg://trace/messages.jsonl')").fetchall() == [("hi",)]


class Other(pfreg.PfimgFileSystem):
    """DuckDB tells filesystems apart by their scheme, so a second image needs one of its own."""

    protocol = "pfother"


def test_duckdb_joins_two_images(at: Lying, other: Lying) -> None:
    with duckdb.connect() as database:
        database.register_filesystem(at.fs())
        database.register_filesystem(other.fs(Other))
        query = "select b, c from 'pfimg://world/fs/data/0.parquet' join 'pfother://world/fs/t.csv' using (a)"
        assert database.sql(query).fetchall() == [("7", "seven")]


def test_polars(at: Lying) -> None:
    fs = at.fs()
    assert pl.read_csv(fs.open("world/fs/data/0.csv")).height == 100
    assert pl.read_parquet(fs.open("world/fs/data/0.parquet")).height == 100
    dataset = pyarrow.dataset.dataset("world/fs/data/0.parquet", filesystem=fs)
    assert pl.scan_pyarrow_dataset(dataset).collect().height == 100
    local = fsspec.open_local(f"simplecache::{at.url('world/fs/data/0.csv')}", **at.chained)
    assert pl.scan_csv(local).collect().height == 100


def test_universal_pathlib(at: Lying) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = UPath(at.url("world/fs/data"), verify=True, **at.chained)
        assert (folder / "0.csv").read_text() == FRAME.to_csv(index=False)
        assert {path.name for path in folder.iterdir()} >= {"0.csv", "0.parquet", "z.zip"}
        assert folder.is_dir() and not (folder / "none").exists()


def test_zarr(at: Lying) -> None:
    array = zarr.open_array(at.url("world/fs/data/array.zarr"), mode="r", storage_options=at.chained or None)
    assert array[:].tolist() == [0, 1, 2, 3, 4]


def test_xarray(at: Lying) -> None:
    with xr.open_zarr(at.url("world/fs/data/set.zarr"), storage_options=at.chained or None) as found:
        assert found["t"].sel(x=slice(2, 4)).values.tolist() == [2.0, 3.0, 4.0]


def test_a_reference_as_it_is_written(tables: pfreg.Snapshotted, store: pfreg.Store, registry: Registry) -> None:
    place = registry.place()
    scheme, _, rest = place.url.partition("://")
    named = {
        "hf": "hf://alice/session:v1",
        "oci": f"oci://{rest.partition('/')[0]}/agents/session:v1",
        "ipfs": "ipfs://",
    }.get(scheme, place.url)
    done = pfreg.push(tables, named, store=store, storage_options=place.options)
    reference = place.where(done) if scheme == "ipfs" else named
    assert scheme != "ipfs" or reference.startswith("ipfs://baf")
    at = Lying(reference, dict(place.options))
    chain = f"pfimg://world/fs/data/0.csv::{at.link}"
    with fsspec.open(chain, **at.chained) as stream:
        assert stream.read() == FRAME.to_csv(index=False).encode()
    assert len(pd.read_csv(chain, storage_options=at.chained or None)) == 100
    by_name = {"fo": reference, "target_options": at.options}  # here oci:// is what it says
    assert len(pd.read_csv("pfimg://world/fs/data/0.csv", storage_options=by_name)) == 100
    assert pfreg.open_image(reference, storage_options=at.options).messages()[0]["content"] == "hi"


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_local_caches(at: Lying, cache: str, tmp_path: Path) -> None:
    for _ in range(2):
        url = f"{cache}::{at.url('world/fs/data/0.csv')}"
        with fsspec.open(url, **at.chained, **{cache: {"cache_storage": str(tmp_path)}}) as stream:
            assert stream.read(3) == b"a,b"


def test_a_zip_inside(at: Lying) -> None:
    # pandas 2 lets go of the zip filesystem before it reads, whatever lies below; so this is opened by hand.
    with fsspec.open(f"zip://in.csv::{at.url('world/fs/data/z.zip')}", **at.chained) as stream:
        assert pd.read_csv(stream)["q"].tolist() == [2]


@pytest.mark.parametrize(
    "code",
    [
        "import sys, fsspec; print(len(fsspec.open_files(sys.argv[1] + '/*.csv' + sys.argv[2])))",
        "import sys, upath; print(len(list(upath.UPath(sys.argv[1] + sys.argv[2]).glob('*.csv'))))",
    ],
)
def test_a_fresh_process_needs_no_import_of_pfreg(
    tables: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path, code: str
) -> None:
    pfreg.push(tables, tmp_path / "root", store=store)
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, "pfimg://world/fs/data", f"::{tmp_path}/root"]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout == "3\n"
