"""CARv1: blocks in a row behind a header that names the root, as ``dag/import`` takes them. Only writing, no I/O.

Rules
-----
- A header names exactly one root. The blocks that follow may be few or none: a node adds them to those that it has.
"""

from __future__ import annotations

import dag_cbor
from multiformats import CID, varint

__all__ = ["header", "section"]


def header(root: CID) -> bytes:
    """Return the header of a CAR whose root is `root`."""
    fields = dag_cbor.encode({"roots": [root], "version": 1})
    return varint.encode(len(fields)) + fields


def section(cid: CID, data: bytes) -> bytes:
    """Return the block `data` with its name and length, as it follows a header or another section."""
    name = bytes(cid)
    return varint.encode(len(name) + len(data)) + name + data
