"""``ipns://``: images under a name that may change, read-only.

Rules
-----
- A name, of a key or of a domain (DNSLink), is the one thing that no hash covers: what it stands for is its server's
  word. Everything below the CID is verified as in ``ipfs://``, and the CID is logged.
- A name is resolved once for each filesystem, so that one pull sees one image, whatever happens to the name meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property

from multiformats import CID

from pfreg.errors import UnsupportedRegistry, one_line
from pfreg.filesystems import cids
from pfreg.filesystems.ipfs import IPFSFileSystem

__all__ = ["IPNSFileSystem"]

_log = logging.getLogger(__name__)


class IPNSFileSystem(IPFSFileSystem):
    """``ipns://name``: a key's or domain's (DNSLink) current root, read-only.

    A name is resolved once for each instance, so that one pull sees one image, whatever happens to the name meanwhile.
    """

    protocol = "ipns"

    @cached_property
    def _resolved(self) -> dict[str, tuple[CID, str]]:
        return {}

    @cached_property
    def _resolving(self) -> asyncio.Lock:
        return asyncio.Lock()

    def _split(self, path: str) -> tuple[str, str]:
        name, _, below = self._strip_protocol(path).strip("/").partition("/")
        return name, below

    async def _resolve(self, name: str) -> tuple[CID, str]:
        async with self._resolving:
            if name not in self._resolved:
                self._resolved[name] = await self._ask(name)
        return self._resolved[name]

    async def _ask(self, name: str) -> tuple[CID, str]:
        root, _, below = (await self.source.resolve(name)).partition("/")
        cid = cids.parse(root)
        _log.info("ipns://%s is now %s", one_line(name), cids.text(cid))
        return cid, below

    def _writable(self, path: str) -> tuple[str, str]:
        raise UnsupportedRegistry("ipns:// is read-only", place=path, hint="push to ipfs:// and publish its CID")
