"""How many requests each verb makes, and what for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import fsspec
import pytest

import pfreg
from pfreg.reference import locate
from tests.filesystems.s3.conftest import Through
from tests.servers.fault_proxy import Seen

HANDFUL = 12


@pytest.fixture
def many(tmp_path: Path, store: pfreg.Store) -> pfreg.Snapshotted:
    """An image of 1,200 blobs: more than one page of a listing."""
    folder = tmp_path / "many"
    for i in range(1200):
        path = folder / f"{i % 40:02}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d " % i * 20)
    return pfreg.snapshot(folder, store=store)


def kinds(seen: list[Seen]) -> Counter[str]:
    return Counter("LIST" if "list-type=2" in s.path else s.method for s in seen)


def listings(seen: list[Seen]) -> list[str]:
    """Return the prefixes that were listed, once for all pages of one listing."""
    pages = [unquote(s.path) for s in seen if "list-type=2" in s.path and "continuation-token" not in s.path]
    return [page.partition("prefix=")[2].partition("&")[0] for page in pages]


def test_push_and_pull_cost_a_request_a_blob_and_a_handful(
    many: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options()
    prefix = root.removeprefix("s3://images/") + "/blobs/"
    done, seen = through.count(lambda: pfreg.push(many, root, store=store, storage_options=options))
    assert done.sent > 1200
    assert done.sent < len(seen) <= done.sent + HANDFUL, kinds(seen)
    assert listings(seen) == [prefix]
    assert kinds(seen)["PUT"] == done.sent + 2

    again, seen = through.count(lambda: pfreg.push(many, root, store=store, storage_options=options))
    assert (again.sent, again.published) == (0, False)
    assert len(seen) <= HANDFUL, kinds(seen)
    assert listings(seen) == [prefix]
    assert kinds(seen)["PUT"] == 0

    out = pfreg.Store(tmp_path / "out")
    pulled, seen = through.count(lambda: pfreg.pull(root, store=out, storage_options=options))
    assert pulled.received == done.sent
    assert len(seen) <= pulled.received + HANDFUL, kinds(seen)
    assert listings(seen) == [prefix]
    assert kinds(seen)["HEAD"] == 0

    pulled, seen = through.count(lambda: pfreg.pull(root, store=out, storage_options=options))
    assert pulled.received == 0
    assert len(seen) <= HANDFUL, kinds(seen)


def test_no_listing_is_of_the_buckets_root(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options()
    prefix = root.removeprefix("s3://images/") + "/"
    verbs: list[Callable[[], object]] = [
        lambda: pfreg.push(image, root, store=store, storage_options=options),
        lambda: pfreg.pull(root, store=tmp_path / "out", storage_options=options),
        lambda: pfreg.clone(root, tmp_path / "clone", storage_options=options),
        lambda: pfreg.verify(root, storage_options=options),
        lambda: pfreg.inspect(root, storage_options=options),
        lambda: pfreg.exists(root, storage_options=options),
        lambda: pfreg.prune(root, grace=0, dry_run=False, storage_options=options),
    ]
    for verb in verbs:
        _, seen = through.count(verb)
        assert all(listed.startswith(prefix) for listed in listings(seen))


def test_a_base_is_copied_by_the_server(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    options = through.options()
    first = pfreg.push(image, f"{root}/base", store=store, storage_options=options)
    done, seen = through.count(
        lambda: pfreg.push(newer, f"{root}/fork", store=store, base=f"{root}/base", storage_options=options)
    )
    assert done.copied >= first.sent - 5
    copies = [s for s in seen if any(name.lower() == "x-amz-copy-source" for name in s.headers)]
    assert len(copies) == done.copied
    assert kinds(seen)["PUT"] == done.copied + done.sent + 2
    assert pfreg.verify(f"{root}/fork", storage_options=options).cid == newer.cid


def test_a_copy_inside_one_server_takes_no_blob_through_the_client(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    options = through.options()
    first = pfreg.push(image, f"{root}/a", store=store, storage_options=options)
    done, seen = through.count(
        lambda: pfreg.copy(f"{root}/a", f"{root}/b", storage_options=options, target_options=options)
    )
    assert (done.copied, done.sent) == (first.sent, 0)
    layers = {digest.hex for _, digest in image.manifest.layers}
    read = {s.path.rpartition("/")[2].removesuffix(".zst") for s in seen if s.method == "GET" and ".zst" in s.path}
    assert read <= layers  # what the closure is established from, and nothing else
    assert pfreg.verify(f"{root}/b", storage_options=options).cid == image.cid


def test_what_the_server_does_not_copy_is_sent(
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    through: Through,
    root: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = through.options()
    first = pfreg.push(image, f"{root}/base", store=store, storage_options=options)
    large = max(size for size in pfreg.Store(store.path).present(pfreg.Store(store.path).listing()).values())
    monkeypatch.setattr(type(locate(root, storage_options=options).fs), "largest_copy", large - 1, raising=False)
    done = pfreg.push(image, f"{root}/fork", store=store, base=f"{root}/base", storage_options=options)
    assert (done.sent, done.copied) == (1, first.sent - 1)
    with suppress(FileExistsError):
        fsspec.filesystem("s3", **through.server.options(), skip_instance_cache=True).mkdir("other-images")
    elsewhere = root.replace("s3://images/", "s3://other-images/")
    done = pfreg.push(image, elsewhere, store=store, base=f"{root}/base", storage_options=options)
    assert done.sent + done.copied == first.sent
    assert pfreg.verify(elsewhere, storage_options=options).cid == image.cid


def test_a_copy_between_two_accounts_goes_through_the_client(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    pfreg.push(image, f"{root}/a", store=store, storage_options=through.options())
    done = pfreg.copy(
        f"{root}/a", f"{root}/b", storage_options=through.options("reader"), target_options=through.options()
    )
    assert done.copied == 0 and done.sent > 0


@pytest.mark.parametrize("place", ["{root}/deep/er/", "{root}/spaces and ünïcode+%20", "s3://images"])
def test_any_place_in_a_bucket_is_a_root(
    place: str, image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    url, options = place.format(root=root), through.options()
    pfreg.push(image, url, store=store, storage_options=options)
    assert pfreg.verify(url.rstrip("/"), storage_options=options).cid == image.cid
    assert pfreg.push(image, url, store=store, storage_options=options).sent == 0


def test_roots_inside_one_another_do_not_mix(
    image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    options = through.options()
    pfreg.push(image, root, store=store, storage_options=options)
    pfreg.push(newer, f"{root}/inner", store=store, storage_options=options)
    pfreg.push(newer, f"{root}-beside", store=store, storage_options=options)
    assert pfreg.prune(root, grace=0, dry_run=False, storage_options=options).removed == ()
    for url, cid in ((root, image.cid), (f"{root}/inner", newer.cid), (f"{root}-beside", newer.cid)):
        assert pfreg.verify(url, storage_options=options).cid == cid


def test_the_environment_says_where_and_who(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = through.options()
    monkeypatch.setitem(os.environ, "AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setitem(os.environ, "AWS_SECRET_ACCESS_KEY", options["secret"])
    monkeypatch.setitem(os.environ, "AWS_ENDPOINT_URL", options["endpoint_url"])
    monkeypatch.setitem(os.environ, "AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setitem(os.environ, "PFREG_S3", through.library)
    done, seen = through.count(lambda: pfreg.push(image, root, store=store))
    assert done.sent and seen
    assert pfreg.exists(root)
