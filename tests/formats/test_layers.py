"""What each layer reaches, of every kind that the formats know, and that nothing malformed is skipped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pfreg.digest import Digest
from pfreg.errors import IntegrityError, LayerError, LimitExceeded
from pfreg.layers import Reached, reached
from pfreg.limits import Limits
from pfreg.manifest import CACHE_LAYOUT
from tests import golden
from tests.formats.hostile_trees import file, link, tree
from tests.formats.images import LAYERS, compact, d, says_one_line

A, B, C, D = (Digest.of(letter) for letter in (b"a", b"b", b"c", b"d"))
NAMES = list(LAYERS)
READ = [name for name in NAMES if name not in ("model.base", "trace.messages")]
OPTIONAL = [name for name in READ if name not in ("world.fs", "cache.manifest")]
ENTRY = {
    "ts": "2026-01-02T03:04:05Z", "tool_id": "t", "args_hash": str(A), "idempotency_key": "k", "result_hash": str(B),
    "side_effect_class": "pure", "session_hmac": "0" * 64,
}  # fmt: skip
HEADER = {"entries": 1, "kind": "effects.ledger.v1"}


def pages(*found: Any) -> bytes:
    return compact({"layout": CACHE_LAYOUT, "page_size_tokens": 16, "pages": list(found)})


def merged(**fields: Any) -> bytes:
    value = {"kind": "effects.merged.v1", "parent_a": str(A), "parent_b": str(B), "ancestor": str(C)}
    return compact({**value, "replay_with_new_key": [], "summary": {}, **fields})


def browser(*found: Any, **fields: Any) -> bytes:
    return compact({"kind": "browser.cdp.v1", "pages": list(found), **fields})


def criu(**fields: Any) -> bytes:
    return compact({"kind": "procs.criu.v1", "criu_dump": str(A), "pids": [1, 2], **fields})


def lines(*values: Any, end: bytes = b"\n") -> bytes:
    return b"".join(compact(value) + end for value in values)


def what(name: str, raw: bytes) -> list[Reached]:
    return list(reached(name, raw))


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_an_empty_image_reach_nothing(name: str) -> None:
    assert what(name, LAYERS[name]) == []


def test_a_tree_reaches_its_files_and_targets_with_their_sizes() -> None:
    raw = tree(file("x"), file("y"), link("l", "a"))
    content = file("x")
    assert what("world.fs", raw) == [Reached(Digest.parse(content["blob"]), content["size"]), Reached(A, 1)]


def test_a_page_manifest_reaches_every_k_and_v() -> None:
    raw = pages({"ix": 0, "k": str(A), "v": str(B)}, {"ix": 1, "k": str(C), "v": str(B)})
    assert what("cache.manifest", raw) == [Reached(A), Reached(B), Reached(C), Reached(B)]


def test_a_merged_ledger_reaches_three_ledgers_that_are_read_in_turn() -> None:
    expected = [Reached(digest, layer="effects.ledger") for digest in (A, B, C)]
    assert what("effects.ledger", merged()) == expected
    assert what("effects.ledger", json.dumps(json.loads(merged()), indent=1).encode()) == expected


def test_a_frozen_process_reaches_its_dump() -> None:
    assert what("world.procs", criu()) == [Reached(A)]


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_browser_reaches_bodies_and_cookies_wherever_it_is(name: str) -> None:
    raw = browser(
        {"mhtml_digest": str(A), "cookies_digest": str(B)}, {"mhtml_digest": str(C), "cookies_digest": str(D)}
    )
    assert what(name, raw) == [Reached(A), Reached(B), Reached(C), Reached(D)]


@pytest.mark.parametrize("name", ["model.base", "trace.messages"])
@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"{", merged(), pages({}), str(A).encode()])
def test_opaque_layers_reach_nothing_whatever_they_hold(name: str, raw: bytes) -> None:
    assert what(name, raw) == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_ledgers_hashes_are_no_blobs(end: bytes) -> None:
    assert what("effects.ledger", lines(HEADER, ENTRY, ENTRY, end=end)) == []
    assert what("effects.ledger", compact(HEADER)) == []


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_layer_may_be_empty(name: str) -> None:
    assert what(name, b"") == []


@pytest.mark.parametrize("name", ["world.fs", "cache.manifest"])
@pytest.mark.parametrize("raw", [b"", b"{}", compact(HEADER), browser(), criu(), merged()])
def test_a_tree_and_a_page_manifest_may_be_nothing_else(name: str, raw: bytes) -> None:
    with pytest.raises(LayerError):
        what(name, raw)
    other = LAYERS["cache.manifest" if name == "world.fs" else "world.fs"]
    with pytest.raises(LayerError):
        what(name, other)


UNKNOWN = [
    {"kind": "env.v9", "x": 1},
    {"layout": "model.diff.v2", "weights": "sha256-of-something"},
    {},
    {"kind": None},
    {"kind": 7},
    {"kind": ["procs.criu.v1"]},
    {"kind": {"a": 1}},
]


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("value", UNKNOWN, ids=repr)
def test_a_layer_of_an_unknown_kind_is_fine_until_it_names_a_digest(name: str, value: dict[str, Any]) -> None:
    assert what(name, compact(value)) == []
    assert what(name, compact({**value, "short": "sha256:abc", "long": str(A) + "0"})) == []
    for more in ({"blob": str(A)}, {"deep": [{"er": {"still": [str(A)]}}]}, {str(A): 1}, {"text": f"see {A}."}):
        with pytest.raises(LayerError) as caught:
            what(name, compact({**value, **more}))
        assert says_one_line(caught.value)


@pytest.mark.parametrize("kind", ["env.v1", "procs.unsupported.v1", "effects.ledger.v1"])
def test_a_known_kind_that_reaches_nothing_may_hold_any_text(kind: str) -> None:
    assert what("world.env", compact({"kind": kind, "vars": {"LAST_IMAGE": str(A)}})) == []


MALFORMED: dict[str, tuple[str, bytes]] = {
    "pages that are no list": ("cache.manifest", compact({"layout": CACHE_LAYOUT, "pages": {}})),
    "no pages": ("cache.manifest", compact({"layout": CACHE_LAYOUT})),
    "a page that is no object": ("cache.manifest", pages([str(A), str(B)])),
    "a page without v": ("cache.manifest", pages({"ix": 0, "k": str(A)})),
    "a page whose k is null": ("cache.manifest", pages({"ix": 0, "k": None, "v": str(B)})),
    "a page whose v is no digest": ("cache.manifest", pages({"k": str(A), "v": "sha256:xyz"})),
    "a page whose k is in upper case": ("cache.manifest", pages({"k": "sha256:" + A.hex.upper(), "v": str(B)})),
    "the last page malformed": ("cache.manifest", pages({"k": str(A), "v": str(B)}, {"k": str(A), "v": ""})),
    "a merged ledger without an ancestor": ("effects.ledger", merged(ancestor=None)),
    "a merged ledger whose parent is a number": ("effects.ledger", merged(parent_a=1)),
    "a merged ledger whose parent is short": ("effects.ledger", merged(parent_b=str(A)[:-1])),
    "a merged ledger whose parents are a list": ("effects.ledger", merged(parent_a=[str(A)])),
    "a dump that is missing": ("world.procs", compact({"kind": "procs.criu.v1", "pids": []})),
    "a dump that is a path": ("world.procs", criu(criu_dump="/var/lib/dump")),
    "a browser without pages": ("world.procs", compact({"kind": "browser.cdp.v1"})),
    "a browser with one page": ("world.procs", compact({"kind": "browser.cdp.v1", "pages": {"mhtml_digest": str(A)}})),
    "a browser's page without cookies": ("world.procs", browser({"mhtml_digest": str(A)})),
    "a browser's page that is a digest": ("world.procs", browser(str(A))),
    "a tree with a wrong entry": ("world.fs", tree(file("a", blob="sha256:0"))),
    "a tree of two sizes for a blob": ("world.fs", tree(file("a"), file("b", size=1))),
    "a ledger with a line that is no JSON": ("effects.ledger", lines(HEADER) + b"entry\n"),
    "a ledger with an empty line": ("effects.ledger", lines(HEADER) + b"\n" + lines(ENTRY)),
    "a ledger with a line that is a list": ("effects.ledger", lines(HEADER, [ENTRY])),
    "a ledger whose last line is cut off": ("effects.ledger", lines(HEADER, ENTRY)[:-5]),
    "a ledger whose header comes second": ("effects.ledger", lines(ENTRY, HEADER)),
    "a ledger with a duplicate key": ("effects.ledger", lines(HEADER) + b'{"ts":1,"ts":2}\n'),
    **{f"{name} that is no JSON": (name, b"layer") for name in READ},
    **{f"{name} that is no UTF-8": (name, b'{"kind":"\xff"}') for name in READ},
    **{f"{name} with a byte order mark": (name, b"\xef\xbb\xbf" + LAYERS[name]) for name in READ},
    **{f"{name} that is a list": (name, b"[" + LAYERS[name].strip() + b"]") for name in READ},
    **{f"{name} that is text": (name, b'"kind"') for name in READ},
    **{f"{name} with a duplicate key": (name, LAYERS[name].strip()[:-1] + b',"kind":1,"kind":2}') for name in READ},
    **{f"{name} that is cut off": (name, LAYERS[name].strip()[:-1]) for name in READ},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_layer_is_an_error_that_names_the_layer(case: str) -> None:
    name, raw = MALFORMED[case]
    with pytest.raises(LayerError) as caught:
        what(name, raw)
    assert says_one_line(caught.value)
    assert name in f"{caught.value.operation} {caught.value.place}"


@pytest.mark.parametrize("name", READ)
def test_layers_are_bounded(name: str) -> None:
    deep = b'{"x":' + b"[" * 64 + b"]" * 64 + b"}"
    for raw, limits in ((deep, Limits()), (LAYERS[name], Limits(layer_bytes=10))):
        with pytest.raises(LimitExceeded) as caught:
            list(reached(name, raw, limits=limits))
        assert says_one_line(caught.value)


def test_looking_for_a_ledgers_header_takes_linear_time() -> None:
    raw = b"{" + b'"kind":"effects.ledger.v1"' * 100_000
    with pytest.raises(IntegrityError):  # the quadratic way would take minutes
        what("effects.ledger", raw)


@pytest.mark.parametrize("image", ["parent", "child", "grandchild", "kv"])
def test_golden_layers_reach_what_they_should(image: str) -> None:
    layers = golden.GOLDEN["layers"][image]
    assert what("effects.ledger", layers["ledger"].encode()) == []
    assert what("world.env", layers["env"].encode()) == what("world.procs", layers["procs"].encode()) == []
    told = golden.GOLDEN["store-cache"]["pages"] if image == "kv" else []
    expected = [page[half] for page in told for half in ("k", "v")]
    assert [str(blob.digest) for blob in what("cache.manifest", layers["cache_manifest"].encode())] == expected


def test_the_golden_merged_ledger_reaches_its_three() -> None:
    text = golden.GOLDEN["store-merged"]["ledger_text"]
    told = json.loads(text)
    assert [str(blob.digest) for blob in what("effects.ledger", text.encode())] == [
        told[name] for name in ("parent_a", "parent_b", "ancestor")
    ]
    assert d(text.encode())
