"""What each layer blob reaches: the closure of an image, as rules on bytes.

Rules
-----
- A manifest reaches its eight layers. Each of them, by its ``kind`` or ``layout``, may reach more: a file tree its
  files and link targets, a page manifest its K and V pages, a merged ledger three more ledgers (which may be merged
  themselves), a CRIU dump its archive, a browser capture the bodies and cookies of its pages.
- ``model.base`` and ``trace.messages`` are opaque and reach nothing. Every other layer is read.
- A layer that is malformed is an error, never skipped; what is skipped is lost on the way.
- A layer of a kind that is unknown here is fine as long as it names no digest at all. If it names one, nobody can tell
  whether it is a blob, so moving the image could lose it: an error.

The original follows the first two only, and so loses the ledgers of every merge that it pushes. No I/O happens here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pfreg import strict_json
from pfreg.digest import Digest
from pfreg.errors import IntegrityError, LayerError, LimitExceeded, TreeError
from pfreg.fstree import KIND as FS_TREE
from pfreg.fstree import Tree
from pfreg.limits import DEFAULT_LIMITS, Limits
from pfreg.manifest import CACHE_LAYOUT

__all__ = ["OPAQUE", "Reached", "reached"]

OPAQUE = frozenset({"model.base", "trace.messages"})
"""Layers that may hold any bytes, of any size. They reach nothing and are never parsed."""

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}(?![0-9a-f])")
_LEDGER_KIND = re.compile(rb'"kind":\s*"effects\.ledger\.v1"')
_CLOSED = frozenset({"env.v1", "procs.unsupported.v1", "model.diff.v1", "effects.ledger.v1"})
_REQUIRED = {"world.fs": FS_TREE, "cache.manifest": CACHE_LAYOUT}


class Reached(NamedTuple):
    """A blob that a layer reaches.

    Parameters
    ----------
    digest : Digest
        Its name.
    size : int or None
        Bytes of its content, where the layer says so.
    layer : str
        ``""`` for plain content; the name of the layer as which it has to be read in turn, such as ``effects.ledger``.
    """

    digest: Digest
    size: int | None = None
    layer: str = ""


def reached(name: str, raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Reached]:
    """Yield what the layer `name` with the content `raw` reaches.

    Parameters
    ----------
    name : str
        The layer's place in the manifest: ``world.fs``, ``effects.ledger``, ...
    raw : bytes
        Its verified content.

    Raises
    ------
    LayerError
        If the layer is malformed, or of an unknown kind that names digests.
    LimitExceeded
        If it is too large or too deep.
    """
    if name in OPAQUE:
        return
    try:
        value = _parse(name, raw, limits)
        kind = value.get("kind", value.get("layout"))
        required = _REQUIRED.get(name)
        if required is not None and kind != required:
            raise LayerError(f"is of kind {str(kind)[:80]!r}, not {required}")
        yield from _follow(kind, value, raw, limits)
    except LimitExceeded as e:
        raise LimitExceeded(e.problem, operation="read layer", place=name) from None
    except TreeError as e:
        raise TreeError(e.problem, operation=f"read layer {name}", place=e.place, hint=e.hint) from None
    except IntegrityError as e:
        raise LayerError(e.problem, operation="read layer", place=name, hint=e.hint) from None


def _parse(name: str, raw: bytes, limits: Limits) -> dict[str, Any]:
    """Parse a layer. A ledger is JSON lines under a header, or one object; an empty optional layer reaches nothing."""
    if not raw and name not in _REQUIRED:
        return {}
    if name == "effects.ledger" and _has_ledger_header(raw):
        header, *lines = raw.splitlines()
        for line in lines:
            _object(line, limits)
        return _object(header, limits)
    return _object(raw, limits)


def _has_ledger_header(raw: bytes) -> bool:
    header = raw.partition(b"\n")[0].rstrip(b"\r")
    return header.startswith(b"{") and header.endswith(b"}") and _LEDGER_KIND.search(header) is not None


def _object(text: bytes, limits: Limits) -> dict[str, Any]:
    value = strict_json.loads(text, max_bytes=limits.layer_bytes, max_depth=limits.json_depth)
    if not isinstance(value, dict):
        raise LayerError("a layer is a JSON object")
    return value


def _follow(kind: Any, value: dict[str, Any], raw: bytes, limits: Limits) -> Iterator[Reached]:
    kind = kind if isinstance(kind, str) else ""  # a list, say, which no layer of a known kind has
    follow = _FOLLOW.get(kind)
    if kind == FS_TREE:
        tree = Tree.from_json(value, limits=limits)
        yield from (Reached(digest, size) for digest, size in tree.blobs().items())
    elif follow is not None:
        yield from follow(value)
    elif kind not in _CLOSED and _DIGEST.search(raw):
        raise LayerError(
            f"kind {kind[:80]!r} is unknown and names digests, which may be blobs",
            hint="a newer pfreg may know it; moving the image with this one could lose them",
        )


def _pages(value: dict[str, Any]) -> Iterator[Reached]:
    for page in _list(value, "pages"):
        for half in ("k", "v"):
            yield Reached(_digest(page, half))


def _merged_ledger(value: dict[str, Any]) -> Iterator[Reached]:
    for field in ("parent_a", "parent_b", "ancestor"):
        yield Reached(_digest(value, field), layer="effects.ledger")


def _criu(value: dict[str, Any]) -> Iterator[Reached]:
    yield Reached(_digest(value, "criu_dump"))


def _browser(value: dict[str, Any]) -> Iterator[Reached]:
    for page in _list(value, "pages"):
        for field in ("mhtml_digest", "cookies_digest"):
            yield Reached(_digest(page, field))


_FOLLOW: dict[str, Callable[[dict[str, Any]], Iterator[Reached]]] = {
    CACHE_LAYOUT: _pages,
    "effects.merged.v1": _merged_ledger,
    "procs.criu.v1": _criu,
    "browser.cdp.v1": _browser,
}


def _list(value: dict[str, Any], field: str) -> list[Any]:
    found = value.get(field)
    if not isinstance(found, list):
        raise LayerError(f"{field} must be a list")
    return found


def _digest(value: Any, field: str) -> Digest:
    if not isinstance(value, dict) or not isinstance(value.get(field), str):
        raise LayerError(f"{field} is missing or not a string")
    return Digest.parse(value[field])
