"""Manifests: the bytes are the image, every known field is checked, and none that is unknown is lost."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg.digest import Digest
from pfreg.errors import IntegrityError, LimitExceeded, ManifestError
from pfreg.limits import Limits
from pfreg.manifest import Agent, Layers, Manifest, now
from tests import golden
from tests.formats.images import LAYERS, compact, in_root, manifest_of, says_one_line, write_root

RAW = manifest_of({}).raw
DIGESTS = [
    ("model", "base"), ("model", "diff"), ("cache", "manifest"), ("world", "fs"), ("world", "env"), ("world", "procs"),
    ("effects", "ledger"), ("trace", "messages"),
]  # fmt: skip
TEXTS = [("agent", "kind"), ("agent", "version"), ("agent", "fingerprint"), ("cache", "layout"), ("created_at",)]
GROUPS = [("agent",), ("model",), ("cache",), ("world",), ("effects",), ("trace",)]
HEX = "0123456789abcdef" * 4


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(RAW)
    change(value)
    return compact(value)


def put(path: tuple[str, ...], new: Any) -> bytes:
    def change(value: dict[str, Any]) -> None:
        for name in path[:-1]:
            value = value[name]
        value[path[-1]] = new

    return changed(change)


def without(path: tuple[str, ...]) -> bytes:
    def change(value: dict[str, Any]) -> None:
        for name in path[:-1]:
            value = value[name]
        del value[path[-1]]

    return changed(change)


WRONG_DIGESTS = {
    "upper case": "sha256:" + HEX.upper(),
    "one upper-case digit": "sha256:" + HEX[:-1] + "F",
    "short": "sha256:" + HEX[:-1],
    "long": "sha256:" + HEX + "0",
    "no prefix": HEX,
    "upper-case prefix": "SHA256:" + HEX,
    "other algorithm": "sha512:" + HEX,
    "empty": "",
    "prefix only": "sha256:",
    "newline": "sha256:" + HEX + "\n",
    "space": " sha256:" + HEX,
    "no hexadecimal": "sha256:" + "g" * 64,
    "other digits": "sha256:" + "\u0663" * 64,
    "path": "sha256:../../../../etc/passwd",
    "number": 7,
    "null": None,
    "list": ["sha256:" + HEX],
    "object": {"digest": "sha256:" + HEX},
}
WRONG_TIMES = [
    "", "yesterday", "2026-11-23", "2026-11-23T16:01:13", "2026-11-23T16:01:13+00:00", "2026-11-23T16:01:13z",
    "2026-11-23 16:01:13Z", "2026-11-23T16:01:13.Z", "2026-11-23T16:01:13.1234567890Z", "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z", "2026-11-23T24:00:00Z", "2026-11-23T16:61:00Z", "2026-11-23T16:01:13Z\n",
    "\u0662026-11-23T16:01:13Z",
]  # fmt: skip
MALFORMED: dict[str, bytes] = {
    "not JSON": b"not json",
    "empty": b"",
    "cut off": RAW[:-1],
    "something after it": RAW + b"{}",
    "not UTF-8": RAW.replace(b"tests", b"t\xffsts"),
    "UTF-16": RAW.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + RAW,
    "a list": b"[" + RAW + b"]",
    "a string": b'"manifest"',
    "null": b"null",
    "number": b"1",
    "duplicate key": RAW[:-1] + b',"schema_version":1}',
    "duplicate key inside": RAW.replace(b'"kind":"test"', b'"kind":"test","kind":"other"'),
    "duplicate digest": RAW.replace(b'"world":{', b'"world":{"fs":"sha256:' + HEX.encode() + b'",'),
    "NaN in an unknown field": RAW[:-1] + b',"x":NaN}',
    "lone surrogate in an unknown field": RAW[:-1] + b',"x":"\\ud800"}',
    **{f"schema_version {v!r}": put(("schema_version",), v) for v in (0, 2, -1, "1", 1.0, True, None, [1], 1e0)},
    **{
        f"media_type {v!r}": put(("media_type",), v)
        for v in ("", "application/json", "application/vnd.processfork.image.v2+json", None, 1, ["x"])
    },
    "media_type in other case": put(("media_type",), "Application/vnd.processfork.image.v1+json"),
    **{f"{'.'.join(path)} missing": without(path) for path in (*DIGESTS, *TEXTS, *GROUPS, ("parents",))},
    **{f"{n} missing": without((n,)) for n in ("schema_version", "media_type")},
    **{f"{'.'.join(path)} is {v!r}": put(path, v) for path in GROUPS for v in (None, "x", [], 3)},
    **{f"{'.'.join(path)} is {v!r}": put(path, v) for path in TEXTS for v in (None, 3, ["x"], {})},
    **{f"{'.'.join(path)} of another case": put(path, WRONG_DIGESTS["upper case"]) for path in DIGESTS},
    **{f"world.fs {name}": put(("world", "fs"), wrong) for name, wrong in WRONG_DIGESTS.items()},
    **{f"parents {name}": put(("parents",), [wrong]) for name, wrong in WRONG_DIGESTS.items()},
    **{f"parents is {v!r}": put(("parents",), v) for v in (None, {}, "sha256:" + HEX, 0)},
    **{f"created_at {time!r}": put(("created_at",), time) for time in WRONG_TIMES},
    "camel case": RAW.replace(b"schema_version", b"schemaVersion"),
}
TOO_MUCH: dict[str, bytes] = {
    "absurd depth": RAW[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "depth beyond the limit": RAW[:-1] + b',"x":' + b"[" * 64 + b"]" * 64 + b"}",
    "unclosed depth": b"[" * 100_000,
    "absurd size": RAW[:-1] + b',"x":"' + b"x" * (4 << 20) + b'"}',
    "blanks": RAW + b" " * (4 << 20),
    "seventeen parents": put(("parents",), ["sha256:" + HEX] * 17),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_manifest_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(MALFORMED[name])
    assert says_one_line(caught.value)


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_manifest_beyond_the_limits_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(LimitExceeded) as caught:
        Manifest.from_bytes(TOO_MUCH[name])
    assert says_one_line(caught.value)


SOME = ["not JSON", "not UTF-8", "byte order mark", "duplicate key", "schema_version 2", "world.fs upper case"]


@pytest.mark.parametrize("name", [*SOME, *TOO_MUCH])
def test_a_registry_with_such_a_manifest_gives_nothing(name: str, tmp_path: Path) -> None:
    raw = {**MALFORMED, **TOO_MUCH}[name]
    write_root(tmp_path / "root", raw, LAYERS.values())
    store = pfreg.Store(tmp_path / "store")
    with pytest.raises(IntegrityError) as caught:
        pfreg.pull(tmp_path / "root", store=store)
    assert says_one_line(caught.value)
    with pytest.raises(IntegrityError):
        pfreg.clone(tmp_path / "root", tmp_path / "out")
    assert store.images() == []
    assert not list(Path(store.path).rglob("*.zst"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "store"]


@pytest.mark.parametrize("store, name, cid", golden.IMAGES, ids=golden.IMAGE_NAMES)
def test_golden_manifests_are_read_and_built_byte_for_byte(store: str, name: str, cid: str) -> None:
    raw = (golden.VECTORS / store / "images" / f"{Digest.parse(cid).hex}.json").read_bytes()
    manifest = Manifest.from_bytes(raw)
    assert (str(manifest.cid), manifest.raw) == (cid, raw)
    again = Manifest.build(
        manifest.layers, agent=manifest.agent, created_at=manifest.created_at, parents=manifest.parents
    )
    assert again == manifest


def test_every_field_of_a_golden_manifest_is_the_one_that_the_original_reports() -> None:
    told = golden.GOLDEN["registry-small"]["manifest"]
    manifest = Manifest.from_bytes((golden.VECTORS / "registry-small" / "manifest.json").read_bytes())
    assert {f"{a}.{b}": told[a][b] for a, b in DIGESTS} == {name: str(digest) for name, digest in manifest.layers}
    assert (manifest.agent.kind, manifest.agent.version, manifest.agent.fingerprint) == ("langgraph", "1.0.15", "pf-py")
    assert (manifest.created_at, list(manifest.parents)) == (told["created_at"], told["parents"])


UNKNOWN = {
    "at the end": RAW[:-1] + b',"zeta":{"new":[1,2.50,"\\u00e9"]}}',
    "at the front": b'{"alpha":null,' + RAW[1:],
    "inside": RAW.replace(b'"kind":"test"', b'"kind":"test","colour":"blue"'),
    "other spacing": json.dumps(json.loads(RAW), indent=2).encode() + b"\n",
    "other order": json.dumps(json.loads(RAW), sort_keys=True).encode(),
    "escaped": RAW.replace(b"tests", b"t\\u0065sts"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_bytes_as_received_name_the_image(name: str) -> None:
    manifest = Manifest.from_bytes(UNKNOWN[name])
    assert manifest.raw == UNKNOWN[name]
    assert manifest.cid == Digest.of(UNKNOWN[name]) != Digest.of(RAW)
    assert manifest.layers == Manifest.from_bytes(RAW).layers


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_fields_travel_and_the_cid_stays(name: str, tmp_path: Path) -> None:
    raw = UNKNOWN[name]
    write_root(tmp_path / "root", raw, LAYERS.values())
    store = pfreg.Store(tmp_path / "store")
    cid = pfreg.pull(tmp_path / "root", store=store).cid
    assert cid == Digest.of(raw)
    assert store.manifest(cid).raw == raw == store.read(cid)
    assert pfreg.push(cid, tmp_path / "second", store=store).cid == cid
    pfreg.copy(tmp_path / "second", tmp_path / "third")
    assert (tmp_path / "second" / "manifest.json").read_bytes() == raw
    assert (tmp_path / "third" / "manifest.json").read_bytes() == raw


@pytest.mark.parametrize("fraction", ["", ".1", ".123", ".123456", ".123456789", ".000000000"])
def test_times_may_have_a_fraction(fraction: str) -> None:
    time = f"2026-11-23T16:01:13{fraction}Z"
    assert Manifest.from_bytes(put(("created_at",), time)).created_at == time


def test_the_present_is_written_as_manifests_have_it() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", now())
    assert Manifest.from_bytes(put(("created_at",), now()))


def test_a_new_image_has_at_most_two_parents_and_a_real_time() -> None:
    layers, agent, cid = Layers(*[Digest.of(b"")] * 8), Agent("k", "v", "f"), Digest.of(b"parent")
    assert Manifest.build(layers, agent=agent, parents=(cid, cid)).parents == (cid, cid)
    with pytest.raises(ManifestError):
        Manifest.build(layers, agent=agent, parents=(cid,) * 3)
    with pytest.raises(ManifestError):
        Manifest.build(layers, agent=agent, created_at="today")
    with pytest.raises(IntegrityError):
        Manifest.build(layers, agent=Agent("\ud800", "v", "f"))


def test_limits_can_be_lowered() -> None:
    for limits in (Limits(manifest_bytes=len(RAW) - 1), Limits(json_depth=1)):
        with pytest.raises(LimitExceeded):
            Manifest.from_bytes(RAW, limits=limits)
    assert Manifest.from_bytes(RAW, limits=Limits(manifest_bytes=len(RAW), json_depth=2))


@given(st.data())
def test_a_manifest_that_is_damaged_somewhere_is_another_or_none(data: st.DataObject) -> None:
    damaged = bytearray(RAW)
    damaged[data.draw(st.integers(0, len(RAW) - 1))] = data.draw(st.integers(0, 255))
    try:
        manifest = Manifest.from_bytes(bytes(damaged))
    except IntegrityError as e:
        assert says_one_line(e)
        return
    assert manifest.raw == damaged and manifest.cid == Digest.of(bytes(damaged))


def test_a_manifest_cannot_be_changed_and_can_be_copied(tmp_path: Path) -> None:
    manifest = in_root(tmp_path / "root", {})
    with pytest.raises(AttributeError):
        manifest.raw = b""  # type: ignore[misc]
    assert copy.deepcopy(manifest) == manifest
