"""pfreg against an IPFS node's own ``add -r`` and ``get``, on the same node, in the same run, as ratios.

    python -m benchmarks.ipfs [--rounds 3]

The node is js-ipfs; where it comes from, ``tests/servers/ipfs_node.py`` says. Each figure is the wall time of a whole
command, start of its interpreter included, and the median of the rounds; each round has data of its own, so that no
block is there already. Memory is the largest resident set of a push less that of a command that only starts.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pfreg
from tests.servers.ipfs_gateway import TrustlessGateway, over_node
from tests.servers.ipfs_node import IpfsNode, installed

WORKLOADS = {"200 x 1 MiB": (200, 1 << 20), "2,000 x 16 KiB": (2000, 16 << 10)}


_COMMAND = """
import sys
from pfreg.cli import main
main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1], file=sys.stderr)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time, and MiB of the largest resident set, of one command."""

    wall: float
    memory: float


def run(arguments: Sequence[str]) -> Cost:
    """Run pfreg's command line in a process of its own."""
    command = [sys.executable, "-c", _COMMAND, *arguments]
    start = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=True
    )
    return Cost(time.perf_counter() - start, int(done.stderr.split()[-1]) / 1024)


def timed(call: object, *arguments: object) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call(*arguments)  # type: ignore[operator]
    return time.perf_counter() - start


def one_round(node: IpfsNode, gateway: str, folder: Path, count: int, size: int) -> dict[str, float]:
    """Measure one workload once."""
    source = folder / "source"
    source.mkdir()
    rng = random.Random()
    for number in range(count):
        (source / f"{number:05}").write_bytes(rng.randbytes(size))
    store = pfreg.Store(folder / "store")
    cid = str(pfreg.snapshot(source, store=store).cid)
    push = ["push", cid, "ipfs://", "--quiet", "--store", str(folder / "store"), "-o", f"rpc={node.rpc}"]
    known = pfreg.push(cid, "ipfs://", store=store, storage_options={"dry_run": True}).committed
    idle = run(["exists", str(folder)])
    first, again = run(push), run(push)
    if not node.pinned(str(known)):
        raise SystemExit("the push did not pin the CID that was known beforehand")
    by_gateway = ["pull", f"ipfs://{known}", "--quiet", "--store", str(folder / "a"), "-o", f"gateway_addr={gateway}"]
    by_rpc = ["pull", f"ipfs://{known}", "--quiet", "--store", str(folder / "b"), "-o", f"rpc={node.rpc}"]
    profile = ("--cid-version=1", "--raw-leaves", "--chunker=size-1048576")
    return {
        "node: add": timed(node.add, source, *profile),
        "push": first.wall,
        "push again": again.wall,
        "node: get": timed(node.get, node.add(source, *profile), folder / "got"),
        "pull by gateway": run(by_gateway).wall,
        "pull by rpc": run(by_rpc).wall,
        "push, memory more": first.memory - idle.memory,
    }


def main() -> None:
    """Print one table for each workload."""
    parser = argparse.ArgumentParser(description="pfreg on IPFS against the node's own commands")
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "node")
        home.mkdir()
        node = IpfsNode(installed(), home)
        node.start()
        try:
            with closing(TrustlessGateway(over_node(node.rpc))) as gateway:
                for name, (count, size) in WORKLOADS.items():
                    report(name, [measured(node, gateway.url, count, size) for _ in range(rounds)])
        finally:
            node.kill()


def measured(node: IpfsNode, gateway: str, count: int, size: int) -> dict[str, float]:
    """Measure one workload once, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return one_round(node, gateway, Path(folder), count, size)


def report(name: str, results: list[dict[str, float]]) -> None:
    """Print the medians of one workload, and the ratios to the node's own command."""
    median = {key: statistics.median(result[key] for result in results) for key in results[0]}
    print(f"\n{name}")
    for key, value in median.items():
        if "memory" in key:
            print(f"  {key:<18}{value:8.0f} MiB")
            continue
        peer = median["node: add" if "push" in key or "add" in key else "node: get"]
        print(f"  {key:<18}{value:8.2f} s  {value / peer:5.2f} x")


if __name__ == "__main__":
    main()
