"""The folders that the benchmarks snapshot: the same bytes on every run, nothing downloaded.

Rules
-----
- Random content comes from a seed; source text from the running Python's own library and packages, in sorted order.
- No two files have the same content, so that one file is one blob for everybody who is measured.
"""

from __future__ import annotations

import os
import random
import struct
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FULL", "QUICK", "DataSet", "fill", "part"]

KIB, MIB = 1 << 10, 1 << 20
_SEED = 20261123
_FILES_IN_FOLDER = 100


@dataclass(frozen=True, slots=True)
class DataSet:
    """A folder to make.

    Parameters
    ----------
    name : str
        What tables call it.
    kind : {"source", "floats", "random"}
        What is in the files.
    files : int
        How many.
    size : int
        Bytes of each; 0 where the files have their own.
    """

    name: str
    kind: str
    files: int
    size: int = 0

    @property
    def small(self) -> bool:
        """Whether the blobs are smaller than 1 MiB, so that the work per blob shows rather than the work per byte."""
        return self.size < MIB


FULL = (
    DataSet("source-2k", "source", 2_000),
    DataSet("source-10k", "source", 10_000),
    DataSet("floats-16K", "floats", 2_000, 16 * KIB),
    DataSet("random-1M", "random", 200, MIB),
    DataSet("random-512M", "random", 1, 512 * MIB),
)
QUICK = (
    DataSet("source-2k", "source", 20),
    DataSet("source-10k", "source", 200),
    DataSet("floats-16K", "floats", 20, 16 * KIB),
    DataSet("random-1M", "random", 4, MIB),
    DataSet("random-512M", "random", 1, 9 * MIB),
)


def part(data: DataSet) -> DataSet | None:
    """Return what of a data set is given to a peer that needs a minute for all of it; None if another one serves."""
    if data.name == "source-10k":
        return None  # a file of it costs what a file of source-2k costs
    return DataSet(data.name, data.kind, min(data.files, 500 if data.small else 50), min(data.size, 64 * MIB))


def fill(data: DataSet, folder: Path) -> int:
    """Write a data set into the new `folder`; return its bytes."""
    total = 0
    for number, (suffix, pieces) in enumerate(_contents(data)):
        path = folder / f"{number // _FILES_IN_FOLDER:03d}" / f"{number:05d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for piece in pieces:
                total += stream.write(piece)
    return total


def _contents(data: DataSet) -> Iterator[tuple[str, Iterator[bytes]]]:
    if data.kind == "source":
        for suffix, content in _sources(data.files):
            yield suffix, iter((content,))
        return
    make: Callable[[random.Random, int], bytes] = _floats if data.kind == "floats" else random.Random.randbytes
    for number in range(data.files):
        yield ".bin", _pieces(make, random.Random(_SEED + number), data.size)


def _pieces(make: Callable[[random.Random, int], bytes], rng: random.Random, size: int) -> Iterator[bytes]:
    for start in range(0, size, MIB):
        yield make(rng, min(MIB, size - start))


def _floats(rng: random.Random, size: int) -> bytes:
    """Return normally distributed weights as bfloat16: the upper halves of 32-bit floats."""
    wide = struct.pack(f"<{size // 2}f", *(rng.gauss(0.0, 0.02) for _ in range(size // 2)))
    narrow = bytearray(size)
    narrow[0::2], narrow[1::2] = wide[2::4], wide[3::4]
    return bytes(narrow)


def _sources(wanted: int) -> Iterator[tuple[str, bytes]]:
    """Yield source files of this Python; once there are no more, the same again, each with a line of its own on top."""
    paths = _source_paths()
    seen: set[bytes] = set()
    for turn in range(wanted):
        for path in paths:
            content = (b"# turn %d\n" % turn if turn else b"") + path.read_bytes()
            if content in seen:
                continue
            seen.add(content)
            yield ".py", content
            if len(seen) == wanted:
                return


def _source_paths() -> list[Path]:
    found: list[Path] = []
    for top in dict.fromkeys(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")):
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            paths = (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
            found.extend(path for path in paths if path.is_file() and 0 < path.stat().st_size <= MIB)
    return list(dict.fromkeys(found))
