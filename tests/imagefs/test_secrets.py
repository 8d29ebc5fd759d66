"""What is secret stays out of everything that is shown."""

from __future__ import annotations

import json
from typing import Any

import fsspec
import pytest

import pfreg

SECRETS = ("admin-secret-of-s3", "hidden-key-of-signature", "admin-key-of-s3")


@pytest.fixture
def fs(s3: dict[str, Any]) -> pfreg.PfimgFileSystem:
    return pfreg.PfimgFileSystem(
        fo="images/none",
        target_protocol="s3",
        target_options={**s3, "client_kwargs": {"aws_session_token": SECRETS[0]}, "use_ssl": False},
        secret=SECRETS[1],
        skip_instance_cache=True,
    )


def test_repr(fs: pfreg.PfimgFileSystem) -> None:
    assert repr(fs) == str(fs) == "PfimgFileSystem('s3://images/none')"
    assert not any(secret in repr(vars(fs)["fo"]) for secret in SECRETS)


def test_redacted_json(fs: pfreg.PfimgFileSystem) -> None:
    redacted = fs.to_json(include_password=False)
    assert not any(secret in redacted for secret in SECRETS)
    value = json.loads(redacted)
    assert (value["fo"], value["target_protocol"], value["target_options"]["use_ssl"]) == ("images/none", "s3", False)
    assert SECRETS[0] in fs.to_json() and pfreg.PfimgFileSystem.from_json(fs.to_json()).to_json() == fs.to_json()


def test_redacted_json_of_options_without_names() -> None:
    fs = pfreg.PfimgFileSystem("images/none", "s3", {"secret": SECRETS[0], "anon": False}, skip_instance_cache=True)
    redacted = fs.to_json(include_password=False)
    assert SECRETS[0] not in redacted
    assert json.loads(redacted)["args"] == ["images/none", "s3", {"anon": False}]


@pytest.mark.parametrize("how", [{"fo": "sftp://user:PASSWORD@host/a"}, {"fo": "user:PASSWORD@host/a"}])
def test_a_password_in_the_url_is_refused_before_anything_can_show_it(how: dict[str, str]) -> None:
    with pytest.raises(pfreg.BadReference, match=r"\*\*\*@host") as refused:
        pfreg.PfimgFileSystem(**how, target_protocol="sftp", skip_instance_cache=True)
    assert "PASSWORD" not in f"{refused.value!r} {refused.value}"


def test_what_fsspec_makes_of_a_chain(s3: dict[str, Any]) -> None:
    options = {"s3": s3, "pfimg": {"secret": SECRETS[1]}}
    opened = fsspec.open("pfimg://world/fs/a.csv::s3://images/none", **options)
    assert not any(secret in f"{opened!r} {opened} {opened.fs!r}" for secret in SECRETS)
    with pytest.raises(pfreg.ImageNotFound) as caught, opened:
        pass
    assert not any(secret in f"{caught.value!r} {caught.value}" for secret in SECRETS)


def test_errors(fs: pfreg.PfimgFileSystem, s3: dict[str, Any]) -> None:
    wrong = pfreg.PfimgFileSystem(fo="s3://no-such-bucket/a", target_options=s3, skip_instance_cache=True)
    unreachable = {**s3, "endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    broken = pfreg.PfimgFileSystem(fo="s3://images/a", target_options=unreachable, skip_instance_cache=True)
    strange = pfreg.PfimgFileSystem(
        fo="s3://images/a", target_options={**s3, "bogus": SECRETS[0]}, skip_instance_cache=True
    )
    for each in (fs, wrong, broken, strange):
        with pytest.raises((pfreg.PfregError, TypeError)) as caught:
            each.ls("")
        assert isinstance(caught.value, pfreg.PfregError)
        error: BaseException | None = caught.value
        while error is not None:
            assert not any(secret in f"{error!r} {error}" for secret in SECRETS[:2])
            error = error.__cause__
    with pytest.raises(pfreg.BadOption) as refused:
        pfreg.PfimgFileSystem(fo="s3://images/a", password=SECRETS[0])
    assert SECRETS[0] not in str(refused.value)
