"""Reading through pfimg://: a CSV on a local registry against the same bytes decompressed and parsed by hand, its
second open from a kept cache against a local file, and the memory that opening 512 MiB takes.

::

    python -m benchmarks.imagefs [--quick]
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import zstandard

import pfreg
from benchmarks.measuring import Row, by_turns, line, sample
from pfreg.layout import blob_path
from tests.servers.seaweedfs import seaweedfs

TURNS = 5
PEAK = """
import json, sys, pfreg

def peak():  # of this program alone; getrusage would begin with what its parent had
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

fs = pfreg.PfimgFileSystem(fo=sys.argv[1], target_options=json.loads(sys.argv[2]))
fs.ls("world/fs")
fs.cat_file("world/fs/small")  # whatever a first transfer loads is loaded
before = peak()
with fs.open("world/fs/large") as stream:
    while stream.read(1 << 20):
        pass
print(peak() - before)
"""


def make_table(path: Path, size: int) -> None:
    """Write a CSV of about `size` bytes."""
    rng = random.Random(0)
    block = "".join(f"{i},{rng.random():.12f},name-{rng.randrange(10**6)}\n" for i in range(20_000))
    with open(path, "w", encoding="ascii") as stream:
        stream.write("n,x,name\n")
        for _ in range(max(1, size // len(block))):
            stream.write(block)


def speed(here: Path, size: int) -> Iterator[Row]:
    """Compare reading a table with doing it by hand."""
    (here / "agent").mkdir()
    plain = here / "agent" / "table.csv"
    make_table(plain, size)
    store = pfreg.Store(here / "store")
    pfreg.push(pfreg.snapshot(here / "agent", store=store), here / "root", store=store)
    stored = here / "root" / blob_path(pfreg.Digest.of(plain.read_bytes()))
    data = f"CSV {size >> 20}M"

    def ours() -> object:
        fs = pfreg.PfimgFileSystem(fo=str(here / "root"), skip_instance_cache=True)
        with fs.open("world/fs/table.csv") as stream:
            return pd.read_csv(stream)

    def by_hand() -> object:
        with open(stored, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            return pd.read_csv(io.BytesIO(stream.read()))

    def kept() -> pfreg.PfimgFileSystem:
        fs = pfreg.PfimgFileSystem(fo=str(here / "root"), cache=here / "cache", skip_instance_cache=True)
        fs.info("world/fs/table.csv")
        return fs

    def second_open() -> Callable[[], object]:
        fs = kept()
        return lambda: read(fs.open("world/fs/table.csv"))

    kept().open("world/fs/table.csv").close()
    best = by_turns(TURNS, {"ours": lambda: ours, "by hand": lambda: by_hand})
    figure = best["ours"].wall / best["by hand"].wall
    yield Row("read_csv", data, best["ours"], "by hand", best["by hand"], figure, "x its wall", 1.3, at_least=False)
    best = by_turns(TURNS, {"ours": second_open, "local": lambda: lambda: read(open(plain, "rb"))})  # noqa: SIM115
    figure = best["ours"].wall / best["local"].wall
    yield Row("second open", data, best["ours"], "local file", best["local"], figure, "x its wall", 1.2, at_least=False)


def read(stream: io.BufferedIOBase) -> None:
    """Read all of an open file, as programs do."""
    with stream:
        while stream.read(1 << 20):
            pass


def memory(here: Path, size: int) -> Iterator[Row]:
    """Measure how much memory a large file takes that no compression makes smaller, in a folder and on S3."""
    rng = random.Random(0)
    (here / "large-agent").mkdir()
    (here / "large-agent" / "small").write_bytes(rng.randbytes(100))
    with open(here / "large-agent" / "large", "wb") as stream:
        for _ in range(size >> 20):
            stream.write(rng.randbytes(1 << 20))
    store = pfreg.Store(here / "large-store")
    image = pfreg.snapshot(here / "large-agent", store=store)
    (here / "s3").mkdir()
    with seaweedfs(here / "s3") as server:
        for reference, options in ((str(here / "large-root"), {}), ("s3://images/large", server.options())):
            pfreg.push(image, reference, store=store, storage_options=options)
            grown: list[float] = []
            command = [sys.executable, "-c", PEAK, reference, json.dumps(options)]

            def run(command: list[str] = command, grown: list[float] = grown) -> None:
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                grown.append(int(done.stdout) / 1024)

            where = "s3" if options else "folder"
            took = sample(run)
            yield Row(f"open, {where}", f"random {size >> 20}M", took, figure=grown[0], unit="MiB more",
                      goal=64, at_least=False)  # fmt: skip


def main(*, quick: bool) -> int:
    """Print one line for each comparison; return 1 if a goal is missed."""
    missed = False
    with tempfile.TemporaryDirectory(prefix="pfreg-benchmark-") as temporary:
        here = Path(temporary)
        for row in (*speed(here, (10 if quick else 100) << 20), *memory(here, (64 if quick else 512) << 20)):
            print(line(row), flush=True)
            missed |= row.met is False and not quick
    return int(missed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data; no goal is judged")
    sys.exit(main(quick=parser.parse_args().quick))
