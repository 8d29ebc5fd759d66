"""JSON from strangers: every rule of the module, and that checking them takes linear time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfreg import strict_json
from pfreg.errors import IntegrityError, LimitExceeded
from tests.formats.images import says_one_line


def load(data: bytes) -> Any:
    return strict_json.loads(data, max_bytes=1 << 20, max_depth=8)


REFUSED = {
    "nothing": b"",
    "blank": b"  \n",
    "word": b"hello",
    "single quotes": b"{'a':1}",
    "trailing comma": b"[1,]",
    "comment": b"[1] // one",
    "two values": b"{}{}",
    "trailing NUL": b"{}\0",
    "unfinished list": b"[1",
    "unfinished object": b'{"a":',
    "unfinished string": b'"abc',
    "unfinished escape": b'"abc\\',
    "control character": b'"a\nb"',
    "bad escape": b'"\\x41"',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-32": "{}".encode("utf-32-le"),
    "Latin-1": '"é"'.encode("latin-1"),
    "overlong UTF-8": b'"\xc0\xaf"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "truncated UTF-8": b'"\xe2\x98"',
    "duplicate keys": b'{"a":1,"a":1}',
    "duplicate keys, spelled differently": b'{"a":1,"\\u0061":2}',
    "duplicate keys, deep": b'[{"x":{"k":1,"j":2,"k":3}}]',
    "NaN": b"NaN",
    "NaN inside": b'{"a":[NaN]}',
    "Infinity": b"[Infinity]",
    "negative Infinity": b"[-Infinity]",
    "overflow": b"1e999",
    "negative overflow": b"[-1e400]",
    "integer of 21 digits": b"1" * 21,
    "integer of 5000 digits": b"[" + b"9" * 5000 + b"]",
    "plus": b"+1",
    "hexadecimal": b"0x10",
    "leading zero": b"01",
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'["\\udc00"]',
    "surrogates in the wrong order": b'"\\udc00\\ud800"',
    "surrogate as a key": b'{"\\ud83d":1}',
    "surrogate in a value of a nested list": b'{"a":[{"b":["\\udfff"]}]}',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_a_rule_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        load(REFUSED[name])
    assert says_one_line(caught.value)


ACCEPTED = [
    (b"null", None),
    (b" [1, 2.5, -3e2, true, false] ", [1, 2.5, -300.0, True, False]),
    (b"18446744073709551615", 2**64 - 1),
    ('{"é":"☃"}'.encode(), {"é": "☃"}),
    (b'"\\ud83d\\ude00"', "😀"),
    (b'"\\u0000"', "\0"),
    (b'"\xef\xbb\xbf"', "\ufeff"),
    (b'{"a":1,"A":2,"":3}', {"a": 1, "A": 2, "": 3}),
    (b'["[[[[[[[[[[[[", "\\"[[[[[[[[[[[", "\\\\"]', ["[[[[[[[[[[[[", '"[[[[[[[[[[[', "\\"]),
    (b"1e-999", 0.0),
]


@pytest.mark.parametrize("data, value", ACCEPTED, ids=lambda x: repr(x)[:30])
def test_what_is_fine_is_read(data: bytes, value: Any) -> None:
    assert load(data) == value


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_nesting_is_bounded_exactly(opening: bytes, closing: bytes) -> None:
    each = opening.count(b"[") + opening.count(b"{")
    levels = 8 // each
    assert load(opening * levels + b"1" + closing * levels)
    with pytest.raises(LimitExceeded):
        load(opening * (levels + 1) + b"1" + closing * (levels + 1))


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":[' * 100_000, b'["' + b"x" + b'",[' * 99_999]
)
def test_absurd_nesting_is_refused_before_anything_recurses(data: bytes) -> None:
    with pytest.raises(LimitExceeded):
        load(data)


def test_nesting_that_only_the_parser_finds_too_deep_is_refused_too() -> None:
    with pytest.raises(LimitExceeded):
        strict_json.loads(b"[" * 200_000 + b"]" * 200_000, max_bytes=1 << 20, max_depth=1 << 20)


def test_size_is_bounded_exactly_and_first() -> None:
    assert strict_json.loads(b"[1]", max_bytes=3, max_depth=1) == [1]
    with pytest.raises(LimitExceeded):
        strict_json.loads(b"\xff[[[", max_bytes=3, max_depth=1)


@pytest.mark.parametrize(
    "data",
    [
        b'"' + b'\\"' * 500_000,
        b'"' + b'\\"' * 500_000 + b"\\",
        b'"' * 1_000_001,
        b"[" + b'"\\\\",' * 150_000,
        b"\\" * (1 << 20),
    ],
    ids=["escaped quotes", "and a backslash", "quotes", "escaped backslashes", "backslashes"],
)
def test_an_unfinished_string_takes_linear_time(data: bytes) -> None:
    with pytest.raises(IntegrityError):  # the quadratic way would take hours
        load(data)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_what_we_write_we_read(value: Any) -> None:
    data = strict_json.dumps(value)
    assert strict_json.loads(data, max_bytes=len(data), max_depth=64) == value
    assert data == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@given(
    st.binary(max_size=80)
    | st.text('[]{}",:\\ut1eE.-+0aN\ud800', max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_whatever_comes_is_a_value_or_a_typed_error(data: bytes) -> None:
    try:
        value = load(data)
    except IntegrityError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "\ud800", {"\udfff": 1}, object, {1: {2}}, b"x"], ids=repr
)
def test_what_cannot_be_written_is_refused(value: Any) -> None:
    with pytest.raises(IntegrityError):
        strict_json.dumps(value)


def test_writing_is_compact_unescaped_and_sorted_when_asked() -> None:
    assert strict_json.dumps({"b": "é/☃", "a": [1, 2]}) == '{"b":"é/☃","a":[1,2]}'.encode()
    assert strict_json.dumps({"b": 1, "a": 2}, sort_keys=True) == b'{"a":2,"b":1}'
