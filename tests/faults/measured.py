"""Do one thing to an image with a blob of 1 GiB, and print how much memory it took above an idle process, in KiB.

``python -m tests.faults.measured VERB FOLDER``
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pfreg

SIZE = 1 << 30


def peak() -> int:
    """Return the most memory that this process ever had, in KiB.

    Not ``ru_maxrss``: on Linux a child inherits that of the process which started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        scale = 1024 if sys.platform == "darwin" else 1
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // scale
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def do(verb: str, folder: str) -> None:
    """Do it."""
    tree, store, root = f"{folder}/tree", f"{folder}/store", f"{folder}/root"
    if verb == "snapshot":
        print(pfreg.snapshot(tree, store=store).cid)
    elif verb == "push":
        pfreg.push(pfreg.Store(store).images()[0], root, store=store)
    elif verb == "pull":
        pfreg.pull(root, store=f"{folder}/pulled")
    elif verb == "copy":
        pfreg.copy(root, f"{folder}/copy")
    elif verb == "clone":
        pfreg.clone(root, f"{folder}/clone")
    elif verb == "verify":
        pfreg.verify(root)
    else:
        raise SystemExit(f"no such verb: {verb}")


if __name__ == "__main__":
    idle = peak()
    do(*sys.argv[1:])
    print(peak() - idle)
