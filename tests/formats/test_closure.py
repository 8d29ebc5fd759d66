"""The closure of an image: everything that it reaches, through ledgers of ledgers too, and nothing twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import pfreg
from pfreg.closure import closure, depth_of, lineage
from pfreg.digest import Digest
from pfreg.errors import BadOption, BlobNotFound, ImageNotFound, IntegrityError, LayerError, LimitExceeded
from pfreg.limits import Limits
from pfreg.manifest import Manifest
from tests import golden
from tests.formats.hostile_trees import CONTENT, file, link, tree
from tests.formats.images import LAYERS, compact, d, in_root, manifest_of, says_one_line

LEDGER = b'{"entries":0,"kind":"effects.ledger.v1","session_secret_hex":"%d"}\n'


class Blobs:
    """Contents by digest, which count how often each is read."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {Digest.of(content): content for content in (*LAYERS.values(), *contents)}
        self.reads: dict[Digest, int] = {}

    def __call__(self, digest: Digest, *, limit: int) -> bytes:
        self.reads[digest] = self.reads.get(digest, 0) + 1
        if digest not in self.contents:
            raise BlobNotFound("missing", place=str(digest))
        assert len(self.contents[digest]) <= limit
        return self.contents[digest]


def merged(a: bytes, b: bytes, ancestor: bytes) -> bytes:
    return compact({"kind": "effects.merged.v1", "parent_a": d(a), "parent_b": d(b), "ancestor": d(ancestor)})


def image(layers: Mapping[str, bytes], *more: bytes) -> tuple[Manifest, Blobs]:
    return manifest_of(layers), Blobs(*layers.values(), *more)


def test_an_empty_image_reaches_its_eight_layers() -> None:
    manifest, blobs = image({})
    assert closure(manifest, blobs) == dict.fromkeys((Digest.of(raw) for raw in LAYERS.values()), None)
    assert max(blobs.reads.values()) == 1
    assert not {Digest.of(LAYERS[name]) for name in ("model.base", "trace.messages")} & blobs.reads.keys()


def test_ledgers_of_ledgers_are_followed_to_the_end() -> None:
    a, b, c, x = (LEDGER % n for n in range(4))
    inner = merged(a, b, x)
    middle = merged(inner, c, x)
    outer = merged(middle, inner, merged(c, c, c))
    manifest, blobs = image({"effects.ledger": outer}, a, b, c, x, inner, middle, merged(c, c, c))
    reach = closure(manifest, blobs)
    assert {Digest.of(raw) for raw in (a, b, c, x, inner, middle, outer, merged(c, c, c))} <= reach.keys()
    assert max(blobs.reads.values()) == 1


def test_a_long_chain_of_ledgers_neither_recurses_nor_repeats() -> None:
    chain = [LEDGER % 0]
    for _ in range(3000):
        chain.append(merged(chain[-1], chain[-1], chain[0]))
    manifest, blobs = image({"effects.ledger": chain[-1]}, *chain)
    assert closure(manifest, blobs).keys() >= {Digest.of(raw) for raw in chain}
    assert max(blobs.reads.values()) == 1


@pytest.mark.parametrize("broken", [b"", b"{", b'{"kind":"effects.ledger.v1"', compact({"kind": "new", "x": d(b"y")})])
def test_a_ledger_that_is_broken_is_found_however_deep(broken: bytes) -> None:
    fine = LEDGER % 1
    manifest, blobs = image({"effects.ledger": merged(fine, merged(fine, broken, fine), fine)}, fine, broken)
    blobs.contents[Digest.of(merged(fine, broken, fine))] = merged(fine, broken, fine)
    if not broken:
        assert Digest.of(b"") in closure(manifest, blobs)  # an empty ledger reaches nothing
        return
    with pytest.raises(LayerError):
        closure(manifest, blobs)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("model.base", "trace.messages")])
def test_a_layer_that_is_missing_is_an_error(name: str) -> None:
    manifest, blobs = image({})
    del blobs.contents[Digest.of(LAYERS[name])]
    with pytest.raises(BlobNotFound):
        closure(manifest, blobs)


def test_sizes_are_told_where_a_layer_states_them() -> None:
    manifest, blobs = image({"world.fs": tree(file("a"), link("l", "a"))})
    reach = closure(manifest, blobs)
    assert reach[Digest.of(CONTENT)] == len(CONTENT)
    assert reach[Digest.of(b"a")] == 1
    assert reach[manifest.layers.world_fs] is None


def test_a_blob_that_is_a_layer_and_a_file_is_one_blob_and_still_followed() -> None:
    """A file with the very text of the ledger must not hide that the ledger reaches more."""
    fine = LEDGER % 2
    ledger = merged(fine, fine, fine)
    world = tree(file("copy of the ledger", blob=d(ledger), size=len(ledger)))
    manifest, blobs = image({"effects.ledger": ledger, "world.fs": world}, fine)
    reach = closure(manifest, blobs)
    assert reach[Digest.of(ledger)] == len(ledger)
    assert Digest.of(fine) in reach


def test_one_blob_as_two_layers_is_read_as_both() -> None:
    raw = compact({"kind": "browser.cdp.v1", "pages": [{"mhtml_digest": d(b"m"), "cookies_digest": d(b"c")}]})
    manifest, blobs = image({"world.procs": raw, "world.env": raw, "model.base": raw})
    assert {Digest.of(b"m"), Digest.of(b"c")} <= closure(manifest, blobs).keys()


def test_a_layer_over_its_limit_is_an_error(tmp_path: Path) -> None:
    manifest, _ = image({})
    store = pfreg.Store(tmp_path, limits=Limits(layer_bytes=8))
    store.stage_many(list(LAYERS.values()))
    store.files.flush()
    with pytest.raises(LimitExceeded) as caught:
        closure(manifest, store.content, limits=store.limits)
    assert says_one_line(caught.value)


@pytest.mark.parametrize("store, name, cid", golden.IMAGES, ids=golden.IMAGE_NAMES)
def test_a_golden_image_reaches_only_what_its_store_has(store: str, name: str, cid: str, tmp_path: Path) -> None:
    opened = golden.opened(store, tmp_path)
    reach = closure(opened.manifest(cid), opened.content)
    assert reach.keys() <= opened.listing().keys()
    for digest, size in reach.items():
        assert size is None or len(opened.read(digest)) == size


@pytest.mark.parametrize("root", golden.REGISTRIES)
def test_a_golden_root_holds_exactly_its_closure(root: str, tmp_path: Path) -> None:
    store = pfreg.Store(tmp_path / "store")
    secret = pfreg.HmacVerifier("secret-key-1") if root == "registry-keyed" else None
    image = pfreg.pull(golden.copied(root, tmp_path), store=store, verifier=secret)
    told = golden.GOLDEN[root]["blobs"]
    assert {str(digest) for digest in closure(image.manifest, store.content)} == set(told)


def test_every_golden_store_is_reached_by_its_images_but_for_drafts_of_ledgers(tmp_path: Path) -> None:
    """Nothing that an image reaches is overlooked: the original leaves a ledger without its secret behind, no more."""
    for name in golden.STORES:
        opened = golden.opened(name, tmp_path)
        reach = {digest for image in opened.images() for digest in (image.cid, *closure(image, opened.content))}
        left = [opened.read(digest) for digest in opened.listing().keys() - reach]
        assert all(re.match(rb'\{"entries":\d,"kind":"effects\.ledger\.v1"\}\n', raw) for raw in left)


def test_history_is_a_number_of_generations_or_all() -> None:
    assert (depth_of(0), depth_of(3), depth_of("all")) == (0, 3, None)
    for wrong in (-1, True, 1.0, "some", None, "1"):
        with pytest.raises(BadOption):
            depth_of(wrong)  # type: ignore[arg-type]


def family() -> dict[str, Manifest]:
    """Return a diamond above a line: g2 -> g1 -> (a, b) -> child."""
    g2 = manifest_of({"model.base": b"g2"})
    g1 = manifest_of({"model.base": b"g1"}, parents=(g2.cid,))
    a = manifest_of({"model.base": b"a"}, parents=(g1.cid,))
    b = manifest_of({"model.base": b"b"}, parents=(g1.cid,))
    child = manifest_of({"model.base": b"child"}, parents=(a.cid, b.cid))
    return {"g2": g2, "g1": g1, "a": a, "b": b, "child": child}


def ancestors(history: int | str, *, absent: str = "", limits: Limits | None = None) -> list[str]:
    members = family()
    names = {manifest.cid: name for name, manifest in members.items()}

    def load(cid: Digest) -> Manifest:
        if names[cid] == absent:
            raise ImageNotFound("not here", place="store")
        return members[names[cid]]

    found = lineage(members["child"], load, history=history, limits=limits or Limits())
    return [names[manifest.cid] for manifest in found]


def test_ancestors_come_once_nearest_first() -> None:
    assert ancestors(0) == []
    assert ancestors(1) == ["a", "b"]
    assert ancestors(2) == ["a", "b", "g1"]
    assert ancestors(9) == ancestors("all") == ["a", "b", "g1", "g2"]


def test_a_generation_that_is_demanded_must_be_there() -> None:
    assert ancestors("all", absent="g1") == ["a", "b"]
    assert ancestors("all", absent="a") == ["b", "g1", "g2"]
    assert ancestors(1, absent="g1") == ["a", "b"]
    for history, absent in ((2, "g1"), (1, "a"), (3, "g2")):
        with pytest.raises(ImageNotFound) as caught:
            ancestors(history, absent=absent)
        assert says_one_line(caught.value)


def test_history_is_bounded() -> None:
    with pytest.raises(LimitExceeded):
        ancestors("all", limits=Limits(history=3))


@pytest.mark.parametrize("missing", ["a", "inner", "x"])
def test_an_image_with_nested_merges_travels_whole_or_not_at_all(missing: str, tmp_path: Path) -> None:
    a, b, x = LEDGER % 1, LEDGER % 2, LEDGER % 3
    inner = merged(a, b, x)
    parts = {"a": a, "b": b, "x": x, "inner": inner}
    manifest = in_root(tmp_path / "root", {"effects.ledger": merged(inner, b, x)}, parts.values())
    store = pfreg.Store(tmp_path / "store")
    pfreg.pull(tmp_path / "root", store=store)
    pfreg.push(manifest.cid, tmp_path / "pushed", store=store)
    pfreg.copy(tmp_path / "pushed", "memory://closure/" + missing)
    again = pfreg.Store(tmp_path / "again")
    pfreg.pull("memory://closure/" + missing, store=again)
    assert all(again.read(Digest.of(part)) == part for part in parts.values())
    digest = Digest.of(parts[missing])
    (tmp_path / "root" / pfreg.layout.blob_path(digest)).unlink()
    with pytest.raises((BlobNotFound, IntegrityError)):
        pfreg.pull(tmp_path / "root", store=tmp_path / "third")
    assert pfreg.Store(tmp_path / "third").images() == []
