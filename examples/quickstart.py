"""What pfreg does, on a real tree: this Python's own standard library.

It is snapshotted into a store, pushed to a registry in a folder, pulled into a second store, cloned without a store,
compared byte by byte, and pushed again, which sends nothing. Everything happens in a temporary folder::

    python examples/quickstart.py [FOLDER]
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pfreg
from pfreg.progress import Bar, human

T = TypeVar("T")

# Installed packages and caches are no part of the standard library; a real agent's folder would be taken as it is.
EXCLUDE = ["site-packages/", "dist-packages/", "__pycache__/"]


def main(folder: Path) -> None:
    """Run every step on `folder`, and print a table of what happened."""
    rows: list[tuple[str, str, float]] = []

    def step(name: str, run: Callable[[Bar | None], T], tell: Callable[[T], str]) -> T:
        bar = Bar.on_terminal(name, sys.stderr)
        start = time.perf_counter()
        result = run(bar)
        seconds = time.perf_counter() - start
        if bar is not None:
            bar.close()
        rows.append((name, tell(result), seconds))
        return result

    with tempfile.TemporaryDirectory(prefix="pfreg-quickstart-") as temporary:
        here = Path(temporary)
        first, second, registry, out = pfreg.Store(here / "a"), pfreg.Store(here / "b"), here / "registry", here / "out"
        image = step(
            "snapshot",
            lambda bar: pfreg.snapshot(folder, store=first, agent_kind="quickstart", exclude=EXCLUDE, callback=bar),
            lambda r: f"{r.files} files, {r.folders} folders, {r.links} links, {human(r.size)}",
        )
        step(
            "push",
            lambda bar: pfreg.push(image, registry, store=first, callback=bar),
            lambda r: f"{r.sent} blobs, {human(r.sent_bytes)} sent",
        )
        step(
            "pull",
            lambda bar: pfreg.pull(registry, store=second, callback=bar),
            lambda r: f"{r.received} blobs, {human(r.received_bytes)} received and verified",
        )
        step(
            "clone",
            lambda bar: pfreg.clone(registry, out, set_id="keep", callback=bar),
            lambda r: f"{r.files} files, {human(r.size)} written",
        )
        step("compare", lambda _: compare(folder, out), lambda n: f"{n} entries: every byte, mode and link is the same")
        again = step(
            "push again",
            lambda bar: pfreg.push(image, registry, store=first, callback=bar),
            lambda r: f"{r.sent} blobs sent, {r.skipped} were there",
        )
        assert again.sent == 0, "a second push must send nothing"
        step(
            "verify",
            lambda bar: pfreg.verify(registry, callback=bar),
            lambda r: f"{r.blobs} blobs read where they lie; {r.trust.status if r.trust else ''}",
        )
    print(f"{folder}\n{image.cid}\n")
    for name, text, seconds in rows:
        print(f"{name:<11} {seconds:7.2f} s  {text}")


def compare(folder: Path, out: Path) -> int:
    """Compare two folders, but for what was excluded; return how many entries they have."""
    excluded = {pattern.rstrip("/") for pattern in EXCLUDE}
    left, right = (dict(entries(root, excluded)) for root in (folder, out))
    different = sorted(path for path in left.keys() | right.keys() if left.get(path) != right.get(path))
    if different:
        raise SystemExit(f"{len(different)} entries differ, the first: {different[0]}")
    return len(left)


def entries(root: Path, excluded: set[str]) -> list[tuple[str, tuple[object, ...]]]:
    """Return every entry below `root`: its path, its mode, and its content or target."""
    found: list[tuple[str, tuple[object, ...]]] = []
    for current, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in excluded]
        for name in (*folders, *files):
            path = Path(current, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            found.append((path.relative_to(root).as_posix(), (status.st_mode, content)))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_paths()["stdlib"]))
