"""Who may do what: a refusal is never read as "absent", and who may do less can still do what he may."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import ListingRefused
from tests.filesystems.s3.conftest import HASTY, Through
from tests.servers.fault_proxy import Answer, Meddled, Seen
from tests.servers.moto_s3 import moto_s3
from tests.servers.seaweedfs import S3Server

Options = Callable[..., dict[str, Any]]


def verbs(url: str, out: Path, image: object, store: pfreg.Store, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "push": lambda: pfreg.push(image, url, store=store, storage_options=options),  # type: ignore[arg-type]
        "pull": lambda: pfreg.pull(url, store=out, storage_options=options),
        "clone": lambda: pfreg.clone(url, out / "clone", storage_options=options),
        "exists": lambda: pfreg.exists(url, storage_options=options),
        "verify": lambda: pfreg.verify(url, storage_options=options),
    }


def test_a_prefix_is_enough(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, s3_server: S3Server, direct: Options
) -> None:
    url, options = f"s3://{s3_server.new('allowed/')}", direct("prefix")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not pfreg.exists(url, storage_options=options)
        pfreg.push(image, url, store=store, storage_options=options)
        pfreg.push(newer, url, store=store, storage_options=options, expect=image.cid)
        assert pfreg.verify(url, storage_options=options).cid == newer.cid
        assert pfreg.prune(url, grace=0, dry_run=False, storage_options=options).removed


@pytest.mark.parametrize("verb", ["push", "pull", "clone", "exists", "verify"])
def test_another_prefix_is_denied(
    verb: str, image: pfreg.Snapshotted, store: pfreg.Store, root: str, direct: Options, tmp_path: Path
) -> None:
    pfreg.push(image, root, store=store, storage_options=direct())
    with pytest.raises(pfreg.AccessDenied):
        verbs(root, tmp_path / "out", image, store, direct("prefix"))[verb]()


@pytest.mark.parametrize("verb", ["push", "pull", "clone", "exists", "verify"])
@pytest.mark.parametrize("wrong", [{"secret": "not-the-secret-of-s3"}, {"key": "not-a-key-of-s3"}])
def test_wrong_credentials_are_denied(
    verb: str,
    wrong: dict[str, str],
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    root: str,
    direct: Options,
    tmp_path: Path,
) -> None:
    options = direct(**wrong)
    with pytest.raises(pfreg.AccessDenied) as caught:
        verbs(root, tmp_path / "out", image, store, options)[verb]()
    assert options["secret"] not in str(caught.value)
    assert not (tmp_path / "out" / "clone").exists()


def test_who_only_reads_cannot_push(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, root: str, direct: Options
) -> None:
    pfreg.push(image, root, store=store, storage_options=direct())
    with pytest.raises(pfreg.AccessDenied):
        pfreg.push(newer, root, store=store, storage_options=direct("reader"))
    with pytest.raises(pfreg.AccessDenied):
        pfreg.push(newer, root, store=store, storage_options=direct("reader"), expect=image.cid)
    assert pfreg.push(image, root, store=store, storage_options=direct("reader")).sent == 0  # nothing to write
    assert pfreg.verify(root, storage_options=direct("reader")).cid == image.cid


def test_without_leave_to_list_each_blob_is_looked_up(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options("blind")
    with pytest.warns(ListingRefused, match="one by one"):
        first, seen = through.count(lambda: pfreg.push(image, root, store=store, storage_options=options))
    assert len([s for s in seen if s.method == "HEAD" and ".zst" in s.path]) == first.sent
    with pytest.warns(ListingRefused):
        again = pfreg.push(newer, root, store=store, storage_options=options)
    assert 0 < again.sent < first.sent
    with pytest.warns(ListingRefused):
        assert pfreg.pull(root, store=tmp_path / "out", storage_options=options).cid == newer.cid
    with pytest.warns(ListingRefused):
        assert pfreg.verify(root, storage_options=options).cid == newer.cid
    with pytest.raises(pfreg.AccessDenied):
        pfreg.prune(root, storage_options=options)


def test_where_absent_is_called_forbidden_a_push_still_works(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    """AWS answers 403 for what is absent to whoever may not list."""
    options = through.options("blind")
    through.proxy.rule = lambda seen: Meddled(status={404: 403}) if seen.method in ("GET", "HEAD") else None
    with pytest.raises(pfreg.AccessDenied):
        pfreg.exists(root, storage_options=options)
    with pytest.warns(ListingRefused):
        first = pfreg.push(image, root, store=store, storage_options=options)
    with pytest.warns(ListingRefused):
        again = pfreg.push(newer, root, store=store, storage_options=options)
    assert 0 < again.sent < first.sent
    with pytest.warns(ListingRefused):
        assert pfreg.pull(root, store=tmp_path / "out", storage_options=options).cid == newer.cid


def test_a_read_that_is_forbidden_is_not_absent_where_listing_is_allowed(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    pfreg.push(image, root, store=store, storage_options=through.options())

    def forbid(seen: Seen) -> Answer | None:
        return Answer(403) if seen.method == "GET" and "manifest.json" in seen.path else None

    through.proxy.rule = forbid
    with pytest.raises(pfreg.AccessDenied):
        pfreg.push(newer, root, store=store, storage_options=through.options())
    through.proxy.rule = lambda seen: None
    assert pfreg.verify(root, storage_options=through.options()).cid == image.cid


@pytest.mark.parametrize("verb", ["push", "pull", "exists"])
def test_a_missing_bucket_is_named(
    verb: str, image: pfreg.Snapshotted, store: pfreg.Store, library: str, tmp_path: Path
) -> None:
    with moto_s3() as options:
        url = "s3://no-such-bucket/root"
        call = verbs(url, tmp_path / "out", image, store, {**options, "library": library})[verb]
        if verb == "exists":
            assert call() is False
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ListingRefused)
            with pytest.raises(FileNotFoundError) as caught:
                call()
        assert isinstance(caught.value, pfreg.PfregError)
        assert "no-such-bucket" in str(caught.value)


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_token_is_told_and_the_old_image_stays(
    status: int, image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    options = through.options(**HASTY)
    pfreg.push(image, root, store=store, storage_options=options)
    body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    expired = Answer(status, {"Content-Type": "application/xml"}, body)
    through.proxy.rule = lambda seen: expired if seen.method == "PUT" else None
    with pytest.raises(pfreg.PfregError) as caught:
        pfreg.push(newer, root, store=store, storage_options=options)
    assert isinstance(caught.value, pfreg.AccessDenied | pfreg.TransferError)
    assert "credentials" in caught.value.hint
    through.proxy.rule = lambda seen: None
    assert pfreg.verify(root, storage_options=options).cid == image.cid
    assert pfreg.push(newer, root, store=store, storage_options=options).sent > 0


def test_a_profile_is_read(
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    s3_server: S3Server,
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    known = s3_server.options()
    lines = ["[work]", f"aws_access_key_id = {known['key']}", f"aws_secret_access_key = {known['secret']}"]
    (tmp_path / "credentials").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    options = {"profile": "work", "client_kwargs": {"endpoint_url": s3_server.url}}
    assert pfreg.push(image, root, store=store, storage_options=options).published
    assert pfreg.exists(root, storage_options=options)


def test_who_is_nobody_is_denied(
    image: pfreg.Snapshotted, store: pfreg.Store, s3_server: S3Server, root: str, library: str
) -> None:
    options = {"anon": True, "endpoint_url": s3_server.url, "library": library}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ListingRefused)
        with pytest.raises(pfreg.AccessDenied):
            pfreg.push(image, root, store=store, storage_options=options)
    with pytest.raises(pfreg.AccessDenied):
        pfreg.exists(root, storage_options=options)
