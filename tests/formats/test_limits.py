"""Limits are positive numbers, all of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from pfreg.errors import BadOption
from pfreg.limits import DEFAULT_LIMITS, Limits
from tests.formats.images import says_one_line

NAMES = [field.name for field in fields(Limits)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", None, True, float("inf")])
def test_a_limit_is_a_positive_integer(name: str, value: Any) -> None:
    with pytest.raises(BadOption) as caught:
        Limits(**{name: value})
    assert name in caught.value.problem
    assert says_one_line(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_can_be_set_and_none_changed(name: str) -> None:
    limits = Limits(**{name: 1})
    assert getattr(limits, name) == 1
    assert {other: getattr(limits, other) for other in NAMES if other != name} == {
        other: getattr(DEFAULT_LIMITS, other) for other in NAMES if other != name
    }
    with pytest.raises(AttributeError):
        setattr(limits, name, 2)
