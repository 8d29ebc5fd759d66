"""The one-liners of the documentation, with the real packages."""

from __future__ import annotations

import subprocess
import sys
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
import zarr
from dask.distributed import Client, LocalCluster
from upath import UPath

import pfreg

FRAME = pd.DataFrame({"a": range(100), "b": [str(i) for i in range(100)]})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pfreg.Snapshotted, pfreg.Store]:
    """An image with tables in every format."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "agent" / "data"
    data.mkdir(parents=True)
    for i in range(3):
        FRAME.to_csv(data / f"{i}.csv", index=False)
        FRAME.to_parquet(data / f"{i}.parquet")
    with zipfile.ZipFile(data / "z.zip", "w") as archive:
        archive.writestr("in.csv", "p,q\n1,2\n")
    zarr.save_array(str(data / "array.zarr"), np.arange(5))
    store = pfreg.Store(folder / "store")
    messages = [{"role": "user", "content": "hi"}]
    return pfreg.snapshot(folder / "agent", store=store, messages=messages, effects=[{"tool_id": "x"}]), store


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, made: Any, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where the image lies, and the storage_options to read it there."""
    image, store = made
    options: dict[str, Any] = request.getfixturevalue("s3") if request.param == "s3" else {}
    url = {"file": f"file://{tmp_path}/root", "memory": f"memory://{uuid.uuid4().hex}", "s3": "s3://images/tables"}
    pfreg.push(image, url[request.param], store=store, storage_options=options)
    yield url[request.param], {"s3": options} if options else {}


@pytest.fixture
def root(made: Any, tmp_path: Path) -> str:
    image, store = made
    pfreg.push(image, tmp_path / "root", store=store)
    return f"file://{tmp_path}/root"


@pytest.fixture
def fs(root: str) -> pfreg.PfimgFileSystem:
    return pfreg.PfimgFileSystem(fo=root, skip_instance_cache=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as here:
        with Client(here) as client:
            yield client


def test_pandas(place: tuple[str, dict[str, Any]]) -> None:
    target, options = place
    pd.testing.assert_frame_equal(
        pd.read_csv(f"pfimg://world/fs/data/0.csv::{target}", storage_options=options or None, dtype={"b": object}),
        FRAME.astype({"b": object}),
    )
    assert len(pd.read_parquet(f"pfimg://world/fs/data/0.parquet::{target}", storage_options=options or None)) == 100
    trace = pd.read_json(f"pfimg://trace/messages.jsonl::{target}", storage_options=options or None, lines=True)
    assert trace["content"].tolist() == ["hi"]


def test_dask_with_processes(root: str, cluster: Client) -> None:
    csv = dask.dataframe.read_csv(f"pfimg://world/fs/data/*.csv::{root}", blocksize=150)
    assert csv.npartitions > 3 and csv["a"].sum().compute() == 3 * FRAME["a"].sum()
    assert len(dask.dataframe.read_parquet(f"pfimg://world/fs/data/*.parquet::{root}")) == 300
    assert dask.bag.read_text(f"pfimg://trace/messages.jsonl::{root}").count().compute() == 1


def test_dask_over_s3(s3: dict[str, Any], made: Any, cluster: Client) -> None:
    image, store = made
    pfreg.push(image, "s3://images/dask", store=store, storage_options=s3)
    url = "pfimg://world/fs/data/*.parquet::s3://images/dask"
    assert len(dask.dataframe.read_parquet(url, storage_options={"s3": s3})) == 300


def test_pyarrow(fs: pfreg.PfimgFileSystem, root: str) -> None:
    assert pq.read_table("world/fs/data/0.parquet", filesystem=fs).num_rows == 100
    found = pyarrow.dataset.dataset("world/fs/data", filesystem=fs, format="parquet", exclude_invalid_files=True)
    assert found.count_rows() == 300
    assert pq.read_table(f"fsspec+pfimg://world/fs/data/0.parquet::{root}").num_rows == 100


def test_duckdb(fs: pfreg.PfimgFileSystem) -> None:
    with duckdb.connect() as database:
        database.register_filesystem(fs)
        for format_, rows in (("csv", 300), ("parquet", 300)):
            query = f"select count(*) from read_{format_}('pfimg://world/fs/data/*.{format_}')"
            assert database.sql(query).fetchall() == [(rows,)]
        assert database.sql("select content from read_json('pfimg://trace/messages.jsonl')").fetchall() == [("hi",)]


def test_polars(fs: pfreg.PfimgFileSystem, root: str) -> None:
    assert pl.read_csv(fs.open("world/fs/data/0.csv")).height == 100
    assert pl.read_parquet(fs.open("world/fs/data/0.parquet")).height == 100
    dataset = pyarrow.dataset.dataset("world/fs/data/0.parquet", filesystem=fs)
    assert pl.scan_pyarrow_dataset(dataset).collect().height == 100
    local = fsspec.open_local(f"simplecache::pfimg://world/fs/data/0.csv::{root}")
    assert pl.scan_csv(local).collect().height == 100


def test_universal_pathlib(root: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = UPath(f"pfimg://world/fs/data::{root}")
        assert (folder / "0.csv").read_text() == FRAME.to_csv(index=False)
        assert {path.name for path in folder.iterdir()} >= {"0.csv", "0.parquet", "z.zip"}
        assert folder.is_dir() and not (folder / "none").exists()


def test_zarr(root: str) -> None:
    assert zarr.open_array(f"pfimg://world/fs/data/array.zarr::{root}", mode="r")[:].tolist() == [0, 1, 2, 3, 4]


def test_chains(root: str) -> None:
    assert pd.read_csv(f"zip://in.csv::pfimg://world/fs/data/z.zip::{root}")["q"].tolist() == [2]
    for cache in ("simplecache", "filecache"):
        with fsspec.open(f"{cache}::pfimg://world/fs/data/0.csv::{root}") as stream:
            assert stream.read(3) == b"a,b"


def test_a_fresh_process_needs_no_import_of_pfreg(root: str) -> None:
    code = "import sys, fsspec; print(len(fsspec.open_files(sys.argv[1])))"
    command = [sys.executable, "-c", code, f"pfimg://world/fs/data/*.csv::{root}"]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout == "3\n"
