"""A server that is down, busy, cut off or lied to: the right bytes or a typed error, the old image whole, a second run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from tests.conftest import stored_blobs
from tests.filesystems.s3.conftest import HASTY, PATIENT, Through, first_times
from tests.servers.fault_proxy import Answer, Cut, Meddled, Seen

SLOW = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BUSY = {503: Answer(503, {"Content-Type": "application/xml"}, SLOW), 429: Answer(429), 500: Answer(500)}


def only_the_rest(newer: object, root: str, store: pfreg.Store, options: dict[str, Any], had: pfreg.Pushed) -> None:
    """Push again, without faults, and check that what arrived is not sent again."""
    before = pfreg.push(newer, root, store=store, storage_options=options, dry_run=True).sent  # type: ignore[arg-type]
    done = pfreg.push(newer, root, store=store, storage_options=options)  # type: ignore[arg-type]
    assert done.sent == before
    assert pfreg.verify(root, storage_options=options).cid == done.cid


@pytest.mark.parametrize("status", BUSY)
def test_a_busy_server_is_asked_again(
    status: int, image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options(**PATIENT)
    through.proxy.rule = first_times(1, BUSY[status], method="PUT")
    done = pfreg.push(image, root, store=store, storage_options=options)
    assert len(through.proxy.requests("PUT")) == 2 * (done.sent + 2)
    through.proxy.rule = first_times(1, BUSY[status], method="GET")
    other = pfreg.Store(tmp_path / "out")
    assert pfreg.pull(root, store=other, storage_options=options).received == done.sent
    assert stored_blobs(other) == stored_blobs(store)


@pytest.mark.parametrize("status", BUSY)
def test_a_server_that_stays_busy_is_given_up(
    status: int,
    image: pfreg.Snapshotted,
    newer: pfreg.Snapshotted,
    store: pfreg.Store,
    through: Through,
    root: str,
) -> None:
    options = through.options(**HASTY)
    had = pfreg.push(image, root, store=store, storage_options=options)
    through.proxy.rule = lambda seen: BUSY[status] if seen.method == "PUT" and "manifest" in seen.path else None
    with pytest.raises(pfreg.TransferError):
        pfreg.push(newer, root, store=store, storage_options=options)
    through.proxy.rule = lambda seen: None
    assert pfreg.verify(root, storage_options=options).cid == image.cid
    only_the_rest(newer, root, store, options, had)


@pytest.mark.parametrize("upward", [True, False])
def test_connections_that_are_reset_are_made_again(
    upward: bool, image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options(**PATIENT)
    through.proxy.rule = first_times(1, Cut(100, upward=upward), method="PUT", containing=".zst")
    done = pfreg.push(image, root, store=store, storage_options=options)
    assert pfreg.verify(root, storage_options=options).blobs == done.sent
    if not upward:
        through.proxy.rule = first_times(1, Cut(100), method="GET", containing=".zst")
        other = pfreg.Store(tmp_path / "out")
        pfreg.pull(root, store=other, storage_options=options)
        assert stored_blobs(other) == stored_blobs(store)


def test_a_large_blob_that_breaks_off_in_the_middle_arrives_whole(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options(**PATIENT)
    pfreg.push(image, root, store=store, storage_options=options)
    large = max(stored_blobs(store).items(), key=lambda item: len(item[1]))
    through.proxy.rule = first_times(1, Cut(len(large[1]) // 2), method="GET", containing=large[0])
    other = pfreg.Store(tmp_path / "out")
    pfreg.pull(root, store=other, storage_options=options)
    assert stored_blobs(other) == stored_blobs(store)


@pytest.mark.parametrize("sort", ["blob", "large blob", "signature", "manifest"])
def test_an_upload_that_is_altered_on_its_way_is_refused_by_the_server(
    sort: str, image: pfreg.Snapshotted, newer: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str
) -> None:
    options = through.options(**HASTY)
    had = pfreg.push(image, root, store=store, storage_options=options)
    sizes = {name: len(data) for name, data in stored_blobs(store).items()}

    def concerned(seen: Seen) -> bool:
        name = seen.path.rpartition("/")[2].partition("?")[0]
        found = {
            "blob": sizes.get(name, 1 << 30) < 1000,
            "large blob": sizes.get(name, 0) > 1000,
            "signature": name == "manifest.json.sig",
            "manifest": name == "manifest.json",
        }
        return seen.method == "PUT" and found[sort]

    flipped = Meddled(body=lambda body: body[:-1] + bytes([body[-1] ^ 1]))
    through.proxy.rule = lambda seen: flipped if concerned(seen) else None
    with pytest.raises(pfreg.PfregError):
        pfreg.push(newer, root, store=store, storage_options=options)
    through.proxy.rule = lambda seen: None
    assert pfreg.verify(root, storage_options=options).cid == image.cid
    only_the_rest(newer, root, store, options, had)


@pytest.mark.parametrize("verb", ["push", "pull", "exists", "verify"])
def test_an_endpoint_that_is_down_is_told(
    verb: str, image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options(**HASTY) | {"endpoint_url": "http://127.0.0.1:9"}
    calls: dict[str, Callable[[], object]] = {
        "push": lambda: pfreg.push(image, root, store=store, storage_options=options),
        "pull": lambda: pfreg.pull(root, store=tmp_path / "out", storage_options=options),
        "exists": lambda: pfreg.exists(root, storage_options=options),
        "verify": lambda: pfreg.verify(root, storage_options=options),
    }
    with pytest.raises(pfreg.TransferError) as caught:
        calls[verb]()
    assert options["secret"] not in str(caught.value)


def test_a_blob_that_is_altered_on_its_way_down_never_arrives(
    image: pfreg.Snapshotted, store: pfreg.Store, through: Through, root: str, tmp_path: Path
) -> None:
    options = through.options(**HASTY)
    pfreg.push(image, root, store=store, storage_options=options)
    target = f"{image.manifest.layers.world_fs.hex}.zst"
    data = stored_blobs(store)[target]
    wrong = Answer(200, {}, data[:-1] + bytes([data[-1] ^ 1]))
    through.proxy.rule = lambda seen: wrong if seen.method == "GET" and target in seen.path else None
    other = pfreg.Store(tmp_path / "out")
    with pytest.raises(pfreg.IntegrityError):
        pfreg.pull(root, store=other, storage_options=options)
    assert target not in stored_blobs(other)
    assert other.images() == []
