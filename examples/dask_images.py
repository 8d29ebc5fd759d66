"""One dask dataframe over the Parquet files of several images, such as the runs of one experiment.

::

    pip install pfreg 'dask[dataframe,distributed]' pyarrow
    python examples/dask_images.py 'data/*.parquet' s3://bucket/agents/a s3://bucket/agents/b
"""

from __future__ import annotations

import sys

import dask.dataframe as dd
from dask.distributed import Client, LocalCluster


def main(pattern: str, images: list[str]) -> None:
    """Print how many rows each image has, counted by a cluster of processes."""
    parts = [dd.read_parquet(f"pfimg://world/fs/{pattern}::{image}").assign(image=image) for image in images]
    with LocalCluster(n_workers=2, dashboard_address=None) as cluster, Client(cluster):
        print(dd.concat(parts).groupby("image").size().compute())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
