"""Images made by hand, wrong ones too: what the engine itself would refuse to write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pfreg
from pfreg import codec, layout
from pfreg.digest import Digest
from pfreg.fstree import Tree
from pfreg.manifest import CACHE_LAYOUT, Agent, Layers, Manifest
from pfreg.signing import HmacSigner

LAYERS: Mapping[str, bytes] = {
    "model.base": b"base:test",
    "model.diff": b'{"diff":{"adapters":[],"kind":"lora"},"layout":"model.diff.v1"}',
    "cache.manifest": json.dumps({"layout": CACHE_LAYOUT, "pages": []}).encode(),
    "world.fs": Tree(()).to_bytes(),
    "world.env": b'{"cwd":"/","kind":"env.v1","vars":{}}',
    "world.procs": b'{"kind":"procs.unsupported.v1","note":"","unsupported_on":"linux"}',
    "effects.ledger": b'{"entries":0,"kind":"effects.ledger.v1"}\n',
    "trace.messages": b"",
}
"""The eight layers of an image in which nothing is."""


def d(content: bytes) -> str:
    """Return the digest of `content`, as text."""
    return str(Digest.of(content))


def compact(value: Any) -> bytes:
    """Return `value` as JSON as the formats write it, lone surrogates escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def manifest_of(layers: Mapping[str, bytes], *, parents: tuple[Digest, ...] = ()) -> Manifest:
    """Return the manifest of an image with these layers; those not given are empty ones."""
    contents = {**LAYERS, **layers}
    named = Layers(*(Digest.of(contents[name]) for name in LAYERS))
    return Manifest.build(named, agent=Agent("test", "1", "tests"), created_at="2026-01-02T03:04:05Z", parents=parents)


def in_store(store: pfreg.Store, layers: Mapping[str, bytes], blobs: Iterable[bytes] = ()) -> Manifest:
    """Put an image into a store, whatever its layers hold."""
    manifest = manifest_of(layers)
    store.stage_many([*{**LAYERS, **layers}.values(), *blobs])
    store.record(manifest)
    return manifest


def in_root(root: Path, layers: Mapping[str, bytes], blobs: Iterable[bytes] = ()) -> Manifest:
    """Write an image as a root, whatever its layers hold."""
    manifest = manifest_of(layers)
    write_root(root, manifest.raw, [*{**LAYERS, **layers}.values(), *blobs])
    return manifest


def write_root(root: Path, manifest: bytes, blobs: Iterable[bytes]) -> None:
    """Write a root, signed as the original signs."""
    for content in blobs:
        path = root / layout.blob_path(Digest.of(content))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.compress(content))
    root.mkdir(parents=True, exist_ok=True)
    (root / layout.SIGNATURE).write_bytes(HmacSigner().sign(manifest))
    (root / layout.MANIFEST).write_bytes(manifest)


def says_one_line(error: BaseException) -> bool:
    """Tell whether an error is one of pfreg's and says something, on one printable line."""
    text = str(error)
    return isinstance(error, pfreg.PfregError) and bool(text) and text.isprintable()
