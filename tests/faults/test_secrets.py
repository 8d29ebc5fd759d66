"""Secrets stay secret: whatever a filesystem puts into its exceptions, none reaches an error, a log or a result."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.registry import Registry
from pfreg.results import to_json

from . import flaky
from .flaky import LOUD, PROTOCOLS, World

pytestmark = pytest.mark.usefixtures("quick")

KEY = "AKIAexample+key/with=signs"
NESTED = "nested-token-0123456789"
LISTED = "listed-secret-0123456789"
SIGN_KEY = "the secret that signs 0123456789"
SECRETS = (KEY, NESTED, LISTED, SIGN_KEY)
OPTIONS = {"key": KEY, "client": {"headers": {"token": NESTED}}, "more": [LISTED, ("a", LISTED)], "region": "eu"}
TEXT = f"403 for key={KEY} with {NESTED!r}, {LISTED}"

VERBS: dict[str, Callable[[Any, Path, str, Path], Any]] = {
    "push": lambda image, store, url, out: pfreg.push(image, url, store=store, storage_options=OPTIONS, jobs=1),
    "pull": lambda image, store, url, out: pfreg.pull(url, store=out, storage_options=OPTIONS, jobs=1),
    "clone": lambda image, store, url, out: pfreg.clone(url, out, storage_options=OPTIONS, jobs=1),
    "copy": lambda image, store, url, out: pfreg.copy(url, out, storage_options=OPTIONS, jobs=1),
    "copy to": lambda image, store, url, out: pfreg.copy(
        url, "flaky://other", storage_options=OPTIONS, target_options=OPTIONS, jobs=1
    ),
    "exists": lambda image, store, url, out: pfreg.exists(url, storage_options=OPTIONS),
    "inspect": lambda image, store, url, out: pfreg.inspect(url, storage_options=OPTIONS),
    "verify": lambda image, store, url, out: pfreg.verify(url, storage_options=OPTIONS, jobs=1),
    "prune": lambda image, store, url, out: pfreg.prune(url, grace=0, dry_run=False, storage_options=OPTIONS),
}


def told(error: BaseException) -> str:
    """Return everything that an error tells anybody: text, repr, fields, traceback, and what survives pickling."""
    parts = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    copy = pickle.loads(pickle.dumps(error))
    return "\n".join([*parts, str(copy), repr(copy), repr(vars(copy))])


def no_secret_in(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


@pytest.fixture(autouse=True)
def options_are_taken(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """The flaky filesystems put their options into their texts, as careless clients do."""
    monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", SIGN_KEY)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_tells(
    world: World, tmp_path: Path, store: pfreg.Store, new: Any, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str], protocol: str, verb: str,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    url = f"{protocol}://root"
    pushed = VERBS["push"](new, Path(store.path), url, tmp_path)
    whole = dict(world.files)
    failures = 0
    for kind in LOUD:
        for at in (0, 3, 5, 8):
            world.files = {} if verb == "push" else dict(whole)
            world.arm(at, kind, text=TEXT, always=True)
            try:
                result = VERBS[verb](new, Path(store.path), url, tmp_path / f"out {kind} {at}")
            except pfreg.PfregError as e:
                failures += 1
                no_secret_in(told(e))
            else:
                no_secret_in(f"{result!r} {to_json(result)}" if is_dataclass(result) else repr(result))
    world.arm()
    assert failures >= len(LOUD)
    no_secret_in(repr(pushed) + str(to_json(pushed)))
    no_secret_in(caplog.text)
    no_secret_in("".join(capfd.readouterr()))


def test_a_secret_in_the_cause_of_a_cause(
    world: World, store: pfreg.Store, new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client wraps what its own client raised: the innermost text has the secret, the outermost has not."""

    def info(self: Any, path: str, **kwargs: Any) -> Any:
        try:
            raise ConnectionError(TEXT)
        except ConnectionError as e:
            raise OSError("the request failed") from e

    monkeypatch.setattr(flaky.Flaky, "info", info)
    with pytest.raises(pfreg.TransferError) as caught:
        pfreg.exists("flaky://root", storage_options=OPTIONS)
    assert "the request failed" in str(caught.value)
    no_secret_in(told(caught.value))


def test_a_secret_in_the_context_of_a_cause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(self: Any, path: str, **kwargs: Any) -> Any:
        try:
            raise ConnectionError(TEXT)
        except ConnectionError:
            raise RuntimeError("failed again while failing")  # noqa: B904

    monkeypatch.setattr(flaky.Flaky, "info", info)
    with pytest.raises(pfreg.TransferError) as caught:
        pfreg.exists("flaky://root", storage_options=OPTIONS)
    no_secret_in(told(caught.value))


@pytest.mark.parametrize(
    "raised", [FileNotFoundError, NotImplementedError, PermissionError, TypeError, ValueError, ImportError]
)
def test_a_filesystem_that_cannot_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch, raised: type[Exception]
) -> None:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise raised(TEXT)

    monkeypatch.setattr(flaky.Flaky, "__init__", refuse)
    with pytest.raises(pfreg.PfregError) as caught:
        pfreg.exists("flaky://root", storage_options=OPTIONS)
    no_secret_in(told(caught.value))


def test_a_missing_bucket(world: World, store: pfreg.Store, new: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the exception that means "absent" has a text."""

    def pipe_file(self: Any, path: str, value: bytes, **kwargs: Any) -> None:
        raise FileNotFoundError(TEXT)

    monkeypatch.setattr(flaky.Flaky, "pipe_file", pipe_file)
    with pytest.raises(pfreg.PfregError) as caught:
        pfreg.push(new, "flaky://root", store=store, storage_options=OPTIONS, jobs=1)
    no_secret_in(told(caught.value))


def test_nothing_that_is_written_or_shown(tmp_path: Path, world: World, store: pfreg.Store, new: Any) -> None:
    pfreg.push(new, "flaky://root", store=store, storage_options=OPTIONS)
    root = Registry.open("flaky://root", storage_options=OPTIONS)
    shown = [repr(value) for value in (root, root.location, root.location.reference, store)]
    shown += [repr(pfreg.HmacSigner(SIGN_KEY)), repr(pfreg.HmacVerifier(SIGN_KEY))]
    no_secret_in(" ".join(shown))
    for data in world.files.values():
        no_secret_in(data.decode("latin-1"))
    verified = pfreg.verify("flaky://root", storage_options=OPTIONS)
    assert verified.trust is not None
    assert verified.trust.status == "verified"
    no_secret_in(" ".join(repr(getattr(verified, field.name)) for field in fields(verified)))


@pytest.mark.parametrize("wrong", ["another secret 0123456789", None])
def test_a_signature_that_is_refused(
    world: World, store: pfreg.Store, new: Any, monkeypatch: pytest.MonkeyPatch, wrong: str | None
) -> None:
    pfreg.push(new, "flaky://root", store=store)
    if wrong is None:
        monkeypatch.delenv("PF_FILE_REG_SIGN_KEY")
    else:
        monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", wrong)
    with pytest.raises(pfreg.SignatureError) as caught:
        pfreg.verify("flaky://root")
    text = told(caught.value)
    no_secret_in(text)
    assert wrong is None or wrong not in text
