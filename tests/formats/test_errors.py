"""Every error can be caught without knowing pfreg, crosses processes, and speaks in one line."""

from __future__ import annotations

import builtins
import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg import errors
from pfreg.errors import PfregError, one_line

ERRORS = [getattr(errors, name) for name in errors.__all__ if name != "PfregError"]
BUILT_IN = {
    "AccessDenied": PermissionError,
    "BadReference": ValueError,
    "BlobNotFound": FileNotFoundError,
    "Conflict": FileExistsError,
    "FolderNotFound": FileNotFoundError,
    "ImageNotFound": FileNotFoundError,
    "IntegrityError": ValueError,
    "MissingDependency": ImportError,
    "SignatureError": ValueError,
    "StorageFull": OSError,
    "TargetExists": FileExistsError,
    "TransferError": OSError,
    "UnreadableFile": PermissionError,
    "UnsupportedRegistry": NotImplementedError,
}


def made(kind: type[PfregError]) -> PfregError:
    return kind("is wrong", operation="push", place="s3://bucket/x", hint="put it right")


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_each_is_one_of_ours_and_one_of_pythons(kind: type[PfregError]) -> None:
    assert issubclass(kind, PfregError)
    assert kind.__doc__
    assert getattr(pfreg, kind.__name__) is kind
    pythons = {base for base in kind.__mro__ if base.__module__ == builtins.__name__}
    assert pythons - {Exception, BaseException, object}
    assert issubclass(kind, BUILT_IN.get(kind.__name__, Exception))


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_each_says_operation_place_problem_and_hint(kind: type[PfregError]) -> None:
    error = made(kind)
    assert str(error) == "push s3://bucket/x: is wrong (put it right)"
    assert str(kind("is wrong")) == "is wrong"
    assert str(kind("is wrong", place="here")) == "here: is wrong"


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_each_crosses_processes(kind: type[PfregError], protocol: int) -> None:
    for error in (pickle.loads(pickle.dumps(made(kind), protocol)), copy.copy(made(kind)), copy.deepcopy(made(kind))):
        assert type(error) is kind
        assert (error.problem, error.operation, error.place, error.hint) == (
            "is wrong", "push", "s3://bucket/x", "put it right",
        )  # fmt: skip
        assert str(error) == str(made(kind))


def test_absent_is_never_forbidden() -> None:
    assert not issubclass(errors.AccessDenied, FileNotFoundError)
    assert not issubclass(errors.TransferError, FileNotFoundError)
    assert not issubclass(errors.BlobNotFound, errors.IntegrityError)


@given(st.text(max_size=300), st.text(max_size=50), st.text(max_size=50), st.text(max_size=300))
def test_whatever_is_in_it_an_error_is_one_printable_line(problem: str, operation: str, place: str, hint: str) -> None:
    text = str(PfregError(problem, operation=operation, place=place, hint=hint))
    assert text.isprintable()
    assert len(text) <= 600
    text.encode("utf-8")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain ☃ text", "plain ☃ text"), ("two\nlines", "two\\nlines"), ("\x1b[31mred",
        "\\x1b[31mred"), ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"), ("a\u2028b", "a\\u2028b"), ("\0", "\\x00"), ("x" * 700, "x" * 597 + "..."),
    ],
    ids=ascii,
)  # fmt: skip
def test_nothing_in_a_name_can_forge_a_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
