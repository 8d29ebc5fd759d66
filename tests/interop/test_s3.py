"""Images of the original on S3, on moto and on a real server, by either library: the same keys and bytes, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import pfreg
from tests import golden
from tests.golden import GOLDEN
from tests.interop import original
from tests.servers.moto_s3 import moto_s3
from tests.servers.seaweedfs import seaweedfs


@pytest.fixture(scope="module", params=["moto", "seaweedfs"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The options of a server with the bucket ``images``."""
    if request.param == "moto":
        with moto_s3() as options:
            yield options
    else:
        with seaweedfs(tmp_path_factory.mktemp("interop-s3")) as running:
            yield running.options()


@pytest.fixture(params=["s3fs", "obstore"])
def options(request: pytest.FixtureRequest, server: dict[str, Any]) -> dict[str, Any]:
    return {**server, "library": request.param}


def url_of(request: pytest.FixtureRequest) -> str:
    return f"s3://images/interop/{request.node.name.replace('[', '/').rstrip(']')}"


def keys(url: str, server: dict[str, Any]) -> dict[str, bytes]:
    """Return what lies below a root, read by s3fs itself."""
    fs = fsspec.filesystem("s3", **server, use_listings_cache=False, skip_instance_cache=True)
    top = url.removeprefix("s3://")
    return {path.removeprefix(f"{top}/"): fs.cat_file(path) for path in fs.find(top)}


def test_what_we_push_is_what_the_original_pushed(
    request: pytest.FixtureRequest, server: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    url = url_of(request)
    source = golden.opened("store-small", tmp_path)
    pfreg.push(GOLDEN["store-small"]["parent"], url, store=source, storage_options=options)
    root = golden.VECTORS / "registry-small"
    theirs = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert keys(url, server) == theirs


@pytest.mark.parametrize("store, name", [("store-small", "child"), ("store-cache", "kv"), ("store-merged", "merged")])
def test_the_original_restores_what_came_back(
    store: str, name: str, request: pytest.FixtureRequest, options: dict[str, Any], tmp_path: Path
) -> None:
    url, cid = url_of(request), GOLDEN[store][name]
    source = golden.opened(store, tmp_path)
    pfreg.push(cid, url, store=source, storage_options=options)
    pulled = pfreg.Store(tmp_path / "pulled")
    pfreg.pull(url, store=pulled, storage_options=options)
    assert pulled.manifest(cid).raw == source.manifest(cid).raw
    theirs = original.checkout(tmp_path / "pulled", cid, tmp_path / "theirs")
    pfreg.clone(url, tmp_path / "clone", storage_options=options)
    assert original.listing(tmp_path / "clone") == original.listing(theirs)


def test_what_the_originals_sdk_takes_goes_there_and_back(
    request: pytest.FixtureRequest, options: dict[str, Any], tmp_path: Path
) -> None:
    url, folder = url_of(request), tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("text\n")
    (folder / "empty").write_bytes(b"")
    cid = original.snapshot(folder, tmp_path / "sdk")
    pfreg.push(cid, url, store=tmp_path / "sdk", storage_options=options)
    pfreg.pull(url, store=tmp_path / "pulled", storage_options=options)
    back = original.checkout(tmp_path / "pulled", cid, tmp_path / "back")
    assert original.listing(back) == original.listing(folder)
