"""Azurite, Microsoft's own emulator of Azure's Blob service: installed once from npm, run on a port of its own.

It checks signatures and what a token permits.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.running import answers, free_port, missing, program, start, stop

PACKAGE = "azurite@3.37.0"
CONTAINER = "images"

# The account that Azurite documents; anybody may know it.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def installed() -> Path:
    """Return Azurite's blob server: from ``PFREG_AZURITE``, else from where :func:`install` put it."""
    program("node", install="Node.js 20 or later, with npm")
    given = os.environ.get("PFREG_AZURITE")
    main = Path(given or _cache()) / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    if not main.exists() or not (given or (_cache() / "complete").exists()):
        missing("Azurite is not installed: python -m tests.servers.azurite (370 MB, from npm)")
    return main


def install(*, timeout: float = 900.0) -> None:
    """Install Azurite into the user's cache, unless it is there."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # several test runs share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--silent", PACKAGE]
            subprocess.run(command, timeout=timeout, check=True, stdout=subprocess.DEVNULL)
            (folder / "complete").touch()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pfreg-tests" / PACKAGE


@dataclass(frozen=True, slots=True)
class BlobServer:
    """A running server.

    Parameters
    ----------
    url : str
        The account's endpoint.
    """

    url: str

    def options(self, **more: Any) -> dict[str, Any]:
        """Return the ``storage_options`` of the account's owner."""
        return {"connection_string": self._string(f"AccountName={ACCOUNT};AccountKey={KEY}")} | more

    def token(self, permission: str) -> dict[str, Any]:
        """Return the ``storage_options`` of somebody who may do only this: ``rl`` is to read and list."""
        from azure.storage.blob import generate_container_sas

        expiry = "2100-01-01T00:00:00Z"
        sas = generate_container_sas(ACCOUNT, CONTAINER, account_key=KEY, permission=permission, expiry=expiry)
        return {"connection_string": self._string(f"SharedAccessSignature={sas}")}

    def _string(self, credentials: str) -> str:
        return f"DefaultEndpointsProtocol=http;BlobEndpoint={self.url};{credentials};"


@contextmanager
def azurite(folder: Path) -> Iterator[BlobServer]:
    """Run a server that is empty but for the container ``images``."""
    main, port = installed(), free_port()
    command = ["node", str(main), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    # Microsoft's library speaks newer versions of the protocol than its emulator knows of.
    command += ["--skipApiVersionCheck", "--inMemoryPersistence", "--silent", "--disableTelemetry"]
    server = start(command, log=folder / "log", ready=lambda: answers(port), seconds=90)
    try:
        made = BlobServer(f"http://127.0.0.1:{port}/{ACCOUNT}")
        _make_container(made)
        yield made
    finally:
        stop(server)


def _make_container(server: BlobServer) -> None:
    import adlfs

    adlfs.AzureBlobFileSystem(**server.options(), skip_instance_cache=True).mkdir(CONTAINER)


if __name__ == "__main__":
    install()
