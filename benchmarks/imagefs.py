"""Reading through pfimg://: a CSV on a local registry against the same bytes decompressed and parsed by hand, and the
second open of a large file against opening a local file.

::

    python -m benchmarks.imagefs [--quick]
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import zstandard

import pfreg
from benchmarks.measuring import Sample, by_turns
from pfreg.layout import blob_path

TURNS = 3


def compared(first: Callable[[], object], second: Callable[[], object]) -> tuple[Sample, Sample]:
    """Run two things by turns; return the best of each."""
    best = by_turns(TURNS, {"first": lambda: first, "second": lambda: second})
    return best["first"], best["second"]


def make(folder: Path, size: int) -> None:
    """Write a CSV of about `size` bytes."""
    rng = random.Random(0)
    (folder / "agent").mkdir()
    block = "".join(f"{i},{rng.random():.12f},name-{rng.randrange(10**6)}\n" for i in range(20_000))
    with open(folder / "agent" / "table.csv", "w", encoding="ascii") as stream:
        stream.write("n,x,name\n")
        for _ in range(max(1, size // len(block))):
            stream.write(block)


def main(*, quick: bool) -> int:
    """Print one line for each comparison; return 1 if a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="pfreg-benchmark-") as temporary:
        here = Path(temporary)
        make(here, (10 if quick else 100) << 20)
        store = pfreg.Store(here / "store")
        pfreg.push(pfreg.snapshot(here / "agent", store=store), here / "root", store=store)
        plain = here / "agent" / "table.csv"
        stored = here / "root" / blob_path(pfreg.Digest.of(plain.read_bytes()))

        def ours() -> object:
            fs = pfreg.PfimgFileSystem(fo=str(here / "root"), skip_instance_cache=True)
            with fs.open("world/fs/table.csv") as stream:
                return pd.read_csv(stream)

        def by_hand() -> object:
            with open(stored, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                return pd.read_csv(io.BytesIO(stream.read()))

        warm = pfreg.PfimgFileSystem(fo=str(here / "root"), skip_instance_cache=True)
        warm.open("world/fs/table.csv").close()
        rows = [
            ("CSV: pfimg:// / decompressed and parsed by hand", compared(ours, by_hand), 1.3),
            (
                "second read: pfimg:// / local file",
                compared(lambda: warm.cat_file("world/fs/table.csv"), plain.read_bytes),
                None,
            ),
        ]
    missed = False
    for what, (mine, theirs), goal in rows:
        figure = mine.wall / theirs.wall
        missed |= goal is not None and figure > goal and not quick
        print(f"{what:50} {mine} / {theirs} = {figure:.2f}" + (f" (goal {goal})" if goal else ""))
    return int(missed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data; no goal is judged")
    sys.exit(main(quick=parser.parse_args().quick))
