"""The manifest of an artifact: which files there are, and which blob holds each.

Rules
-----
- A file is a layer with the annotation ``org.processfork.path``; other layers are no files. ``manifest.json`` is the
  config, where the config is a ProcessFork manifest, and no annotation may claim that name.
- Digests here are of *stored* bytes, and plain text: a :class:`pfreg.digest.Digest` names uncompressed bytes, and the
  two must never mix.
- Everything is from a stranger. JSON is strict (UTF-8, no duplicate keys, no NaN, bounded), sizes are plausible,
  digests sha256, paths plain, no path twice, none both a file and a folder. One layer that breaks a rule spoils all.
- What is written is canonical: the same files give the same bytes, the signature first and then by path.
- A list of layers too long for a registry is cut into shards: image manifests with the same config, named by an index
  with the annotation ``org.processfork.shards``. Any other index is a list of alternatives, and no artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pfreg.digest import Digest
from pfreg.errors import IntegrityError, LimitExceeded, ManifestError
from pfreg.filesystems.oci_path import is_plain_path, is_tag

__all__ = [
    "CONFIG_FILE",
    "EMPTY_CONFIG",
    "INDEX",
    "MANIFEST",
    "MAX_MANIFEST",
    "MAX_SHARDS",
    "Descriptor",
    "Index",
    "build_index",
    "build_manifest",
    "layer_length",
    "merge_shards",
    "read_manifest",
    "read_tags",
    "shard",
]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MAX_MANIFEST = 4 << 20
"""Bytes of a manifest or an index; registries refuse more."""
MAX_SHARDS = 4096
MAX_BLOB = 1 << 42
"""Bytes of one blob: 4 TiB. More is a mistake or a lie."""

CONFIG_FILE = "manifest.json"
EMPTY_CONFIG = b"{}"

_IMAGE = "application/vnd.processfork.image.v1+json"
_SIGNATURE = "application/vnd.processfork.signature.v1+json"
_LAYER = "application/vnd.processfork.layer.v1+zstd"
_OCTETS = "application/octet-stream"
_EMPTY = "application/vnd.oci.empty.v1+json"
_PATH = "org.processfork.path"
_SHARDS = "org.processfork.shards"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob in a registry.

    Parameters
    ----------
    digest : str
        ``sha256:<hex>`` of the stored bytes.
    size : int
        Bytes stored.
    """

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Index:
    """An artifact in shards: the descriptors of their manifests, in order."""

    shards: tuple[Descriptor, ...]


def read_manifest(raw: bytes, *, media_type: str, place: str) -> dict[str, Descriptor] | Index:
    """Read a manifest or an index of shards.

    Parameters
    ----------
    raw : bytes
        As received, its digest already checked.
    media_type : str
        The ``Content-Type`` that it came with.
    place : str
        What it is the manifest of, for errors.

    Returns
    -------
    dict of str to Descriptor, or Index
        The files by path; or the shards that have to be read to know them.

    Raises
    ------
    ManifestError
        If it is no artifact of files, or breaks one of the rules above.
    LimitExceeded
        If it is larger than a registry takes.
    """
    if len(raw) > MAX_MANIFEST:
        raise LimitExceeded(f"a manifest of more than {MAX_MANIFEST} bytes", operation="read manifest", place=place)
    document = _object(_strict_json(raw, place), place, "the manifest")
    claimed = document.get("mediaType", media_type)
    if claimed != media_type or ("manifests" in document and "layers" in document):
        # One document that two readers take for two different things (CVE-2021-41190).
        _refuse("the manifest says two things about its own type", place)
    if document.get("schemaVersion") != 2:
        _refuse("schemaVersion is not 2", place)
    if media_type == INDEX:
        return _read_index(document, place)
    if media_type != MANIFEST:
        _refuse(f"not an OCI image manifest: {media_type[:80]!r}", place)
    return _read_files(document, place)


def _read_index(document: Mapping[str, Any], place: str) -> Index:
    if _SHARDS not in _object(document.get("annotations") or {}, place, "annotations"):
        _refuse(
            "an index of several images, where one artifact is expected", place, hint="name one of them by its digest"
        )
    entries = document.get("manifests")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_SHARDS:
        _refuse(f"an index of shards has 1 to {MAX_SHARDS} of them", place)
    shards = []
    for entry in entries:
        described = _object(entry, place, "a shard")
        if described.get("mediaType") != MANIFEST:
            _refuse("a shard is no image manifest", place)
        shards.append(_descriptor(described, place, limit=MAX_MANIFEST))
    return Index(tuple(shards))


def _read_files(document: Mapping[str, Any], place: str) -> dict[str, Descriptor]:
    config = _object(document.get("config"), place, "config")
    layers = document.get("layers")
    if not isinstance(layers, list):
        _refuse("the manifest has no layers", place)
    files: dict[str, Descriptor] = {}
    if config.get("mediaType") == _IMAGE:
        files[CONFIG_FILE] = _descriptor(config, place)
    for layer in layers:
        described = _object(layer, place, "a layer")
        path = _object(described.get("annotations") or {}, place, "annotations").get(_PATH)
        if path is None:
            continue
        if not isinstance(path, str) or not is_plain_path(path) or path == CONFIG_FILE:
            _refuse(f"a layer claims the path {str(path)[:80]!r}", place)
        if path in files:
            _refuse(f"two layers claim the path {path!r}", place)
        files[path] = _descriptor(described, place)
    if not files:
        _refuse(f"no layer says its path ({_PATH}): a container image, or somebody else's artifact", place)
    _check_folders(files, place)
    return files


def _check_folders(files: Iterable[str], place: str) -> None:
    paths = set(files)
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in paths:
                _refuse(f"{parent!r} is both a file and a folder", place)
            parent = parent.rpartition("/")[0]


def _descriptor(entry: Mapping[str, Any], place: str, *, limit: int = MAX_BLOB) -> Descriptor:
    size, digest = entry.get("size"), entry.get("digest")
    if type(size) is not int or not 0 <= size <= limit:
        _refuse(f"a size of {str(size)[:40]}", place)
    try:
        return Descriptor(str(Digest.parse(digest)), size)  # type: ignore[arg-type]  # parse refuses what is no text
    except IntegrityError as error:
        raise ManifestError(error.problem, operation="read manifest", place=place, hint=error.hint) from None


def merge_shards(shards: Sequence[Mapping[str, Descriptor]], *, place: str) -> dict[str, Descriptor]:
    """Return the files of all shards together.

    Raises
    ------
    ManifestError
        If two shards hold the same path, or disagree about ``manifest.json``.
    """
    files: dict[str, Descriptor] = {}
    configs = {part.get(CONFIG_FILE) for part in shards}
    if len(configs) > 1:
        _refuse(f"the shards disagree about {CONFIG_FILE}", place)
    for part in shards:
        for path, descriptor in part.items():
            if path in files and path != CONFIG_FILE:
                _refuse(f"two shards claim the path {path!r}", place)
            files[path] = descriptor
    _check_folders(files, place)
    return files


def build_manifest(files: Mapping[str, Descriptor]) -> bytes:
    """Return the image manifest of `files`, as compact JSON.

    Parameters
    ----------
    files : mapping of str to Descriptor
        By path. ``manifest.json`` becomes the config; without it the config is the empty object, which then has to be
        in the repository.
    """
    config = files.get(CONFIG_FILE)
    if config is None:
        described = _described(_EMPTY, Descriptor(str(Digest.of(EMPTY_CONFIG)), len(EMPTY_CONFIG)))
    else:
        described = _described(_IMAGE, config)
    layers = [_layer(path, files[path]) for path in _layer_order(files)]
    return _compact({"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": layers})


def build_index(shards: Sequence[bytes]) -> bytes:
    """Return the index that names the manifests `shards`."""
    manifests = [_described(MANIFEST, Descriptor(str(Digest.of(raw)), len(raw))) for raw in shards]
    annotations = {_SHARDS: str(len(shards))}
    return _compact({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": annotations})


def shard(files: Mapping[str, Descriptor], *, layers: int) -> list[dict[str, Descriptor]]:
    """Cut `files` into parts of at most `layers` layers, each with the config; a single part if they fit into one."""
    order = _layer_order(files)
    config = {CONFIG_FILE: files[CONFIG_FILE]} if CONFIG_FILE in files else {}
    starts = range(0, max(len(order), 1), layers)
    return [config | {path: files[path] for path in order[start : start + layers]} for start in starts]


def layer_length(path: str, size: int) -> int:
    """Return the bytes that a file adds to a manifest."""
    digest = "sha256:" + "0" * 64
    return len(_compact(_layer(path, Descriptor(digest, size)))) + 1


def read_tags(raw: bytes, *, place: str) -> list[str]:
    """Read one page of a registry's list of tags.

    Raises
    ------
    ManifestError
        If it is something else.
    """
    tags = _object(_strict_json(raw, place), place, "the list of tags").get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and is_tag(tag) for tag in tags):
        _refuse("the list of tags holds something else", place)
    return tags


def _layer_order(files: Iterable[str]) -> list[str]:
    return sorted(
        (path for path in files if path != CONFIG_FILE), key=lambda path: (_layer_type(path) != _SIGNATURE, path)
    )


def _layer(path: str, descriptor: Descriptor) -> dict[str, Any]:
    return {**_described(_layer_type(path), descriptor), "annotations": {_PATH: path}}


def _layer_type(path: str) -> str:
    if path == f"{CONFIG_FILE}.sig":
        return _SIGNATURE
    return _LAYER if path.endswith(".zst") else _OCTETS


def _described(media_type: str, descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": media_type, "size": descriptor.size, "digest": descriptor.digest}


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _strict_json(raw: bytes, place: str) -> object:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) != len(pairs):
            raise ValueError("the same key twice")
        return document

    def no_constant(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError):  # ValueError: bad UTF-8, bad JSON, numbers of 5000 digits, the two above
        raise ManifestError("the manifest is no strict JSON", operation="read manifest", place=place) from None


def _object(value: object, place: str, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{what} is no JSON object", place)
    return value


def _refuse(problem: str, place: str, *, hint: str = "") -> NoReturn:
    raise ManifestError(problem, operation="read manifest", place=place, hint=hint)
