"""The manifest of an image.

Rules
-----
- An image is named by the digest of its manifest's bytes, exactly as they were received. A manifest is therefore never
  written again from its fields: ``raw`` is what travels.
- Unknown fields are kept (they are in ``raw``) and ignored; known ones must have their type, schema and media type.
- Writing a new manifest puts the fields in the original's order, compact, without a trailing newline.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pfreg import strict_json
from pfreg.digest import Digest
from pfreg.errors import IntegrityError, LimitExceeded, ManifestError
from pfreg.limits import DEFAULT_LIMITS, Limits

__all__ = ["CACHE_LAYOUT", "MEDIA_TYPE", "SCHEMA_VERSION", "Agent", "Layers", "Manifest", "now"]

SCHEMA_VERSION = 1
MEDIA_TYPE = "application/vnd.processfork.image.v1+json"
CACHE_LAYOUT = "paged-batchinvariant-v1"

_CREATED_AT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?Z\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Agent:
    """Who was snapshotted.

    Parameters
    ----------
    kind : str
        The agent's kind, such as ``claude-code``.
    version : str
        The version of the software that made the image.
    fingerprint : str
        Its name.
    """

    kind: str
    version: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Layers:
    """The eight blobs that a manifest names, in the manifest's order."""

    model_base: Digest
    model_diff: Digest
    cache_manifest: Digest
    world_fs: Digest
    world_env: Digest
    world_procs: Digest
    effects_ledger: Digest
    trace_messages: Digest

    def __iter__(self) -> Iterator[tuple[str, Digest]]:
        """Yield the dotted name of each layer (``world.fs``) and its digest."""
        for name in self.__slots__:
            yield name.replace("_", ".", 1), getattr(self, name)


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image's manifest. Make one with :meth:`from_bytes` or :meth:`build`.

    Attributes
    ----------
    raw : bytes
        The manifest as it was received or built.
    cid : Digest
        The digest of `raw`; the image's name.
    agent : Agent
        Who was snapshotted.
    layers : Layers
        The blobs it names.
    created_at : str
        RFC 3339, in UTC.
    parents : tuple of Digest
        The CIDs of the images it descends from; two for a merge.
    """

    raw: bytes
    cid: Digest
    agent: Agent
    layers: Layers
    created_at: str
    parents: tuple[Digest, ...]

    @classmethod
    def from_bytes(cls, raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Manifest:
        """Read a manifest.

        Raises
        ------
        ManifestError
            If `raw` is no manifest of schema version 1.
        LimitExceeded
            If it is too large or too deep.
        """
        try:
            value = strict_json.loads(raw, max_bytes=limits.manifest_bytes, max_depth=limits.json_depth)
            return cls._from_json(raw, value, limits)
        except (ManifestError, LimitExceeded):
            raise
        except IntegrityError as e:
            raise ManifestError(e.problem, operation="read manifest", hint=e.hint) from None

    @classmethod
    def _from_json(cls, raw: bytes, value: Any, limits: Limits) -> Manifest:
        _check_schema(value)
        layers = Layers(*(_digest(value, *name.split("_")) for name in Layers.__slots__))
        agent = Agent(*(_text(value, "agent", name) for name in Agent.__slots__))
        _text(value, "cache", "layout")
        created_at = _text(value, "created_at")
        _check_time(created_at)
        parents = _get(value, "parents")
        if not isinstance(parents, list):
            raise ManifestError("parents must be a list")
        if len(parents) > limits.parents:
            raise LimitExceeded(f"{len(parents)} parents, more than {limits.parents}")
        return cls(bytes(raw), Digest.of(raw), agent, layers, created_at, tuple(Digest.parse(p) for p in parents))

    @classmethod
    def build(
        cls, layers: Layers, *, agent: Agent, created_at: str | None = None, parents: tuple[Digest, ...] = ()
    ) -> Manifest:
        """Make the manifest of a new image.

        Parameters
        ----------
        layers : Layers
            The blobs, which must be in the store.
        agent : Agent
            Who was snapshotted.
        created_at : str, optional
            RFC 3339 in UTC; the present by default.
        parents : tuple of Digest
            At most two.

        Raises
        ------
        ManifestError
            If there are more than two parents, or the time is malformed.
        """
        if len(parents) > 2:
            raise ManifestError(f"an image has at most two parents, not {len(parents)}")
        d = {name: str(digest) for name, digest in layers}
        value = {
            "schema_version": SCHEMA_VERSION,
            "media_type": MEDIA_TYPE,
            "agent": {"kind": agent.kind, "version": agent.version, "fingerprint": agent.fingerprint},
            "model": {"base": d["model.base"], "diff": d["model.diff"]},
            "cache": {"layout": CACHE_LAYOUT, "manifest": d["cache.manifest"]},
            "world": {"fs": d["world.fs"], "env": d["world.env"], "procs": d["world.procs"]},
            "effects": {"ledger": d["effects.ledger"]},
            "trace": {"messages": d["trace.messages"]},
            "created_at": now() if created_at is None else created_at,
            "parents": [str(parent) for parent in parents],
        }
        return cls.from_bytes(strict_json.dumps(value))


def now() -> str:
    """Return the present as manifests and ledgers write it: RFC 3339, UTC, nine digits of fraction."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _check_schema(value: Any) -> None:
    if not isinstance(value, dict):
        raise ManifestError("a manifest is a JSON object")
    version, media_type = _get(value, "schema_version"), _get(value, "media_type")
    if version != SCHEMA_VERSION or isinstance(version, bool) or not isinstance(version, int):
        raise ManifestError(
            f"schema_version {str(version)[:80]!r} is not {SCHEMA_VERSION}", hint="is pfreg up to date?"
        )
    if media_type != MEDIA_TYPE:
        raise ManifestError(f"media_type {str(media_type)[:80]!r} is not {MEDIA_TYPE}")


def _get(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, dict) or name not in value:
            raise ManifestError(f"{'.'.join(names)} is missing")
        value = value[name]
    return value


def _text(value: Any, *names: str) -> str:
    found = _get(value, *names)
    if not isinstance(found, str):
        raise ManifestError(f"{'.'.join(names)} must be a string")
    return found


def _digest(value: Any, *names: str) -> Digest:
    try:
        return Digest.parse(_text(value, *names))
    except ManifestError:
        raise
    except IntegrityError as e:
        raise ManifestError(f"{'.'.join(names)} is {e.problem}", hint=e.hint) from None


def _check_time(text: str) -> None:
    match = _CREATED_AT.match(text)
    try:
        if match is None:
            raise ValueError
        datetime.datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        raise ManifestError(f"created_at {text[:80]!r} is no RFC 3339 time in UTC") from None
