"""Pushing to and pulling from a real docker-registry: this filesystem beside oras-py and skopeo, in one run.

Each tool runs in a process of its own: wall seconds, for the two Python libraries without the interpreter's start and
imports (for skopeo with its own start, which is a few hundredths), and the peak resident memory of the whole process.
Each pushes into a fresh registry, on a RAM disk where there is one, so that the disk is not what is measured. The
results are ratios: the machine changes the seconds, and hardly the ratios. What was pulled is compared with what was
pushed.

    python benchmarks/oci.py            # about a minute; needs docker-registry, skopeo and `pip install oras`
    python benchmarks/oci.py --quick    # a tenth of everything
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOL_OPTION = "--tool"


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    peak_mib: float


# -- the three tools, each in a process of its own


def ours(verb: str, root: str, folder: str) -> float:
    from fsspec.asyn import sync

    from pfreg.filesystems.oci import OciFileSystem

    begin = time.perf_counter()
    fs = OciFileSystem()

    async def move(paths: list[str], one: Callable[..., object], turn: Callable[[str], tuple[str, str]]) -> None:
        queue = iter(paths)

        async def worker() -> None:
            for path in queue:
                await one(*turn(path))  # type: ignore[misc]

        await asyncio.gather(*[worker() for _ in range(16)])

    if verb == "pull":
        files = fs.find(root)
        sync(fs.loop, move, files, fs._get_file, lambda path: (path, folder + path.removeprefix(root)))
        return time.perf_counter() - begin
    # As the engine does it: what is listed under its name with its size is kept, the rest is sent.
    here = {f"{root}{path.removeprefix(folder)}": path for path in files_below(folder)}
    there = fs.find(root, detail=True) if fs.exists(root) else {}
    kept = [path for path, local in here.items() if path in there and there[path]["size"] == os.path.getsize(local)]
    with fs.transaction:
        fs.keep(kept)
        sync(fs.loop, move, sorted(set(here) - set(kept)), fs._put_file, lambda path: (here[path], path))
    return time.perf_counter() - begin


def oras(verb: str, root: str, folder: str) -> float:
    from oras.client import OrasClient

    begin = time.perf_counter()
    client = OrasClient(insecure=True)
    if verb == "pull":
        client.pull(target=root, outdir=folder)
    else:
        client.push(target=root, files=list(files_below(folder)), disable_path_validation=True)
    return time.perf_counter() - begin


def skopeo_command(verb: str, root: str, folder: str) -> list[str]:
    places = [f"oci:{folder}:v1", f"docker://{root}"]
    source, target = places if verb == "push" else reversed(places)
    return ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", source, target]


TOOLS = {"pfreg": ours, "oras-py": oras}


# -- what they work on


def files_below(folder: str) -> Iterator[str]:
    return (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)


def make_tree(folder: Path, sizes: list[int]) -> None:
    for size in sizes:
        digest = hashlib.sha256(os.urandom(16)).hexdigest()
        path = folder / "blobs" / "sha256" / digest[:2] / f"{digest}.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for at in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - at)))
    (folder / "manifest.json").write_bytes(b"{}")
    (folder / "manifest.json.sig").write_bytes(b"signature")


def contents(folder: str) -> list[str]:
    """Return the digests of all files: the tools name them differently."""
    found = []
    for path in files_below(folder):
        hasher = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                hasher.update(piece)
        found.append(hasher.hexdigest())
    return sorted(found)


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with open(folder / "registry.log", "wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder / "registry", ignore_errors=True)


def run(command: list[str]) -> Cost:
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read().decode().split()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    whole = time.perf_counter() - begin
    return Cost(float(said[-1]) if TOOL_OPTION in command else whole, usage.ru_maxrss / 1024)


def measure(tool: str, tree: Path, work: Path) -> dict[str, Cost]:
    """Push, push again and pull with one tool; check what came back."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    with registry(work) as host:
        root, source = f"{host}/bench/tree:v1", str(tree)
        if tool == "skopeo":
            source = str(work / "layout")
            shutil.rmtree(source, ignore_errors=True)
            with_ours = [sys.executable, __file__, TOOL_OPTION, "pfreg", "push", f"{host}/bench/prepare:v1", str(tree)]
            run(with_ours)
            run(skopeo_command("pull", f"{host}/bench/prepare:v1", source))

        def command(verb: str, folder: str) -> list[str]:
            if tool == "skopeo":
                return skopeo_command(verb, root, folder)
            return [sys.executable, __file__, TOOL_OPTION, tool, verb, root, folder]

        if tool == "skopeo":
            host_folder = work / "registry"
            shutil.rmtree(host_folder)  # what prepared the layout must not be there when it is pushed
        costs = {"push": run(command("push", source)), "re-push": run(command("push", source))}
        costs["pull"] = run(command("pull", str(out)))
        expected, got = contents(str(tree)), contents(str(out))
        # oras-py keeps files by their names alone, skopeo the manifest and its index beside the blobs.
        if tool == "skopeo":
            got = [digest for digest in got if digest in set(expected)]
        if got != expected:
            raise SystemExit(f"{tool} brought back something else")
    return costs


def report(title: str, costs: dict[str, dict[str, Cost]]) -> None:
    print(f"\n{title}\n")
    print(f"{'':10}" + "".join(f"{verb:>12}" for verb in ("push", "re-push", "pull", "peak MiB")))
    for tool, cost in costs.items():
        peak = max(c.peak_mib for c in cost.values())
        print(f"{tool:10}" + "".join(f"{c.seconds:11.2f}s" for c in cost.values()) + f"{peak:12.0f}")
    for other in list(costs)[1:]:
        ratios = (costs["pfreg"][verb].seconds / costs[other][verb].seconds for verb in ("push", "re-push", "pull"))
        print(f"pfreg / {other:10}" + "".join(f"{ratio:8.2f}" for ratio in ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(TOOL_OPTION, nargs=4, metavar=("TOOL", "VERB", "ROOT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tool:
        tool, verb, root, folder = options.tool
        print(TOOLS[tool](verb, root, folder))
        return
    part = 10 if options.quick else 1
    large = [1 << 20] * (200 // part) + [(256 // part) << 20]
    small = [1 << 10] * (5000 // part)
    ram = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=ram) as name:
        work = Path(name)
        for title, sizes, tools in (
            (f"{len(large) - 1} x 1 MiB + {large[-1] >> 20} MiB", large, ("pfreg", "oras-py", "skopeo")),
            (f"{len(small)} x 1 KiB", small, ("pfreg", "oras-py")),
        ):
            tree = work / "tree"
            make_tree(tree, sizes)
            report(title, {tool: measure(tool, tree, work) for tool in tools})
            shutil.rmtree(tree)


if __name__ == "__main__":
    main()
