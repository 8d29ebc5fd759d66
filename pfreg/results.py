"""What the verbs of pfreg return: small values, never bare tuples.

Rules
-----
- Bytes are stored (compressed) bytes unless a name says otherwise; seconds are wall-clock seconds.
- ``to_json`` gives what ``--json`` prints: digests as text, nothing secret, because nothing secret is ever in here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from pfreg.digest import Digest
from pfreg.manifest import Manifest
from pfreg.signing import Trust

__all__ = ["Cloned", "Copied", "Inspection", "LayerSize", "Pruned", "Pulled", "Pushed", "Verified", "to_json"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Parameters
    ----------
    cid : Digest
        The image.
    reference : str
        Where it is now.
    committed : str or None
        What names the commit, on a registry that makes commits.
    sent, sent_bytes : int
        Blobs that were sent.
    copied, copied_bytes : int
        Blobs that the registry copied from ``base`` itself.
    skipped, skipped_bytes : int
        Blobs that were there.
    images : int
        Images taken along: 1, and the ancestors that ``history`` asked for.
    published : bool
        Whether manifest or signature had to be written.
    seconds : float
        How long it took.
    """

    cid: Digest
    reference: str
    committed: str | None
    sent: int
    sent_bytes: int
    copied: int
    copied_bytes: int
    skipped: int
    skipped_bytes: int
    images: int
    published: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did; ``received`` blobs were fetched, ``skipped`` ones the store had. See :class:`Pushed`."""

    cid: Digest
    reference: str
    manifest: Manifest
    trust: Trust
    received: int
    received_bytes: int
    skipped: int
    skipped_bytes: int
    images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy between registries did. See :class:`Pushed`."""

    cid: Digest
    source: str
    reference: str
    committed: str | None
    trust: Trust
    sent: int
    sent_bytes: int
    copied: int
    copied_bytes: int
    skipped: int
    skipped_bytes: int
    images: int
    published: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Cloned:
    """What a clone or a checkout wrote.

    Parameters
    ----------
    cid : Digest
        The image.
    target : str
        The folder.
    trust : Trust or None
        What the signature is worth; None from a store, which has none.
    files, folders, links : int
        What was written.
    size : int
        Bytes of the files.
    seconds : float
        How long it took.
    """

    cid: Digest
    target: str
    trust: Trust | None
    files: int
    folders: int
    links: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LayerSize:
    """One layer of an image.

    Parameters
    ----------
    name : str
        ``world.fs``, ...
    digest : Digest
        Its blob.
    blobs : int
        Blobs that it reaches, itself included.
    stored : int
        Their stored bytes. A blob that two layers reach counts in both.
    """

    name: str
    digest: Digest
    blobs: int
    stored: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in an image.

    Parameters
    ----------
    cid : Digest
        The image.
    reference : str
        Where it was looked at.
    manifest : Manifest
        Its manifest.
    trust : Trust or None
        What the signature is worth; None in a store, which has none.
    layers : tuple of LayerSize
        Its layers.
    blobs, stored : int
        Different blobs, and their stored bytes.
    missing : tuple of Digest
        Blobs that it reaches and that are not there.
    commit : str or None
        What names the commit that was looked at, on a registry that reads at one.
    """

    cid: Digest
    reference: str
    manifest: Manifest
    trust: Trust | None
    layers: tuple[LayerSize, ...]
    blobs: int
    stored: int
    missing: tuple[Digest, ...]
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification that found nothing wrong looked at.

    Parameters
    ----------
    cid : Digest
        The image.
    reference : str
        Where.
    trust : Trust or None
        What the signature is worth; None in a store, which has none.
    deep : bool
        Whether every blob was read, or only looked up.
    blobs, stored : int
        Blobs, and their stored bytes.
    images : int
        Images: 1, and the ancestors that ``history`` asked for.
    seconds : float
        How long it took.
    """

    cid: Digest
    reference: str
    trust: Trust | None
    deep: bool
    blobs: int
    stored: int
    images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed, or would remove.

    Parameters
    ----------
    reference : str
        Where.
    removed : tuple of str
        Digests of blobs, and names of abandoned temporary files.
    freed : int
        Their stored bytes.
    kept : int
        Blobs that stay.
    dry_run : bool
        Whether nothing was removed.
    """

    reference: str
    removed: tuple[str, ...]
    freed: int
    kept: int
    dry_run: bool


def to_json(value: Any) -> Any:
    """Return a result as plain JSON values."""
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, Manifest):
        return {
            "cid": str(value.cid),
            "agent": asdict(value.agent),
            "created_at": value.created_at,
            "parents": [str(parent) for parent in value.parents],
            "layers": {name: str(digest) for name, digest in value.layers},
        }
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value
