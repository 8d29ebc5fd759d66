"""One job of pfreg, or of s3fs, on S3, as a process of its own: what ``s3.py`` starts and measures.

Rules
-----
- Printed is what the job took without the interpreter's start and the imports: that is what one library costs beside
  another. What the whole process took is measured by who starts it.
- Keys, endpoint and region come from the environment, where the command-line tools look for them too.
- s3fs gets explicit lists of files and its own defaults.
- With ``--profile FILE``, what every thread did is written to a file, and the times mean little.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import os
import pstats
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

JOB = "job: "
"""What the line begins with that says what the job took."""

Job = Callable[[], object]


def options() -> dict[str, Any]:
    """Return the ``storage_options`` that the environment says."""
    return {
        "key": os.environ["AWS_ACCESS_KEY_ID"],
        "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
    }


def push(store: str, cid: str, place: str) -> Job:
    """Push an image."""
    import pfreg

    _import_client()
    return lambda: pfreg.push(cid, f"s3://{place}", store=store, storage_options=options())


def pull(place: str, store: str) -> Job:
    """Pull an image into a new store."""
    import pfreg

    _import_client()
    return lambda: pfreg.pull(f"s3://{place}", store=store, storage_options=options())


def tree(folder: str, store: str, place: str) -> Job:
    """Take a folder into a new store, and push it."""
    import pfreg

    _import_client()
    return lambda: pfreg.push(
        pfreg.snapshot(folder, store=store), f"s3://{place}", store=store, storage_options=options()
    )


def s3fs_put(folder: str, place: str) -> Job:
    """Upload all files of a folder with ``S3FileSystem.put``."""
    import s3fs

    local = [str(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    remote = [f"{place}/{os.path.relpath(path, folder)}" for path in local]
    return lambda: s3fs.S3FileSystem(**options()).put(local, remote)


def s3fs_get(listing: str, place: str, target: str) -> Job:
    """Download, with ``S3FileSystem.get``, the files that are below the local folder `listing`."""
    import s3fs

    names = [os.path.relpath(path, listing) for path in sorted(Path(listing).rglob("*")) if path.is_file()]
    remote, local = [f"{place}/{name}" for name in names], [f"{target}/{name}" for name in names]
    return lambda: s3fs.S3FileSystem(**options()).get(remote, local)


JOBS: dict[str, Callable[..., Job]] = {
    "push": push,
    "pull": pull,
    "tree": tree,
    "s3fs-put": s3fs_put,
    "s3fs-get": s3fs_get,
}


def _import_client() -> None:
    if os.environ.get("PFREG_S3") == "obstore":
        import obstore.store  # noqa: F401
    else:
        import s3fs  # noqa: F401


@contextlib.contextmanager
def profiled(file: str | None) -> Iterator[None]:
    """Profile this thread and those that start in the block, and write what they did to `file`."""
    if file is None:
        yield
        return
    profiles: dict[str, list[cProfile.Profile]] = defaultdict(list)

    def begin(*_: object) -> None:
        profile = cProfile.Profile(time.thread_time)
        profiles[threading.current_thread().name.rpartition("_")[0] or "others"].append(profile)
        profile.enable()

    threading.setprofile(begin)  # its first call, in the new thread, puts a profiler in its own place
    begin()
    try:
        yield
    finally:
        threading.setprofile(None)
        Path(file).write_text("".join(_report(name, of_pool) for name, of_pool in sorted(profiles.items())))


class _Snapshot:
    """What a profiler has seen so far. Stopping it from another thread would spoil its times."""

    def __init__(self, profile: cProfile.Profile) -> None:
        profile.snapshot_stats()
        self.stats = profile.stats

    def create_stats(self) -> None:
        """Do nothing: they are there."""


def _report(name: str, profiles: Sequence[cProfile.Profile]) -> str:
    text = io.StringIO()
    seen: list[Any] = [_Snapshot(profile) for profile in profiles]
    stats = pstats.Stats(*seen, stream=text)
    stats.strip_dirs().sort_stats("tottime").print_stats(25).sort_stats("cumtime").print_stats(25)
    return f"-- threads {name}\n{text.getvalue()}"


def main() -> None:
    """Do one job, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", metavar="FILE")
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("arguments", nargs="+")
    given = parser.parse_args()
    job = JOBS[given.job](*given.arguments)
    with profiled(given.profile):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        job()
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(JOB + json.dumps({"wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main()
