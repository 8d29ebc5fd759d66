"""Pushing to and pulling from a double of the Hugging Face Hub: one transaction beside its client's own functions.

The peers are `HfApi.upload_folder` and `snapshot_download`.

Both speak through the same client to the same double (tests/servers/hf_hub), over LFS and over Xet; huggingface.co was
not measured. Each run is a process of its own, on a fresh repository: requests of the API, transfers, commits, wall
seconds without imports, and how far the peak memory rose. What was pulled is compared with what was pushed. Requests
and commits are exact; of the seconds, only the ratio within one table means anything.

    python benchmarks/hf.py             # 1,000 blobs of 4 KiB and 4 of 16 MiB; under a minute
    python benchmarks/hf.py --small     # 100 and 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TOOL_OPTION = "--tool"
REPOSITORY = "alice/image"
TOKEN = "hf_alice"


# -- the tools, each in a process of its own


def ours(verb: str, url: str, folder: str) -> None:
    from pfreg.filesystems.hf import HfCommitFileSystem

    fs = HfCommitFileSystem(endpoint=url, token=TOKEN)
    root = f"datasets/{REPOSITORY}@main"
    if verb == "pull":
        with ThreadPoolExecutor(8) as pool:  # as many as the engine uses, and as snapshot_download does
            names = fs.find(root)
            list(pool.map(fs.get_file, names, [os.path.join(folder, name[len(root) + 1 :]) for name in names]))
        return
    try:
        there = fs.find(f"{root}/blobs", detail=True)
    except FileNotFoundError:
        there = {}
    with fs.transaction:
        for path in files_below(folder):
            name = f"{root}/{os.path.relpath(path, folder)}"
            if name not in there or there[name]["size"] != os.path.getsize(path):
                fs.put_file(path, name)


def theirs(verb: str, url: str, folder: str) -> None:
    from huggingface_hub import HfApi, snapshot_download

    if verb == "pull":
        snapshot_download(REPOSITORY, repo_type="dataset", endpoint=url, token=TOKEN, local_dir=folder)
        return
    api = HfApi(endpoint=url, token=TOKEN)
    api.create_repo(REPOSITORY, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=REPOSITORY, repo_type="dataset", folder_path=folder)


TOOLS = {"pfreg": ours, "huggingface_hub": theirs}


def work(tool: str, verb: str, url: str, folder: str) -> None:
    """Do the work and say what it cost, as JSON."""
    import huggingface_hub.utils

    huggingface_hub.utils.disable_progress_bars()
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    TOOLS[tool](verb, url, folder)
    rose = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": time.perf_counter() - begin, "mib": rose / 1024}))


# -- what they work on


def files_below(folder: str) -> Iterator[str]:
    return (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)


def make_tree(folder: Path, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        digest = hashlib.sha256(number.to_bytes(8, "big")).hexdigest()
        path = folder / "blobs" / "sha256" / digest[:2] / f"{digest}.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for at in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - at)))
    (folder / "manifest.json").write_bytes(b"{}")
    (folder / "manifest.json.sig").write_bytes(b'{"signature":""}')


def contents(folder: str) -> dict[str, str]:
    """Return the digests of the files of an image, by path."""
    found = {}
    for path in files_below(folder):
        name = os.path.relpath(path, folder)
        if name.startswith(("blobs", "manifest")):
            with open(path, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@contextmanager
def environment(transport: str) -> Iterator[dict[str, str]]:
    """Give an environment without anybody's login or cache."""
    with tempfile.TemporaryDirectory(prefix="bench-hf-home-") as home:
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1" if transport == "lfs" else "0",
        }


def run(tool: str, verb: str, url: str, folder: Path, transport: str) -> dict[str, float]:
    with environment(transport) as variables:
        command = [sys.executable, __file__, TOOL_OPTION, tool, verb, url, str(folder)]
        done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True, timeout=600)
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def compare(transport: str, image: Path, scratch: Path) -> None:
    from tests.servers.hf_hub import Hub, Settings

    print(f"\n{transport}\n{'':18}{'':12}{'API':>6}{'transfers':>11}{'commits':>9}{'seconds':>9}{'MiB more':>10}")
    for tool in TOOLS:
        with Hub(scratch / f"{transport}-{tool}", Settings(xet=transport == "xet")) as hub:
            hub.add_user("alice")
            out = scratch / f"{transport}-{tool}-out"
            commits = 1
            for label, verb, folder in (("push", "push", image), ("push again", "push", image), ("pull", "pull", out)):
                hub.forget()
                cost = run(tool, verb, hub.url, folder, transport)
                made = len(hub.repository(REPOSITORY).git.log("main"))
                transfers = len(hub.calls) - len(hub.api_calls)
                print(
                    f"{tool:18}{label:12}{len(hub.api_calls):6}{transfers:11}{made - commits:9}"
                    f"{cost['seconds']:9.2f}{cost['mib']:10.0f}",
                    flush=True,
                )
                commits = made
            if contents(str(out)) != contents(str(image)):
                raise SystemExit(f"{tool} did not bring back what it pushed over {transport}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="100 blobs of 4 KiB and one of 16 MiB")
    parser.add_argument(TOOL_OPTION, nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tool:
        work(*arguments.tool)
        return
    few, large = (100, 1) if arguments.small else (1000, 4)
    with tempfile.TemporaryDirectory(prefix="bench-hf-") as scratch:
        image = Path(scratch) / "image"
        make_tree(image, [4096] * few + [16 << 20] * large)
        for transport in ("lfs", "xet"):
            compare(transport, image, Path(scratch))


if __name__ == "__main__":
    main()
