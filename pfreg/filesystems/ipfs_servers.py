"""The two kinds of IPFS server: a trustless gateway, which gives blocks, and a node's RPC, which takes them as well.

Rules
-----
- A server is asked for blocks by CID and believed in nothing else: no header, no listing, no size. Whoever uses these
  classes checks each block against its CID (``dag.py`` does).
- The one exception is a name (``ipns://``), which no hash covers: its resolution is the server's word.
- A node says "done" in three ways that are not: status 200 with an error in the stream, a pin that failed
  (``PinErrorMsg``), and a stream that ends early. A root counts as pinned only if the answer names it, without error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Protocol

from multiformats import CID

from pfreg.errors import TransferError, UnsupportedRegistry, one_line
from pfreg.filesystems import cids
from pfreg.filesystems.ipfs_http import Answer, Body, Client

__all__ = ["BLOCK_LIMIT", "BlockSource", "Gateway", "Node"]

BLOCK_LIMIT = 4 << 20
"""Bytes that a block may have; IPFS itself exchanges none above 2 MiB."""

_TEXT_LIMIT = 1 << 20
_PATIENCE = 0.5  # seconds that a node has to say whether it holds a block
_ENOUGH_MISSES = 8


class BlockSource(Protocol):
    """What a reader needs of a server."""

    async def block(self, cid: CID) -> bytes | None:
        """Return what the server says is the block `cid`, unverified; None if it says that there is none."""

    async def resolve(self, name: str) -> str:
        """Return the path (``CID[/path]``) that `name` stands for now."""


class Gateway:
    """A trustless gateway, asked with ``?format=raw`` only.

    Parameters
    ----------
    client : Client
        For its address.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def block(self, cid: CID) -> bytes | None:
        """See :class:`BlockSource`."""
        path = f"ipfs/{cids.text(cid)}"
        answer = await self._client.get(path, {"format": "raw"}, limit=BLOCK_LIMIT)
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise TransferError(f"{self._client.endpoint.origin} answers {answer.status}", operation=f"GET {path}")
        return answer.data

    async def resolve(self, name: str) -> str:
        """See :class:`BlockSource`."""
        answer = await self._client.get(f"ipns/{name}", {"format": "raw"}, limit=BLOCK_LIMIT)
        if answer.status in (404, 410):
            raise FileNotFoundError(f"{self._client.endpoint.origin} knows no name {one_line(name)}")
        roots = {key.lower(): value for key, value in answer.headers.items()}.get("x-ipfs-roots", "")
        if answer.status != 200 or not roots:
            raise TransferError(f"{self._client.endpoint.origin} does not resolve names", operation=f"ipns/{name}")
        return roots.rpartition(",")[2].strip()


class Node:
    """A node's RPC (``/api/v0``).

    Parameters
    ----------
    client : Client
        For its address.
    pin_seconds : float
        What the node may take to walk a whole image when it pins it.

    Attributes
    ----------
    misses : int
        Questions in a row about a block that the node let hang; see :meth:`has`.
    """

    def __init__(self, client: Client, *, pin_seconds: float = 600.0) -> None:
        self._client = client
        self._pin_seconds = pin_seconds
        self.misses = 0

    async def block(self, cid: CID) -> bytes | None:
        """See :class:`BlockSource`. A node that cannot say "absent" fails instead, after its time-out."""
        params = {"arg": cids.text(cid), "timeout": f"{self._client.endpoint.timeout:.3f}s"}
        answer = await self._call("block/get", params, limit=BLOCK_LIMIT)
        return self._succeeded(answer, "block/get").data

    async def resolve(self, name: str) -> str:
        """See :class:`BlockSource`."""
        params = {"arg": f"/ipns/{name}", "recursive": "true", "timeout": f"{self._client.endpoint.timeout:.3f}s"}
        rows = self._rows(await self._call("name/resolve", params, limit=_TEXT_LIMIT), "name/resolve")
        path = next((row["Path"] for row in rows if isinstance(row.get("Path"), str)), "")
        if not path.startswith("/ipfs/"):
            raise TransferError(f"{self._client.endpoint.origin} resolves {one_line(name)} to nothing")
        return path.removeprefix("/ipfs/")

    async def has(self, cid: CID) -> bool:
        """Say whether the node itself holds the block `cid`.

        False only costs a transfer, so it is also the answer when the node does not say. js-ipfs ignores
        ``offline=true`` and lets each question about a missing block hang: after some of those in a row it is asked no
        more, which makes a first push as fast as the node can take blocks.
        """
        if self.misses >= _ENOUGH_MISSES:
            return False
        params = {"arg": cids.text(cid), "offline": "true", "timeout": f"{_PATIENCE:.3f}s"}
        asked = time.monotonic()
        answer = await self._call("block/stat", params, limit=_TEXT_LIMIT)
        if answer.status == 200:
            self.misses = 0
            return True
        if time.monotonic() - asked > 0.9 * _PATIENCE:
            self.misses += 1
        return False

    async def pins(self, root: CID) -> bool:
        """Say whether the node pins `root` and everything below it; False, too, when it does not say."""
        answer = await self._call("pin/ls", {"arg": cids.text(root), "type": "recursive"}, limit=_TEXT_LIMIT)
        return answer.status == 200

    async def add(self, blocks: Body, size: int) -> None:
        """Send a CAR of `size` bytes, pinning nothing.

        Raises
        ------
        AccessDenied, TransferError
            If the node refused it or failed.
        """
        seconds = self._client.upload_seconds(size)
        answer = await self._call(
            "dag/import", {"pin-roots": "false", "offline": "true"}, limit=_TEXT_LIMIT, body=blocks, seconds=seconds
        )
        self._rows(answer, "dag/import")

    async def pin(self, root: CID, blocks: Body, size: int) -> None:
        """Send the last CAR of an image and pin `root`, which must be the root in its header.

        Raises
        ------
        AccessDenied, TransferError
            If the node did not confirm that `root`, with everything below it, is pinned.
        """
        seconds = self._client.upload_seconds(size) + self._pin_seconds
        params = {"pin-roots": "true", "offline": "true", "timeout": f"{self._pin_seconds:.3f}s"}
        answer = await self._call("dag/import", params, limit=_TEXT_LIMIT, body=blocks, seconds=seconds)
        rows = [row["Root"] for row in self._rows(answer, "dag/import") if isinstance(row.get("Root"), dict)]
        problem = "it confirmed no root"
        for row in rows:
            named = row.get("Cid")
            if isinstance(named, dict) and named.get("/") == cids.text(root):
                problem = row.get("PinErrorMsg") or ""
        if problem:
            raise TransferError(
                f"{self._client.endpoint.origin} did not pin {cids.text(root)}: {one_line(str(problem))}",
                operation="pin",
                hint="push again: blocks that the node lost are sent anew",
            )

    async def pin_remotely(self, root: CID, service: str) -> str:
        """Ask the node to have `root` pinned by the remote `service`; return the status that it reports."""
        params = {"arg": cids.text(root), "service": service, "background": "true"}
        rows = self._rows(await self._call("pin/remote/add", params, limit=_TEXT_LIMIT), "pin/remote/add")
        return next((one_line(str(row["Status"])) for row in rows if "Status" in row), "unknown")

    async def _call(
        self, command: str, params: Mapping[str, str], *, limit: int, body: Body | None = None, seconds: float = 0.0
    ) -> Answer:
        return await self._client.post(f"api/v0/{command}", params, limit=limit, body=body, seconds=seconds)

    def _succeeded(self, answer: Answer, command: str) -> Answer:
        if answer.status == 404:
            raise UnsupportedRegistry(
                f"{self._client.endpoint.origin} has no command {command}", hint="is this the RPC address of a node?"
            )
        if answer.status != 200:
            raise self._failure(_parsed(answer.data[:_TEXT_LIMIT]), command, f"HTTP {answer.status}")
        return answer

    def _rows(self, answer: Answer, command: str) -> list[dict[str, Any]]:
        """Return the objects of a stream of JSON lines, none of which may be an error."""
        rows = []
        for line in self._succeeded(answer, command).data.splitlines():
            row = _parsed(line)
            if row is None or row.get("Type") == "error" or ("Message" in row and "Code" in row):
                raise self._failure(row, command, "an answer that breaks off")
            rows.append(row)
        return rows

    def _failure(self, row: dict[str, Any] | None, command: str, otherwise: str) -> TransferError:
        said = one_line(str((row or {}).get("Message") or otherwise), limit=200)
        return TransferError(f"{self._client.endpoint.origin} failed: {said}", operation=command)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line or b"{}")
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
