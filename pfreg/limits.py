"""How much is taken from outside.

Rules
-----
- Everything that is read from a registry, a store or an image is bounded by one of these numbers, or by a size that a
  verified manifest or tree states.
- The defaults are far above what real images need and far below what hurts a machine.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from pfreg.errors import BadOption

__all__ = ["DEFAULT_LIMITS", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for what is read from outside.

    Parameters
    ----------
    manifest_bytes : int
        Bytes of a manifest. Real ones have about 1,000.
    signature_bytes : int
        Bytes of ``manifest.json.sig``, certificates and all.
    layer_bytes : int
        Bytes of a layer blob that has to be parsed: a file tree, a page manifest, a ledger.
    blob_bytes : int
        Uncompressed bytes of one blob whose size nothing else states.
    json_depth : int
        Nesting of JSON.
    tree_entries : int
        Entries of a file tree.
    path_bytes : int
        UTF-8 bytes of a path inside an image; Linux's ``PATH_MAX``.
    name_bytes : int
        UTF-8 bytes of one component of a path; ``NAME_MAX`` of common file systems.
    parents : int
        Parents of one image. The format has at most two.
    history : int
        Images followed when history is asked for.

    Raises
    ------
    BadOption
        If a number is not a positive integer.
    """

    manifest_bytes: int = 4 << 20
    signature_bytes: int = 4 << 20
    layer_bytes: int = 512 << 20
    blob_bytes: int = 1 << 38
    json_depth: int = 64
    tree_entries: int = 5_000_000
    path_bytes: int = 4096
    name_bytes: int = 255
    parents: int = 16
    history: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadOption(f"limit {field.name} must be a positive integer, not {value!r}")


DEFAULT_LIMITS = Limits()
"""The limits that apply unless others are given."""
