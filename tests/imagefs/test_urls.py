"""Every way to name a file inside an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

import pfreg
from pfreg.filesystems.oci import OciFileSystem
from tests.imagefs.conftest import CSV

INSIDE = "pfimg://world/fs/data/a.csv"


def read(url: str, **options: Any) -> str:
    with fsspec.open(url, "rt", newline="", **options) as stream:
        return str(stream.read())


def test_memory(memory: str) -> None:
    assert read(f"{INSIDE}::{memory}") == CSV


def test_folder(root: Path) -> None:
    assert read(f"{INSIDE}::file://{root}") == CSV
    assert read(f"{INSIDE}::{root}") == CSV


def test_s3(s3: dict[str, Any], snapshot: pfreg.Snapshotted, store: pfreg.Store) -> None:
    pfreg.push(snapshot, "s3://images/urls", store=store, storage_options=s3)
    assert read(f"{INSIDE}::s3://images/urls", s3=s3) == CSV
    assert read(INSIDE, fo="s3://images/urls", target_options=s3) == CSV
    assert read(INSIDE, fo="images/urls", target_protocol="s3", target_options=s3) == CSV


def test_an_image_in_a_store_is_named_by_its_file(snapshot: pfreg.Snapshotted, store: pfreg.Store) -> None:
    assert read(f"{INSIDE}::{store.path}/images/{snapshot.cid.hex}.json") == CSV
    assert pfreg.open_image(snapshot.cid, store=store).open("data/a.csv").read() == CSV.encode()


def test_a_store_may_lie_anywhere(snapshot: pfreg.Snapshotted, store: pfreg.Store, s3: dict[str, Any]) -> None:
    fsspec.filesystem("s3", **s3).put(f"{store.path}/", "images/a-store/", recursive=True)
    inside = f"s3://images/a-store/images/{snapshot.cid.hex}.json"
    assert read(f"{INSIDE}::{inside}", s3=s3) == CSV
    assert pd.read_csv(f"{INSIDE}::{inside}", storage_options={"s3": s3})["b"].tolist()[:3] == [0, 1, 4]


def test_a_store_without_the_image(store: pfreg.Store) -> None:
    with pytest.raises(pfreg.ImageNotFound):
        read(f"{INSIDE}::{store.path}/images/{'0' * 64}.json")


def test_through_a_chain(root: Path, tmp_path: Path) -> None:
    chain = f"{INSIDE}::simplecache::file://{root}"
    assert read(chain, simplecache={"cache_storage": str(tmp_path / "cache")}) == CSV


def test_url_to_fs_and_storage_options(memory: str) -> None:
    fs, path = fsspec.url_to_fs(f"{INSIDE}::{memory}", pfimg={"require_signature": False})
    assert isinstance(fs, pfreg.PfimgFileSystem)
    assert (path, fs.cat_file(path)) == ("world/fs/data/a.csv", CSV.encode())


def test_no_image_there(tmp_path: Path) -> None:
    with pytest.raises(pfreg.ImageNotFound):
        read(f"{INSIDE}::{tmp_path}")
    fs = pfreg.PfimgFileSystem(fo=str(tmp_path))
    assert not fs.exists("world/fs") and not fs.isdir("") and not fs.isfile("manifest.json")


def test_access_that_is_denied_is_not_absence(s3: dict[str, Any]) -> None:
    fs = pfreg.PfimgFileSystem(fo="s3://images/none", target_options={**s3, "secret": "a-wrong-secret"})
    for call in (fs.exists, fs.isfile, fs.isdir, fs.find, fs.glob, fs.du, lambda path: list(fs.walk(path))):
        for path in ("world/fs/*.csv", ""):
            with pytest.raises(pfreg.AccessDenied):
                call(path)


def test_unknown_options_are_refused_with_a_hint(memory: str) -> None:
    with pytest.raises(pfreg.BadOption, match="under its scheme"):
        read(f"{INSIDE}::{memory}", anon=True)


def test_no_target_is_refused() -> None:
    with pytest.raises(pfreg.BadOption, match="no image"):
        read(INSIDE)


def test_the_scheme_that_fsspec_gave_away_has_another_name() -> None:
    assert fsspec.get_filesystem_class("ocireg") is OciFileSystem
    fs, _ = fsspec.url_to_fs("pfimg://world/fs::ocireg://127.0.0.1:9/agents/a:v1")
    assert repr(fs) == "PfimgFileSystem('oci://127.0.0.1:9/agents/a:v1')"


def test_a_pinned_image(memory: str, snapshot: pfreg.Snapshotted) -> None:
    assert read(f"{INSIDE}::{memory}", pfimg={"expected_digest": str(snapshot.cid)}) == CSV
    with pytest.raises(pfreg.IntegrityError, match="not sha256:0000"):
        read(f"{INSIDE}::{memory}", pfimg={"expected_digest": f"sha256:{'0' * 64}"})


def test_keys(snapshot: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path) -> None:
    pfreg.push(snapshot, tmp_path / "signed", store=store, signer=pfreg.HmacSigner("the key"))
    url = f"{INSIDE}::{tmp_path}/signed"
    assert read(url, secret="the key", require_signature=True) == CSV
    assert read(url, verifier=pfreg.HmacVerifier("the key")) == CSV
    assert read(url, verify=False) == CSV
    for wrong in ({}, {"secret": "another"}):
        with pytest.raises(pfreg.SignatureError):
            read(url, **wrong)
    with pytest.raises(pfreg.BadOption):
        read(url, verify=False, secret="the key")


def test_the_default_key_is_no_signature_where_one_is_required(memory: str) -> None:
    with pytest.raises(pfreg.SignatureError, match="required"):
        read(f"{INSIDE}::{memory}", require_signature=True)


def test_the_environments_key_counts_for_the_scheme_where_the_bytes_lie(
    snapshot: pfreg.Snapshotted, store: pfreg.Store, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PF_S3_REG_SIGN_KEY", "the key")
    pfreg.push(snapshot, "s3://images/keyed", store=store, storage_options=s3)
    assert read(f"{INSIDE}::s3://images/keyed", s3=s3, pfimg={"require_signature": True}) == CSV
