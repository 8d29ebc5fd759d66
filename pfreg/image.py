"""An image as a Python object: who made it, what was said and done, and its files, read where it lies.

>>> image = pfreg.open_image("s3://bucket/agents/a")  # doctest: +SKIP
>>> image.messages()[-1], image.env["LANG"], image.open("src/main.py").read()  # doctest: +SKIP

Rules
-----
- Nothing is read before it is asked for, and nothing twice.
- The secret that a ledger may embed is not among its effects.
- Showing an image (``repr``) reads no more than the manifest; showing it in a notebook reads its layers and sizes.
"""

from __future__ import annotations

import html
import importlib.util
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from pfreg import strict_json
from pfreg.arguments import Place, StorePlace, open_store
from pfreg.digest import Digest
from pfreg.errors import IntegrityError, LayerError
from pfreg.fstree import Entry
from pfreg.image_index import PAGES, WORLD
from pfreg.image_reader import ImageReader
from pfreg.imagefs import PfimgFileSystem
from pfreg.inspection import describe
from pfreg.keys import TrustedKeys
from pfreg.layout import image_path
from pfreg.manifest import Manifest
from pfreg.progress import human
from pfreg.results import Inspection
from pfreg.signing import Trust, Verifier

__all__ = ["Image", "Listed", "Page", "open_image"]

_DTYPES = {"f32": "<f4", "f16": "<f2", "bf16": "<u2", "i8": "|i1", "u8": "|u1"}
_LEDGERS = 64

_COLUMNS = ("layer", "digest", "blobs", "stored")
# Notebooks align everything to the right unless told otherwise, and bring colours and lines of their own.
_TEXT, _NUMBER = 'style="text-align:left"', 'style="text-align:right;padding-left:2em"'


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a KV cache.

    Parameters
    ----------
    ix : int
        Its number.
    k, v : numpy.ndarray or bytes
        Keys and values: flat arrays of the cache's dtype where numpy is installed and knows it, else bytes. ``bf16``,
        which numpy does not know, comes as the 16 bits it is made of (``uint16``).
    """

    ix: int
    k: Any
    v: Any


@dataclass(frozen=True, slots=True)
class Listed:
    """What a folder inside an image lists.

    Parameters
    ----------
    name : str
        Its path inside the image.
    type : str
        ``file``, ``directory`` or ``link`` (one that leads nowhere, or to a folder).
    size : int or None
        Bytes; None for a layer that has not been read.
    mode : int or None
        Permission bits, where the image has them.
    digest : str or None
        The digest of a file's content.
    target : str or None
        Where a link points.
    """

    name: str
    type: str
    size: int | None
    mode: int | None
    digest: str | None
    target: str | None


class Image:
    """An image that is read where it lies. Make one with :func:`open_image`.

    Parameters
    ----------
    fs : PfimgFileSystem
        The inside of the image.

    Attributes
    ----------
    fs : PfimgFileSystem
        The inside of the image, for everything that reads fsspec.
    """

    def __init__(self, fs: PfimgFileSystem) -> None:
        self.fs = fs
        self._image: ImageReader = fs.image
        self._inspection: Inspection | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest."""
        return self._image.manifest

    @property
    def cid(self) -> Digest:
        """The image's name."""
        return self._image.manifest.cid

    @property
    def trust(self) -> Trust | None:
        """What the signature is worth; None in a store, which keeps none."""
        return self._image.trust

    def messages(self) -> list[dict[str, Any]]:
        """Return the conversation, oldest message first.

        Raises
        ------
        LayerError
            If it is not JSON lines.
        """
        return list(self._lines(self._image.layer("trace.messages"), "trace.messages"))

    def effects(self) -> list[dict[str, Any]]:
        """Return the tool calls, in the ledger's order; of a merge those of both sides, each once.

        Raises
        ------
        LayerError
            If the ledger is not JSON lines.
        """
        found: dict[bytes, dict[str, Any]] = {}
        pending, seen = [self.manifest.layers.effects_ledger], set[Digest]()
        while pending:
            digest = pending.pop()
            if digest in seen:
                continue
            seen.add(digest)
            if len(seen) > _LEDGERS:
                raise LayerError(f"more than {_LEDGERS} merged ledgers", operation="read layer", place="effects.ledger")
            lines = list(self._lines(self._image.blob(digest), "effects.ledger"))
            header = lines[0] if lines else {}
            if header.get("kind") == "effects.merged.v1":
                pending += [Digest.parse(header.get(name, "")) for name in ("parent_b", "parent_a", "ancestor")]
            else:
                found.update((strict_json.dumps(entry), entry) for entry in lines[1:])
        return list(found.values())

    def _lines(self, raw: bytes, layer: str) -> Iterator[dict[str, Any]]:
        limits = self._image.source.limits
        for number, line in enumerate(raw.splitlines(), 1):
            if not line.strip():
                continue
            try:
                value = strict_json.loads(line, max_bytes=limits.layer_bytes, max_depth=limits.json_depth)
            except IntegrityError as e:
                raise LayerError(f"line {number}: {e.problem}", operation="read layer", place=layer) from None
            if not isinstance(value, dict):
                raise LayerError(f"line {number} is no JSON object", operation="read layer", place=layer)
            yield value

    @property
    def env(self) -> dict[str, str]:
        """The environment variables, as far as they were not redacted when the image was made."""
        value = self._object("world.env")
        variables = value.get("vars", {})
        if not isinstance(variables, dict):
            raise LayerError("vars must be an object", operation="read layer", place="world.env")
        return {str(name): str(text) for name, text in variables.items()}

    def files(self) -> tuple[Entry, ...]:
        """Return the agent's files, folders and links, in the tree's order."""
        return self._image.tree.entries

    def ls(self, path: str = WORLD) -> list[Listed]:
        """List a folder inside the image; ``""`` is its top."""
        return [
            Listed(e["name"], e["type"], e["size"], e.get("mode"), e.get("digest"), e.get("destination"))
            for e in self.fs.ls(path)
        ]

    def open(self, path: str) -> BinaryIO:
        """Open one of the agent's files for reading; `path` is relative to its working folder."""
        return cast(BinaryIO, self.fs.open(f"{WORLD}/{path}", "rb"))

    def pages(self) -> Iterator[Page]:
        """Yield the pages of the KV cache, by number; one at a time is in memory."""
        dtype = _DTYPES.get(str(self._object("cache.manifest").get("dtype")))
        names = (posixpath.basename(path) for path in self.fs.ls(PAGES, detail=False))
        for number in sorted({int(name.partition(".")[0]) for name in names}):
            k, v = (_array(self.fs.cat_file(f"{PAGES}/{number}.{half}"), dtype) for half in "kv")
            yield Page(number, k, v)

    def _object(self, layer: str) -> dict[str, Any]:
        limits = self._image.source.limits
        value = strict_json.loads(self._image.layer(layer), max_bytes=limits.layer_bytes, max_depth=limits.json_depth)
        if not isinstance(value, dict):
            raise LayerError("a layer is a JSON object", operation="read layer", place=layer)
        return value

    # -- at a glance ---------------------------------------------------------------------------------------------

    def inspect(self) -> Inspection:
        """Tell what is in the image, with sizes; see :func:`pfreg.inspect`."""
        if self._inspection is None:
            self._inspection = describe(self._image.source, self.manifest, self.trust)
        return self._inspection

    def __repr__(self) -> str:
        return f"<Image {self.cid.short} of {self.manifest.agent.kind!r} at {self._image.name!r}>"

    def _repr_html_(self) -> str:
        facts: Mapping[str, str] = {
            "image": str(self.cid),
            "place": self._image.name,
            "agent": f"{self.manifest.agent.kind} ({self.manifest.agent.fingerprint} {self.manifest.agent.version})",
            "created": self.manifest.created_at,
            "parents": ", ".join(parent.short for parent in self.manifest.parents) or "none",
            "signature": "none in a store" if self.trust is None else str(self.trust),
        }
        found = self.inspect()
        layers = [(layer.name, layer.digest.short, f"{layer.blobs:,}", human(layer.stored)) for layer in found.layers]
        layers.append(("all", "", f"{found.blobs:,}", human(found.stored)))
        head = "".join(_row(_TEXT, _TEXT, cells) for cells in facts.items())
        body = "".join(_row(_TEXT, _NUMBER, cells) for cells in layers)
        names = "".join(f"<th {_TEXT if name == 'layer' else _NUMBER}>{name}</th>" for name in _COLUMNS)
        return f"<table>{head}</table><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def open_image(
    place: Place,
    *,
    store: StorePlace = None,
    storage_options: Mapping[str, Any] | None = None,
    verify: bool = True,
    secret: str | None = None,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
    require_signature: bool = False,
    expected_digest: str | Digest | None = None,
    cache: str | None = None,
) -> Image:
    """Open an image where it lies, without pulling it.

    Parameters
    ----------
    place : str, Digest or path-like
        The reference of a root, or the CID of an image in `store`.
    store : Store or path-like, optional
        For a CID; ``$PF_STORE``, else ``~/.processfork``, by default.
    storage_options : mapping, optional
        Passed to the filesystem.
    verify, secret, verifier, trusted_keys, require_signature, expected_digest, cache
        See :class:`pfreg.PfimgFileSystem`.

    Raises
    ------
    ImageNotFound
        If there is none.
    SignatureError, IntegrityError
        If it is not to be trusted.
    """
    if isinstance(place, Digest) or (isinstance(place, str) and place.startswith("sha256:")):
        local = open_store(store, create=False)
        expected_digest = Digest.parse(place) if expected_digest is None else expected_digest
        place = local.path_in(image_path(Digest.parse(place)))
    return Image(
        PfimgFileSystem(
            fo=place,
            target_options=dict(storage_options or {}),
            verify=verify,
            secret=secret,
            verifier=verifier,
            trusted_keys=trusted_keys,
            require_signature=require_signature,
            expected_digest=expected_digest,
            cache=cache,
            skip_instance_cache=True,
        )
    )


def _array(data: bytes, dtype: str | None) -> Any:
    if dtype is None or importlib.util.find_spec("numpy") is None:
        return data
    import numpy as np

    return np.frombuffer(data, dtype) if len(data) % np.dtype(dtype).itemsize == 0 else data


def _row(first: str, others: str, cells: Sequence[str]) -> str:
    name, *values = map(html.escape, cells)
    return f"<tr><th {first}>{name}</th>" + "".join(f"<td {others}>{value}</td>" for value in values) + "</tr>"
