"""What callers may give to the verbs, and what it means.

Rules
-----
- A CID may be given as text, as itself, or as the result that has it; a store as itself or as its folder.
- A place is a reference, or the CID of an image in a store.
- A signature is judged before anything in the manifest is believed, and before anything else is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pfreg.blobs import BlobTree
from pfreg.digest import Digest
from pfreg.errors import BadOption, Conflict, IntegrityError
from pfreg.key_signatures import verifier_for
from pfreg.keys import TrustedKeys
from pfreg.manifest import Manifest
from pfreg.registry import Published, Registry, parse_expect
from pfreg.signing import Trust, Verifier
from pfreg.store import Store

__all__ = ["Asked", "Cid", "HasCid", "Options", "Place", "StorePlace", "cid_of", "open_store", "opened", "read_image"]

Options = Mapping[str, Any]
Place = str | os.PathLike[str] | Digest
StorePlace = Store | str | os.PathLike[str] | None


class HasCid(Protocol):
    """A result that names an image."""

    @property
    def cid(self) -> Digest:
        """The image."""
        ...


Cid = str | Digest | HasCid


def cid_of(cid: Cid) -> Digest:
    """Return the CID that a caller means: itself, its text, or a result that has one.

    Raises
    ------
    BadOption
        If it is none of these.
    """
    found = cid if isinstance(cid, str | Digest) else getattr(cid, "cid", None)
    try:
        return Digest.parse(found)  # type: ignore[arg-type]
    except IntegrityError as e:
        raise BadOption(f"not a CID: {str(cid)[:80]!r}", hint=e.hint) from None


def open_store(store: StorePlace, *, create: bool = True) -> Store:
    """Return the store that a caller means: itself, or the one in a folder, which is made if it is not there."""
    return store if isinstance(store, Store) else Store(store, create=create)


def read_image(root: Registry, judge: Verifier, require: bool, expect: str | Digest | None) -> Published:
    """Return the image of a root, judged; raise Conflict if it is another than `expect`."""
    wish = parse_expect(expect)
    image = root.image(verifier=judge, require_signature=require)
    if wish is not None and image.manifest.cid != wish:
        raise Conflict(f"holds {image.manifest.cid}, not {wish}", operation="read", place=root.name)
    return image


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks of a signature."""

    verifier: Verifier | None
    trusted_keys: TrustedKeys | None
    require: bool


def opened(
    place: Place, store: StorePlace, options: Options | None, asked: Asked
) -> tuple[BlobTree, Manifest, Trust | None]:
    """Return where an image lies, its manifest, and what its signature is worth; None in a store, which keeps none."""
    if isinstance(place, Digest) or (isinstance(place, str) and place.startswith("sha256:")):
        local = open_store(store, create=False)
        return local, local.manifest(cid_of(place)), None
    root = Registry.open(place, storage_options=options)
    judge = verifier_for(root.scheme, verifier=asked.verifier, trusted_keys=asked.trusted_keys)
    image = read_image(root, judge, asked.require, None)
    return root, image.manifest, image.trust
