"""The effects ledger: the golden chains verify, and no entry can be altered, removed, added or moved unnoticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg.errors import BadOption, IntegrityError
from pfreg.ledger import build_ledger, verify_ledger
from tests import golden
from tests.formats.images import says_one_line

OUTSIDE = golden.GOLDEN["store-small"]["PF_SESSION_SECRET_of_grandchild"]
GOLDEN = {image: golden.GOLDEN["layers"][image]["ledger"].encode() for image in ("parent", "child", "grandchild", "kv")}
EFFECTS = [
    {"tool_id": f"tool-{n}", "ts": f"2026-01-02T03:04:0{n}Z", "idempotency_key": f"k{n}", "side_effect_class": "pure"}
    for n in range(4)
]


@pytest.fixture(autouse=True)
def _no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PF_SESSION_SECRET", raising=False)


@pytest.mark.parametrize("image, entries", [("parent", 0), ("child", 2), ("grandchild", 2), ("kv", 0)])
def test_golden_chains_verify(image: str, entries: int) -> None:
    assert verify_ledger(GOLDEN[image], secret_hex=OUTSIDE if image == "grandchild" else None) == entries


def test_golden_ledgers_of_a_merge_verify(tmp_path: Path) -> None:
    store = golden.opened("store-merged", tmp_path)
    told = json.loads(golden.GOLDEN["store-merged"]["ledger_text"])
    assert [verify_ledger(store.read(told[name])) for name in ("parent_a", "parent_b", "ancestor")] == [1, 1, 1]


def test_a_secret_that_is_kept_outside_is_needed() -> None:
    for secret in (None, "00" * 32, OUTSIDE[:-2] + "00"):
        with pytest.raises(IntegrityError) as caught:
            verify_ledger(GOLDEN["grandchild"], secret_hex=secret)
        assert says_one_line(caught.value)
    with pytest.raises(BadOption):
        verify_ledger(GOLDEN["grandchild"], secret_hex="no hexadecimal")


def ours() -> bytes:
    return build_ledger(EFFECTS, secret_hex=OUTSIDE)


def breaks(lines: list[bytes], secret: str | None = OUTSIDE) -> bool:
    try:
        verify_ledger(b"".join(line + b"\n" for line in lines), secret_hex=secret)
    except IntegrityError as e:
        return says_one_line(e)
    return False


def recount(lines: list[bytes]) -> list[bytes]:
    """Return the lines under a header that states their number, as a forger would."""
    header = {**json.loads(lines[0]), "entries": len(lines) - 1}
    return [json.dumps(header, separators=(",", ":")).encode(), *lines[1:]]


@pytest.mark.parametrize("raw", [GOLDEN["child"], GOLDEN["grandchild"], ours()], ids=["child", "grandchild", "ours"])
def test_every_way_to_change_a_chain_breaks_it(raw: bytes) -> None:
    lines = raw.splitlines()
    assert not breaks(lines)
    for n in range(1, len(lines)):
        for name, value in json.loads(lines[n]).items():
            altered = {**json.loads(lines[n]), name: value + "0"}
            assert breaks([*lines[:n], json.dumps(altered, separators=(",", ":")).encode(), *lines[n + 1 :]]), name
        if n + 1 < len(lines):
            assert breaks(recount([*lines[:n], *lines[n + 1 :]])), "removed"
            assert breaks([*lines[:n], lines[n + 1], lines[n], *lines[n + 2 :]]), "swapped"
        assert breaks(recount([*lines[:n], lines[n], *lines[n:]])), "repeated"
        assert breaks([*lines[:n], lines[n][:-1], *lines[n + 1 :]]), "cut"
        assert breaks([*lines[:n], b"7", *lines[n + 1 :]]), "no object"
    assert breaks(lines[:-1]), "the last one removed"
    assert breaks([*lines, lines[-1]]), "one added"
    assert breaks(lines[1:]), "no header"
    assert breaks([]), "nothing"


@pytest.mark.parametrize(
    "header",
    [
        {"entries": 0, "kind": "effects.ledger.v2"}, {"entries": 1, "kind": "effects.ledger.v1"}, {"entries": 0},
        {"entries": "0", "kind": "effects.ledger.v1"}, {"kind": "effects.ledger.v1"}, [], "effects.ledger.v1", None,
    ],
)  # fmt: skip
def test_a_wrong_header_is_found(header: Any) -> None:
    assert breaks([json.dumps(header).encode()])


def test_ours_has_the_originals_shape() -> None:
    header, first, *_ = ours().splitlines()
    assert header == b'{"entries":4,"kind":"effects.ledger.v1"}'
    golden_entry = GOLDEN["grandchild"].splitlines()[1]
    assert list(json.loads(first)) == list(json.loads(golden_entry))


def test_ours_is_the_originals_for_the_same_effects() -> None:
    told = [json.loads(line) for line in GOLDEN["grandchild"].splitlines()[1:]]
    effects = [{name: value for name, value in entry.items() if name != "session_hmac"} for entry in told]
    assert build_ledger(effects, secret_hex=OUTSIDE) == GOLDEN["grandchild"]


def test_a_secret_is_embedded_only_if_none_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = build_ledger(EFFECTS)
    assert verify_ledger(embedded) == 4
    assert json.loads(embedded.splitlines()[0])["verification_mode"] == "tamper-detection"
    assert build_ledger(EFFECTS).splitlines()[0] != embedded.splitlines()[0]
    monkeypatch.setenv("PF_SESSION_SECRET", OUTSIDE)
    assert build_ledger(EFFECTS) == ours()
    assert OUTSIDE.encode() not in ours()


@pytest.mark.parametrize(
    "effect",
    [
        {}, {"tool_id": ""}, {"tool_id": 7}, {"tool_id": "t", "ts": 5}, {"tool_id": "t", "colour": "blue"}, "tool",
        None,
        {"tool_id": "t", "side_effect_class": "Pure"}, {"tool_id": "t", "args_hash": None}, ["tool_id"],
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_effect_is_refused(effect: Any) -> None:
    with pytest.raises(BadOption) as caught:
        build_ledger([effect])
    assert says_one_line(caught.value)


def test_a_malformed_secret_is_refused() -> None:
    with pytest.raises(BadOption):
        build_ledger(EFFECTS, secret_hex="not hexadecimal")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(
        st.fixed_dictionaries({"tool_id": texts.filter(bool)}, optional={"idempotency_key": texts, "ts": texts}),
        max_size=5,
    )
)
def test_whatever_is_recorded_verifies(effects: list[dict[str, str]]) -> None:
    assert verify_ledger(build_ledger(effects, secret_hex="ab" * 32), secret_hex="ab" * 32) == len(effects)


def test_a_snapshots_ledger_verifies(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    store = pfreg.Store(tmp_path / "store")
    image = pfreg.snapshot(tmp_path / "tree", store=store, effects=EFFECTS)
    assert verify_ledger(store.read(image.manifest.layers.effects_ledger)) == 4
