"""Read a table and the conversation of an image where it lies, with pandas: nothing is pulled.

::

    pip install 'pfreg[s3]' pandas
    python examples/pandas_trace.py s3://bucket/agents/a data/results.csv
"""

from __future__ import annotations

import sys

import pandas as pd


def main(image: str, table: str) -> None:
    """Print the first rows of one of the agent's tables, and who said how much."""
    print(pd.read_csv(f"pfimg://world/fs/{table}::{image}").head())
    trace = pd.read_json(f"pfimg://trace/messages.jsonl::{image}", lines=True)
    print(trace.assign(characters=trace["content"].str.len()).groupby("role")["characters"].agg(["count", "sum"]))


if __name__ == "__main__":
    main(*sys.argv[1:3])
