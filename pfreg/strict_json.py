"""JSON from strangers.

Rules
-----
- The text is UTF-8 without a byte order mark; strings hold no lone surrogates.
- No duplicate keys, no ``NaN`` or ``Infinity``, no number that overflows, no integer of more than 20 digits.
- Size and nesting are bounded, and nesting is checked before the parser recurses.
- Python's own parser does the rest; it accepts all of the above, which is why this module exists.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pfreg.errors import IntegrityError, LimitExceeded

__all__ = ["dumps", "loads"]

_MAX_INT_DIGITS = 20  # 2**64 has 20
# An unfinished string reaches to the end; failing there would try again at every quote inside, in quadratic time.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def loads(data: bytes, *, max_bytes: int, max_depth: int) -> Any:
    """Parse `data`.

    Parameters
    ----------
    data : bytes
        The whole text.
    max_bytes, max_depth : int
        Bounds on its length and its nesting.

    Raises
    ------
    LimitExceeded
        If a bound is passed.
    IntegrityError
        If a rule of this module is broken.
    """
    if len(data) > max_bytes:
        raise LimitExceeded(f"JSON of {len(data)} bytes, more than {max_bytes}")
    _check_depth(data, max_depth)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise IntegrityError(f"not UTF-8 at byte {e.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_finite,
        )
    except json.JSONDecodeError as e:
        raise IntegrityError(f"not JSON: {e.msg} at character {e.pos}") from None
    except RecursionError:
        raise LimitExceeded("JSON is nested too deeply") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """Return `value` as the formats want it: compact, UTF-8, unescaped, no trailing newline."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as e:  # UnicodeEncodeError is a ValueError
        raise IntegrityError(f"cannot be written as JSON: {type(e).__name__}") from e


def _check_depth(data: bytes, max_depth: int) -> None:
    depth = 0
    # Where nothing is escaped, every second quote ends a string, which is found faster than by a pattern.
    outside = _STRING.sub(b"", data) if b"\\" in data else b"".join(data.split(b'"')[::2])
    for bracket in outside.translate(None, _NOT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > max_depth:
                raise LimitExceeded(f"JSON is nested deeper than {max_depth}")
        else:
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise IntegrityError(f"duplicate key {key[:80]!r}")
            seen.add(key)
    return result


def _no_constant(name: str) -> Any:
    raise IntegrityError(f"{name} is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_INT_DIGITS:
        raise IntegrityError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise IntegrityError("a number that overflows")
    return value


def _check_surrogates(value: Any) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise IntegrityError("a string with a lone surrogate") from None
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
