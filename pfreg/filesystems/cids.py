"""CIDs: the names of IPFS blocks, and the check that a block is what its name says.

Rules
-----
- Any version and any base is read; inside, and whenever one is printed, a CID is version 1 in base32.
- Only whole digests of strong hashes count. A CID that carries a truncated digest, a weak hash or the data itself (the
  "identity hash") proves nothing that this module could check, and is refused.
- Only two kinds of block make up files: raw bytes and dag-pb nodes. Everything else is refused.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from multiformats import CID, multicodec, multihash

from pfreg.errors import BadReference, IntegrityError

__all__ = ["DAG_PB", "RAW", "decode", "of_block", "parse", "text", "verify"]

Codec = Literal["raw", "dag-pb"]

RAW: Codec = "raw"
DAG_PB: Codec = "dag-pb"

_CODECS = {name: multicodec.get(name) for name in (RAW, DAG_PB)}
_SHA256 = multihash.get("sha2-256")
_DIGEST_SIZES = {"sha2-256": 32, "sha2-512": 64, "sha3-256": 32, "sha3-512": 64, "blake2b-256": 32}
_LONGEST = 256
"""Characters that a CID's text may have; the longest that is accepted needs no more in any usual base."""


def parse(written: str) -> CID:
    """Read a CID that a person or a server wrote.

    Parameters
    ----------
    written : str
        A CID of version 0 or 1 in any base.

    Returns
    -------
    CID
        The same name as version 1 in base32.

    Raises
    ------
    BadReference
        If `written` is no CID, or one that is not accepted here (see the rules of this module).
    """
    if not written or len(written) > _LONGEST:
        raise BadReference(f"not a CID: {written[:60]!r}", hint="expected something like bafy... or Qm...")
    try:
        return _accepted(CID.decode(written))
    except (ValueError, KeyError) as error:
        raise BadReference(f"not a CID: {written[:60]!r}", hint="expected something like bafy... or Qm...") from error


def decode(binary: bytes) -> CID:
    """Read the binary CID of a link.

    Raises
    ------
    IntegrityError
        If `binary` is no CID, or one that is not accepted here.
    """
    try:
        return _accepted(CID.decode(binary))
    except (ValueError, KeyError) as error:
        raise IntegrityError(f"a link holds no usable CID: {binary[:48].hex()}") from error


def of_block(codec: Codec, data: bytes) -> CID:
    """Return the CID (version 1, sha2-256) of the block `data`."""
    return CID("base32", 1, _CODECS[codec], (_SHA256, hashlib.sha256(data).digest()))


def text(cid: CID) -> str:
    """Return `cid` as people see it: version 1, base32."""
    return str(cid.encode("base32"))


def verify(cid: CID, data: bytes) -> None:
    """Check that `data` is the block that `cid` names.

    Raises
    ------
    IntegrityError
        If it is not.
    """
    if cid.hashfun.digest(data) != cid.digest:
        raise IntegrityError(
            f"the block that was sent for {text(cid)} ({len(data)} bytes) is another one",
            hint="use another gateway; one that does not serve ?format=raw fails in this way, too",
        )


def _accepted(cid: CID) -> CID:
    hash_name = cid.hashfun.name
    if cid.codec.name not in _CODECS:
        raise ValueError(f"not a file or directory: codec {cid.codec.name}")
    if len(cid.raw_digest) != _DIGEST_SIZES.get(hash_name, -1):
        raise ValueError(f"hash {hash_name} of {len(cid.raw_digest)} bytes is not accepted")
    return cid.set(version=1, base="base32")
