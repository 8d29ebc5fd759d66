"""The environment layer: only what is given, without what looks like a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg.environment import build_environment
from pfreg.errors import BadOption
from tests import golden

SECRETS = [
    "OPENAI_API_KEY", "GITHUB_TOKEN", "MY_SECRET", "DB_PASSWORD", "PASSWORD", "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN", "token", "Api-Key", "APIKEY", "MYAPIKEY", "SSH_PRIVATE_KEY", "DATABASE_PASSWD", "PGPASSWORD",
    "GOOGLE_CREDENTIALS", "JWT", "SENTRY_DSN", "X_AUTH", "SESSION_COOKIE", "GITLAB_PAT", "PASSPHRASE", "GPG_PASSPHRASE",
    "BEARER_TOKEN", "HF_TOKEN", "CLIENT_SECRETS", "KEY", "SIGNING_KEY", "PF_FILE_REG_SIGN_KEY", "PF_SESSION_SECRET",
    "PWD",
]  # fmt: skip
PLAIN = [
    "LANG", "HOME", "PATH", "SHELL", "TERM", "EDITOR", "MONKEY", "KEYBOARD_LAYOUT", "AUTHOR", "COMPASS", "PATTERN",
    "DEBUG",
    "TOKENIZERS_PARALLELISM", "HTTP_PROXY_HOST", "PYTHONPATH", "SALTY", "PASSENGERS",
]  # fmt: skip


def built(variables: dict[str, str], **options: Any) -> dict[str, str]:
    layer = json.loads(build_environment(variables, cwd="/work", **options))
    assert (layer["kind"], layer["cwd"]) == ("env.v1", "/work")
    return layer["vars"]


@pytest.mark.parametrize("name", SECRETS)
def test_what_is_named_like_a_secret_is_redacted(name: str) -> None:
    raw = build_environment({name: "hunter2"}, cwd="/")
    assert json.loads(raw)["vars"] == {name: "<redacted>"}
    assert b"hunter2" not in raw


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_not_is_kept(name: str) -> None:
    assert built({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    "value",
    [
        "postgres://user:hunter2@host/db", "https://user:hunter2@host", "see redis://:hunter2@host:6379/0 there",
        "amqp+ssl://a:b:hunter2@h", "x" * 100 + "://u:hunter2@h",
    ],
)  # fmt: skip
def test_a_url_with_a_password_is_redacted_whatever_its_name(value: str) -> None:
    assert built({"PLACE": value}) == {"PLACE": "<redacted>"}


@pytest.mark.parametrize(
    "value", ["https://host/path", "https://user@host", "git@host:repo", "a:b@c", "http://h/a:b@c", "://"]
)
def test_a_url_without_one_is_kept(value: str) -> None:
    assert built({"PLACE": value}) == {"PLACE": value}


@pytest.mark.parametrize(
    "value", ["a" * (1 << 20), "a://" + ":" * (1 << 20), "a://b:c" * (1 << 18)], ids=["word", "colons", "urls"]
)
def test_a_long_value_takes_linear_time(value: str) -> None:
    assert built({"LONG": value}) == {"LONG": value}  # the quadratic way would take an hour


def test_more_can_be_redacted_and_the_names_can_be_left_alone() -> None:
    variables = {"INTERNAL_HOST": "h", "API_KEY": "k", "LANG": "C"}
    assert built(variables, redact=["^INTERNAL_"]) == {
        "API_KEY": "<redacted>",
        "INTERNAL_HOST": "<redacted>",
        "LANG": "C",
    }
    assert built(variables, redact_secrets=False) == variables
    assert built(variables, redact=["LANG"], redact_secrets=False)["LANG"] == "<redacted>"


def test_the_layer_is_written_as_the_original_writes_it() -> None:
    text = golden.GOLDEN["layers"]["parent"]["env"]
    told = json.loads(text)
    given = {**told["vars"], "OPENAI_API_KEY": "sk-1", "MY_SECRET": "s", "PWD": "/home"}
    assert build_environment(dict(reversed(given.items())), cwd=told["cwd"]) == text.encode()


@pytest.mark.parametrize("variables", [{"A": 1}, {1: "a"}, {"A": None}, {b"A": b"b"}], ids=repr)
def test_variables_are_text(variables: Any) -> None:
    with pytest.raises(BadOption):
        build_environment(variables, cwd="/")


@pytest.mark.parametrize("pattern", ["(", "*", 7, None])
def test_a_malformed_pattern_is_refused(pattern: Any) -> None:
    with pytest.raises(BadOption):
        build_environment({}, cwd="/", redact=[pattern])


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))))
def test_any_text_is_kept_or_redacted_and_names_are_sorted(variables: dict[str, str]) -> None:
    found = built(variables)
    assert list(found) == sorted(variables)
    assert all(value in (variables[name], "<redacted>") for name, value in found.items())


def test_nothing_is_taken_from_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_PROCESS", "1")
    (tmp_path / "tree").mkdir()
    store = pfreg.Store(tmp_path / "store")
    image = pfreg.snapshot(tmp_path / "tree", store=store)
    assert json.loads(store.read(image.manifest.layers.world_env))["vars"] == {}
