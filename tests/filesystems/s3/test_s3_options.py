"""Options as users of s3fs write them, for either library; which one is taken, and why not the other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.errors import BadOption, MissingDependency
from pfreg.filesystems import s3_obstore
from pfreg.filesystems.s3 import open_s3
from pfreg.filesystems.s3_options import Credentials, Untranslatable, translate
from pfreg.reference import locate
from tests.filesystems.s3.conftest import LIBRARIES

KEYS = {"key": "an-access-key", "secret": "hidden-secret-of-s3"}
HERE = {"endpoint_url": "http://127.0.0.1:9"}
ENV: dict[str, str] = {"AWS_CONFIG_FILE": "/nowhere/config"}


def taken(options: Mapping[str, Any]) -> str:
    return {"ObstoreFileSystem": "obstore", "S3KeysFileSystem": "s3fs"}[type(open_s3(options)).__name__]


def test_credentials_and_place_are_translated() -> None:
    found = translate({**KEYS, **HERE, "token": "a-session-token"}, environ=ENV)
    assert found.credentials is not None
    asked = found.credentials()
    assert (asked["access_key_id"], asked["secret_access_key"]) == ("an-access-key", "hidden-secret-of-s3")
    assert asked["token"] == "a-session-token"
    assert found.config["endpoint"] == "http://127.0.0.1:9"
    assert found.client["allow_http"] is True
    assert not found.config["virtual_hosted_style_request"]


def test_the_long_spelling_means_the_same() -> None:
    long = {
        "client_kwargs": {
            "aws_access_key_id": "an-access-key",
            "aws_secret_access_key": "hidden-secret-of-s3",
            "endpoint_url": "http://127.0.0.1:9",
            "region_name": "eu-west-1",
        }
    }
    short = {"username": "an-access-key", "password": "hidden-secret-of-s3", **HERE}
    one = translate(long, environ=ENV)
    other = translate({**short, "config_kwargs": {"region_name": "eu-west-1"}}, environ=ENV)
    assert one == other
    assert one.config["region"] == "eu-west-1"


def test_amazon_itself_is_asked_by_the_buckets_name_and_over_tls_only() -> None:
    found = translate({**KEYS, "client_kwargs": {"region_name": "eu-west-1"}}, environ=ENV)
    assert "endpoint" not in found.config
    assert found.config["virtual_hosted_style_request"]
    assert found.client["allow_http"] is False
    path = {"config_kwargs": {"s3": {"addressing_style": "path"}}, "client_kwargs": {"region_name": "eu-west-1"}}
    assert not translate({**KEYS, **path}, environ=ENV).config["virtual_hosted_style_request"]


def test_a_slash_behind_an_endpoint_means_nothing() -> None:
    one, other = ({**KEYS, "endpoint_url": url} for url in ("http://127.0.0.1:9/", "http://127.0.0.1:9"))
    assert translate(one, environ=ENV) == translate(other, environ=ENV)


def test_an_endpoint_without_a_scheme_is_not_asked_in_clear_text() -> None:
    assert translate({**KEYS, "endpoint_url": "host:9"}, environ=ENV).client["allow_http"] is False
    assert translate({**KEYS, "endpoint_url": "host:9", "use_ssl": False}, environ=ENV).client["allow_http"] is True


def test_nobody_signs_for_anonymous() -> None:
    found = translate({"anon": True, **HERE}, environ={**ENV, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    assert found.credentials is None
    assert found.config["skip_signature"] is True


def test_retries_and_time_outs_are_translated() -> None:
    config = {"retries": {"max_attempts": 2, "mode": "standard"}, "read_timeout": 7, "connect_timeout": 3}
    found = translate({**KEYS, **HERE, "config_kwargs": config}, environ=ENV)
    assert found.retry["max_retries"] == 2
    assert found.client["read_timeout"] == timedelta(seconds=7)
    assert found.client["connect_timeout"] == timedelta(seconds=3)


def test_given_credentials_are_not_mixed_with_the_environments() -> None:
    env = {**ENV, "AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other", "AWS_SESSION_TOKEN": "other-token"}
    assert translate({**KEYS, **HERE}, environ=env).credentials == Credentials(KEYS["key"], KEYS["secret"], None)
    assert translate(HERE, environ=env).credentials == Credentials("other", "other", "other-token")


@pytest.mark.parametrize(
    ("options", "environ"),
    [
        pytest.param({"profile": "work", **HERE}, {}, id="profile"),
        pytest.param(HERE, {"AWS_PROFILE": "work"}, id="profile of the environment"),
        pytest.param(HERE, {}, id="credentials are somewhere on the machine"),
        pytest.param({"key": "only", **HERE}, {}, id="half of the credentials"),
        pytest.param(KEYS, {}, id="no region"),
        pytest.param({**KEYS, **HERE}, {"AWS_CONFIG_FILE": __file__}, id="file of settings"),
        pytest.param({**KEYS, "endpoint_url": "https://h"}, {"AWS_CA_BUNDLE": "/x"}, id="bundle of certificates"),
        pytest.param({**KEYS, **HERE, "s3_additional_kwargs": {"ACL": "x"}}, {}, id="additional arguments"),
        pytest.param({**KEYS, **HERE, "session": object()}, {}, id="session"),
        pytest.param({**KEYS, **HERE, "version_aware": True}, {}, id="versions"),
        pytest.param({**KEYS, **HERE, "client_kwargs": {"verify": "/x"}}, {}, id="client argument"),
        pytest.param({**KEYS, **HERE, "config_kwargs": {"signature_version": "s3"}}, {}, id="configuration"),
        pytest.param({**KEYS, **HERE, "config_kwargs": {"s3": {"use_dualstack_endpoint": True}}}, {}, id="S3 setting"),
        pytest.param({**KEYS, **HERE, "config_kwargs": {"s3": {"addressing_style": "virtual"}}}, {}, id="virtual host"),
        pytest.param({**KEYS, **HERE, "config_kwargs": {"retries": {"x": 1}}}, {}, id="retry setting"),
    ],
)
def test_what_only_s3fs_does_is_left_to_it(
    options: dict[str, Any], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Untranslatable) as caught:
        translate(options, environ={**ENV, **environ})
    assert KEYS["secret"] not in str(caught.value)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if "session" not in options:
        assert taken(options) == "s3fs"
    with pytest.raises(BadOption) as refused:
        open_s3({**options, "library": "obstore"})
    assert "s3fs" in refused.value.hint
    assert str(caught.value) in str(refused.value)


def test_obstore_is_taken_when_it_does_the_same() -> None:
    assert taken({**KEYS, **HERE}) == "obstore"
    assert taken({**KEYS, **HERE, "max_concurrency": 4, "default_block_size": 1 << 20, "anon": False}) == "obstore"


def test_one_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken({**KEYS, **HERE, "library": "s3fs"}) == "s3fs"
    monkeypatch.setenv("PFREG_S3", "s3fs")
    assert taken({**KEYS, **HERE}) == "s3fs"
    assert taken({**KEYS, **HERE, "library": "obstore"}) == "obstore"  # what is said here comes first
    for name in ("boto3", "OBSTORE", 7):
        with pytest.raises(BadOption, match="obstore, s3fs"):
            pfreg.exists("s3://bucket/x", storage_options={**KEYS, **HERE, "library": name})


def test_without_obstore_it_is_s3fs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "pfreg.filesystems.s3_obstore", raising=False)
    assert taken({**KEYS, **HERE}) == "s3fs"
    with pytest.raises(MissingDependency, match=r"pfreg\[obstore\]"):
        locate("s3://bucket/x", storage_options={**KEYS, **HERE, "library": "obstore"})


def test_fsspecs_own_configuration_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"profile": "work"})
    assert taken({**KEYS, **HERE}) == "s3fs"
    monkeypatch.setitem(conf, "s3", {**KEYS, **HERE})
    assert taken({}) == "obstore"
    for library in LIBRARIES:
        monkeypatch.setitem(conf, "s3", {**KEYS, **HERE, "library": library})
        assert taken({}) == library


@pytest.mark.parametrize("library", LIBRARIES)
def test_options_may_lie_under_the_schemes_name(library: str) -> None:
    nested = {"s3": {**KEYS, **HERE, "library": library}}
    assert type(locate("s3://bucket/x", storage_options=nested).fs) is type(open_s3(nested["s3"]))
    assert nested["s3"]["library"] == library  # what the caller gave is as it was
    with pytest.raises(BadOption):
        locate("s3://bucket/x", storage_options={"s3": "key"})


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_secret_is_shown(library: str) -> None:
    place = locate("s3://bucket/x", storage_options={**KEYS, **HERE, "library": library})
    shown = f"{place!r} {place.fs!r} {place.fs} {place.files!r}"
    found = translate({**KEYS, **HERE}, environ=ENV)
    assert KEYS["secret"] not in shown + repr(found)


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3://user:pass@bucket/x", "s3://bucket/\x00"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(pfreg.BadReference):
        pfreg.exists(text, storage_options={**KEYS, **HERE})


def _in_child(queue: Any, options: dict[str, Any]) -> None:
    try:
        open_s3({**options, "library": "obstore"})
        refused = ""
    except BadOption as e:
        refused = str(e)
    queue.put((taken(options), refused))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_takes_s3fs() -> None:
    options = {**KEYS, **HERE}
    assert taken(options) == "obstore"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, options))
    child.start()
    library, refused = queue.get(timeout=60)
    child.join(60)
    assert library == "s3fs"
    assert "PFREG_S3=s3fs" in refused
    assert not s3_obstore.forked()


def test_credentials_travel_to_another_process_but_show_nothing() -> None:
    made = Credentials("key", "hidden-secret-of-s3")
    assert pickle.loads(pickle.dumps(made)) == made
    assert "hidden" not in repr(made)


def test_a_folder_of_the_users_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert translate({**KEYS, **HERE}, environ={}).credentials is not None
