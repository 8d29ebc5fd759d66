"""The examples run, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

import pfreg

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_pandas_trace(root: Path) -> None:
    printed = run("pandas_trace.py", root, "data/a.csv")
    assert "assistant" in printed and "4  16" in printed


def test_dask_images(folder: Path, store: pfreg.Store, tmp_path: Path) -> None:
    for name, rows in (("x", 5), ("y", 7)):
        pd.DataFrame({"n": range(rows)}).to_parquet(folder / "data" / "t.parquet")
        pfreg.push(pfreg.snapshot(folder, store=store), tmp_path / name, store=store)
    printed = run("dask_images.py", "data/*.parquet", tmp_path / "x", tmp_path / "y")
    assert {line.split()[-1] for line in printed.splitlines() if str(tmp_path) in line} == {"5", "7"}


def test_duckdb_ledgers(root: Path, snapshot: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path) -> None:
    pfreg.push(snapshot, tmp_path / "copy", store=store)
    assert "mail" in run("duckdb_ledgers.py", root, tmp_path / "copy")


def test_compare_forks(
    root: Path, store: pfreg.Store, tmp_path: Path, another: Callable[[str], pfreg.Snapshotted]
) -> None:
    pfreg.push(another("new\n"), tmp_path / "fork", store=store)
    printed = run("compare_forks.py", root, tmp_path / "fork")
    assert "+new" in printed and "0 messages in common" in printed and "assistant: ho" in printed
