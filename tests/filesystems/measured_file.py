"""Put or get one large file, and print how much memory that took above what a small one left behind, in KiB.

``python -m tests.filesystems.measured_file put|get URL OPTIONS FILE``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fsspec.callbacks import NoOpCallback

from pfreg.reference import locate
from tests.faults.measured import peak

SMALL = 6 << 20  # what takes the way of a large one already, so that all is imported


def do(verb: str, url: str, options: str, file: str) -> int:
    """Do it."""
    at = locate(url, storage_options=json.loads(options))
    small = Path(f"{file}.small")
    small.write_bytes(bytes(SMALL))
    for local, name in ((str(small), "small"), (file, "large")):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak()
        if verb == "put":
            at.files.write_from(local, f"{at.path}/{name}", callback=NoOpCallback())
        else:
            at.files.read_to(f"{at.path}/{name}", f"{local}.got", limit=1 << 40, callback=NoOpCallback())
    return peak() - before


if __name__ == "__main__":
    print(do(*sys.argv[1:]))
