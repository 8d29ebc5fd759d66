"""What pfreg is measured against: the original's SDK, restic, and the bare work that nothing can do without.

Each peer has the same verbs; a call to one does the whole job, as its user would have it done.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard

__all__ = ["Restic", "Sdk", "copy_and_sync", "verify_alone"]

_CHUNK = 1 << 20


class Sdk:
    """The original's SDK, ``pip install processfork``. It compresses at zstd's level 19, always, and syncs nothing."""

    name = "SDK"
    hint = "pip install processfork==1.0.15"

    def __init__(self) -> None:
        import processfork

        self._sdk = processfork

    def snapshot(self, folder: Path, store: Path) -> str:
        """Take a folder into a new store; return the CID."""
        opened = self._sdk.PfStore.open(str(store))
        return str(self._sdk.snapshot_filesystem(opened, "benchmark", str(folder), {}, []))

    def checkout(self, store: Path, cid: str, target: Path) -> None:
        """Write an image into a new folder."""
        self._sdk.checkout_filesystem(self._sdk.PfStore.open(str(store)), cid, str(target))


class Restic:
    """restic, Debian's package, with a local repository and its own defaults."""

    name = "restic"
    hint = "apt-get install restic"

    def __init__(self, cache: Path) -> None:
        if shutil.which("restic") is None:
            raise ImportError("restic")
        self._env = os.environ | {"RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(cache)}

    def init(self, repository: Path) -> None:
        """Make a repository."""
        self._run(repository, "init")

    def backup(self, folder: Path, repository: Path) -> None:
        """Take a folder into a repository."""
        self._run(repository, "backup", str(folder))

    def restore(self, repository: Path, target: Path) -> None:
        """Write what was taken last into a new folder."""
        self._run(repository, "restore", "latest", "--target", str(target))

    def _run(self, repository: Path, *arguments: str) -> None:
        command = ["restic", "--quiet", "--repo", str(repository), *arguments]
        subprocess.run(command, env=self._env, check=True, stdout=subprocess.DEVNULL)


def verify_alone(blobs: Sequence[Path]) -> None:
    """Decompress and hash stored blobs on all cores, and do nothing else.

    One blob alone is hashed on one core while another decompresses it, since a frame cannot be divided.
    """
    cores = os.cpu_count() or 1
    if len(blobs) == 1:
        with ThreadPoolExecutor(1) as second:
            hasher = hashlib.sha256()
            pending = second.submit(hasher.update, b"")
            for chunk in _chunks(blobs[0]):
                pending.result()
                pending = second.submit(hasher.update, chunk)
            pending.result()
        return
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(_verify_all, (blobs[start :: cores * 4] for start in range(cores * 4))))


def _verify_all(paths: Iterable[Path]) -> None:
    context = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    for path in paths:
        hasher = hashlib.sha256()
        for chunk in _chunks(path, context):
            hasher.update(chunk)


def _chunks(path: Path, context: zstandard.ZstdDecompressor | None = None) -> Iterable[bytes]:
    context = context or zstandard.ZstdDecompressor(max_window_size=1 << 27)
    with path.open("rb", buffering=0) as stream, context.stream_reader(stream, read_size=_CHUNK) as reader:
        while chunk := reader.read(_CHUNK):
            yield chunk


def copy_and_sync(source: Path, target: Path) -> None:
    """Copy a folder with the system's own tools and sync it: no durable copy can be faster, verified or not."""
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)
