"""How fast pfreg is on local folders, beside its peers, in one run.

It is run so::

    python -m benchmarks.local            # everything: about 10 minutes on two cores
    python -m benchmarks.local --quick    # small data sets: exercises all of this, and its figures mean nothing

Each line compares pfreg with a peer on the same bytes, prints wall and CPU seconds of both, and the figure that a goal
is about with its verdict. ``measuring.py`` says how it is measured, ``datasets.py`` on what, ``peers.py`` against whom.
The SDK's snapshot, which takes 50 ms of CPU for a file of any size, is measured once, not by turns, and on a part of
each data set: the first 500 of the small files, 50 MiB and 64 MiB of the large ones. So is ours beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zstandard

import pfreg
from benchmarks.datasets import FULL, QUICK, DataSet, fill, part
from benchmarks.measuring import Row, Sample, by_turns, line, sample
from benchmarks.peers import Restic, Sdk, copy_and_sync, verify_alone

FORKS = 12


@dataclass
class Bench:
    """One run: where it works, what it measures and against whom."""

    folder: Path
    sets: tuple[DataSet, ...]
    turns: int
    sdk: Sdk | None
    restic: Restic | None
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _scratch: list[Path] = field(default_factory=list)
    _images: dict[str, tuple[Path, pfreg.Snapshotted]] = field(default_factory=dict)

    def fresh(self, name: str) -> Path:
        """Return a path where nothing is yet."""
        return self.folder / f"{next(self._numbers):04d}-{name}"

    def scratch(self, name: str, data: DataSet) -> Path:
        """Return a path where nothing is yet, for one turn; of few large files, what earlier turns left is removed.

        They would fill the disk; and a virtual machine is slow to give memory for caching them that it never gave.
        """
        if not data.small:
            for path in self._scratch:
                shutil.rmtree(path, ignore_errors=True)
            self._scratch.clear()
        path = self.fresh(name)
        self._scratch.append(path)
        return path

    def source(self, data: DataSet) -> Path:
        """Return the folder with a data set, made on first use."""
        folder = self.folder / f"data-{data.name}-{data.files}-{data.size}"
        if not folder.exists():
            fill(data, folder)
        return folder

    def image(self, data: DataSet) -> tuple[Path, pfreg.Snapshotted]:
        """Return a store with an image of a data set."""
        if data.name not in self._images:
            store = self.fresh("store")
            self._images[data.name] = store, pfreg.snapshot(self.source(data), store=store)
        return self._images[data.name]

    def named(self, name: str) -> DataSet:
        """Return one of the data sets."""
        return next(data for data in self.sets if data.name == name)


def snapshot_and_sdk(bench: Bench) -> Iterator[Row]:
    """Snapshot at our level, and at the SDK's, against the SDK."""
    if bench.sdk is None:
        return
    sdk = bench.sdk
    for whole in bench.sets:
        if (data := part(whole)) is None:
            continue
        folder = bench.source(data)

        def ours(level: int, folder: Path = folder, data: DataSet = data) -> Callable[[], object]:
            store = pfreg.Store(bench.scratch("store", data), level=level)
            return lambda: pfreg.snapshot(folder, store=store)

        def theirs(folder: Path = folder, data: DataSet = data) -> Callable[[], object]:
            store = bench.scratch("sdk", data)
            return lambda: sdk.snapshot(folder, store)

        slow = by_turns(1, {"sdk": theirs, "19": lambda: ours(19)})
        fast = by_turns(bench.turns, {"3": lambda: ours(pfreg.DEFAULT_LEVEL)})
        for level, took in (("3", fast["3"]), ("19", slow["19"])):
            goal = (100.0 if data.small else None) if level == "3" else 10.0 if data.name.startswith("floats") else 1.0
            yield _times(f"snapshot, level {level}", data, took, sdk.name, slow["sdk"], goal)


def snapshot_and_restic(bench: Bench) -> Iterator[Row]:
    """Snapshot against ``restic backup``, and checkout against ``restic restore``."""
    if bench.restic is None:
        return
    restic = bench.restic
    for data in bench.sets:
        folder, (store, image) = bench.source(data), bench.image(data)
        repository = bench.fresh("restic")
        restic.init(repository)
        restic.backup(folder, repository)

        def snapshot(folder: Path = folder, data: DataSet = data) -> Callable[[], object]:
            store = bench.scratch("store", data)
            return lambda: pfreg.snapshot(folder, store=store)

        def backup(folder: Path = folder, data: DataSet = data) -> Callable[[], object]:
            new = bench.scratch("restic", data)
            restic.init(new)
            return lambda: restic.backup(folder, new)

        def checkout(
            store: Path = store, image: pfreg.Snapshotted = image, data: DataSet = data
        ) -> Callable[[], object]:
            target = bench.scratch("out", data)
            return lambda: pfreg.checkout(image, target, store=store)

        def restore(repository: Path = repository, data: DataSet = data) -> Callable[[], object]:
            target = bench.scratch("out", data)
            return lambda: restic.restore(repository, target)

        took = by_turns(bench.turns, {"us": snapshot, "restic": backup})
        yield _times("snapshot", data, took["us"], "restic", took["restic"], 1.0)
        took = by_turns(bench.turns, {"us": checkout, "restic": restore})
        yield _times("checkout", data, took["us"], "restic", took["restic"], None)


def checkout_and_sdk(bench: Bench) -> Iterator[Row]:
    """Checkout against the SDK's, both from a store that pfreg wrote, which the SDK reads."""
    if bench.sdk is None:
        return
    sdk = bench.sdk
    for data in bench.sets:
        store, image = bench.image(data)

        def ours(store: Path = store, image: pfreg.Snapshotted = image, data: DataSet = data) -> Callable[[], object]:
            target = bench.scratch("out", data)
            return lambda: pfreg.checkout(image, target, store=store)

        def theirs(store: Path = store, image: pfreg.Snapshotted = image, data: DataSet = data) -> Callable[[], object]:
            target = bench.scratch("out", data)
            return lambda: sdk.checkout(store, str(image), target)

        took = by_turns(bench.turns, {"us": ours, "sdk": theirs})
        yield _times("checkout", data, took["us"], sdk.name, took["sdk"], 1 / 1.5 if data.small else 1.0)


def push_and_pull(bench: Bench) -> Iterator[Row]:
    """Push and pull against the bare work: decompressing and hashing, and copying and syncing."""
    for data in bench.sets:
        store, image = bench.image(data)
        root = bench.fresh("root")
        pfreg.push(image, root, store=store)
        least = 0 if data.small else data.size
        blobs = [path for path in sorted(store.glob("blobs/sha256/*/*.zst")) if path.stat().st_size >= least]

        def push(store: Path = store, image: pfreg.Snapshotted = image, data: DataSet = data) -> Callable[[], object]:
            target = bench.scratch("root", data)
            return lambda: pfreg.push(image, target, store=store)

        def pull(root: Path = root, data: DataSet = data) -> Callable[[], object]:
            target = bench.scratch("store", data)
            return lambda: pfreg.pull(root, store=target)

        def verify(blobs: list[Path] = blobs) -> Callable[[], object]:
            return lambda: verify_alone(blobs)

        def copy(root: Path = root, data: DataSet = data) -> Callable[[], object]:
            target = bench.scratch("copy", data)
            return lambda: copy_and_sync(root, target)

        took = by_turns(bench.turns, {"push": push, "pull": pull, "verify": verify, "copy": copy})
        for what in ("push", "pull"):
            ours, speed = took[what], 100 * took["verify"].wall / took[what].wall
            goal = None if data.small else 60.0
            yield Row(what, data.name, ours, "zstd+sha256", took["verify"], speed, "% of its speed", goal)
            yield _times(what, data, ours, "cp -r; sync", took["copy"], None)
            if data.name.startswith("floats"):
                each = 1000 * ours.cpu / data.files
                yield Row(what, data.name, ours, figure=each, unit="ms CPU a blob", goal=0.2, at_least=False)


def forks(bench: Bench) -> Iterator[Row]:
    """Twelve forks of one image, one file changed in each: the first pushed whole, the others with ``base=``."""
    data = bench.named("source-10k")
    store, _ = bench.image(data)
    images = list(_forked(bench.source(data), bench.fresh("forks"), store))
    samples: list[tuple[Sample, Sample, float]] = []
    for _ in range(bench.turns):
        roots = [bench.fresh("root") for _ in images]
        sent: list[int] = []

        def push(numbers: range, roots: list[Path] = roots, sent: list[int] = sent) -> None:
            for number in numbers:
                base = roots[0] if number else None
                sent.append(pfreg.push(images[number], roots[number], store=store, base=base).sent_bytes)

        one, others = sample(lambda: push(range(1))), sample(lambda: push(range(1, FORKS)))
        together = Sample(one.wall + others.wall, one.cpu + others.cpu)
        samples.append((one, together, sum(sent) / sent[0]))
    one, together, size = min(samples, key=lambda found: found[1].wall)
    wall = together.wall / one.wall
    yield Row("12 forks, base=", data.name, together, "one push", one, size, "x its bytes", 1.05, at_least=False)
    yield Row("12 forks, base=", data.name, together, "one push", one, wall, "x its wall", 1.5, at_least=False)


def again(bench: Bench) -> Iterator[Row]:
    """Push and pull once more what is all there."""
    data = bench.named("source-10k")
    store, image = bench.image(data)
    root, other = bench.fresh("root"), bench.fresh("store")
    pfreg.push(image, root, store=store)
    pfreg.pull(root, store=other)
    took = by_turns(
        bench.turns,
        {
            "push again": lambda: lambda: pfreg.push(image, root, store=store),
            "pull again": lambda: lambda: pfreg.pull(root, store=other),
        },
    )
    for what, ours in took.items():
        yield Row(what, data.name, ours, figure=ours.wall, unit="s", goal=0.5, at_least=False)


SECTIONS = {
    "sdk": snapshot_and_sdk,
    "restic": snapshot_and_restic,
    "checkout": checkout_and_sdk,
    "push": push_and_pull,
    "forks": forks,
    "again": again,
}


def _times(what: str, data: DataSet, ours: Sample, peer: str, theirs: Sample, goal: float | None) -> Row:
    return Row(what, data.name, ours, peer, theirs, theirs.wall / ours.wall, "x as fast", goal)


def _forked(source: Path, folder: Path, store: Path) -> Iterator[pfreg.Snapshotted]:
    shutil.copytree(source, folder)
    first = min(path for path in folder.rglob("*") if path.is_file())
    original = first.read_bytes()
    for number in range(FORKS):
        first.write_bytes(b"# fork %d\n" % number + original)
        yield pfreg.snapshot(folder, store=store)


def _environment(bench: Bench) -> dict[str, Any]:
    restic = subprocess.run(["restic", "version"], capture_output=True, text=True, check=True) if bench.restic else None
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(bench.folder)], capture_output=True, text=True, check=False)
    return {
        "pfreg": pfreg.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "file system": kind.stdout.strip() or "unknown",
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "restic": restic.stdout.strip() if restic else "not installed",
        "turns": bench.turns,
        "load before": [round(load, 1) for load in os.getloadavg()],
    }


def _peer(make: Callable[[], Any], hint: str, name: str) -> Any:
    try:
        return make()
    except ImportError:
        print(f"without {name}: {hint}", file=sys.stderr)
        return None


def main() -> int:
    """Measure, print, and tell how many goals were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small data sets, for CI")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--turns", type=int, help="how often each thing is measured; 3, and 1 with --quick")
    parser.add_argument("--workdir", help="where to work (12 GB); a temporary folder by default")
    parser.add_argument(
        "--only", choices=sorted(SECTIONS), nargs="+", default=list(SECTIONS), help="some sections only"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pfreg-benchmark-", dir=arguments.workdir) as temporary:
        folder = Path(temporary)
        sdk = _peer(Sdk, Sdk.hint, Sdk.name)
        restic = _peer(lambda: Restic(folder / "restic-cache"), Restic.hint, Restic.name)
        turns = arguments.turns or (1 if arguments.quick else 3)
        bench = Bench(folder, QUICK if arguments.quick else FULL, turns, sdk, restic)
        environment, rows = _environment(bench), []
        if not arguments.json:
            print("\n".join(f"{name}: {value}" for name, value in environment.items()), flush=True)
        for name in arguments.only:
            for row in SECTIONS[name](bench):
                rows.append(row)
                if not arguments.json:
                    print(line(row), flush=True)
    environment["load after"] = [round(load, 1) for load in os.getloadavg()]
    judged = [row.met for row in rows if row.met is not None]
    if arguments.json:
        print(json.dumps({**environment, "rows": [asdict(row) | {"met": row.met} for row in rows]}, indent=1))
    else:
        print(f"load after: {environment['load after']}\n{sum(judged)} of {len(judged)} goals met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
