"""moto's S3: quick to start, and good for what needs no judge. Whatever is about checks of the server uses SeaweedFS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.servers.running import free_port, missing


@contextmanager
def moto_s3() -> Iterator[dict[str, Any]]:
    """Run a server that is empty but for the bucket ``images``; give the ``storage_options`` for it."""
    import s3fs

    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        missing("moto is not installed: pip install 'moto[server]'")
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "access-key-1", "secret": "hidden-secret-of-s3"}
    try:
        with suppress(FileExistsError):  # all servers in one process hold the same
            s3fs.S3FileSystem(**options, skip_instance_cache=True).mkdir("images")
        yield options
    finally:
        server.stop()
