"""Where things lie in a root and in a store. Pure functions on paths; no I/O.

Rules
-----
- A root and a store keep blobs alike: ``blobs/sha256/<first two hex digits>/<hex>.zst``.
- A root holds one image (``manifest.json``, ``manifest.json.sig``); a store many (``images/<hex>.json``).
- Anything else that is found among blobs is not ours to name: it is neither listed, nor removed.
- A file that is still being written has a name that no reader takes for a blob: ``.<name>.<16 hex digits>.part``.
"""

from __future__ import annotations

import posixpath
import re
import secrets

from pfreg.digest import Digest

__all__ = [
    "BLOBS",
    "IMAGES",
    "MANIFEST",
    "SIGNATURE",
    "blob_path",
    "digest_of_blob",
    "digest_of_image",
    "hex_of_blob",
    "image_path",
    "is_partial",
    "partial_name",
]

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
BLOBS = "blobs"
IMAGES = "images"

_BLOB = re.compile(r"(?:.*/)?blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})\.zst\Z", re.DOTALL)
_IMAGE = re.compile(r"([0-9a-f]{64})\.json\Z")
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.part\Z", re.DOTALL)


def blob_path(digest: Digest) -> str:
    """Return the path of a blob below its root or store."""
    return f"{BLOBS}/sha256/{digest.hex[:2]}/{digest.hex}.zst"


def image_path(cid: Digest) -> str:
    """Return the path of a manifest below its store."""
    return f"{IMAGES}/{cid.hex}.json"


def hex_of_blob(path: str) -> str:
    """Return the hex digits of the blob that lies at `path`, "" where the path is no blob's."""
    match = _BLOB.match(path)
    return match[2] if match else ""


def digest_of_blob(path: str) -> Digest | None:
    """Return which blob lies at `path`, or None where the path is no blob's."""
    found = hex_of_blob(path)
    return Digest(found) if found else None


def digest_of_image(name: str) -> Digest | None:
    """Return which image a file in ``images/`` holds, or None where the name is no image's."""
    match = _IMAGE.match(name)
    return Digest(match[1]) if match else None


def partial_name(path: str) -> str:
    """Return a new, unguessable name in the same folder for what will be `path` when it is complete."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{secrets.token_hex(8)}.part"


def is_partial(path: str) -> bool:
    """Tell whether `path` is a name made by :func:`partial_name`."""
    return _PARTIAL.match(posixpath.basename(path)) is not None
