"""pfimg:// on every registry: what was pushed is read where it lies, by every way to name it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

import pfreg
from pfreg import codec
from pfreg.layout import MANIFEST, SIGNATURE, blob_path
from tests.conformance.places import Place
from tests.conftest import listing


@pytest.fixture
def pushed(place: Place, image: pfreg.Snapshotted, store: pfreg.Store) -> str:
    return place.where(pfreg.push(image, place.url, store=store, storage_options=place.options))


def test_every_file_is_read_where_it_lies(pushed: str, place: Place, tree: Path, image: pfreg.Snapshotted) -> None:
    opened = pfreg.open_image(pushed, storage_options=place.options)
    assert opened.cid == image.cid and [message["content"] for message in opened.messages()] == ["hi"]
    files = {path: entry[2] for path, entry in listing(tree).items() if entry[0] == "file"}
    assert files and opened.fs.cat([f"world/fs/{path}" for path in files]) == {
        f"world/fs/{path}": content for path, content in files.items()
    }


def test_inside_a_running_event_loop(pushed: str, place: Place, tree: Path) -> None:
    async def read() -> bytes:
        return pfreg.open_image(pushed, storage_options=place.options).open("README.md").read()

    assert asyncio.run(read()) == (tree / "README.md").read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(2)")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_a_fork(pushed: str, place: Place, tree: Path) -> None:
    # obstore refuses to run in a child of who used it; where it is not asked for by name, s3fs takes over there.
    options = {name: value for name, value in place.options.items() if value != "obstore"}
    fs = pfreg.open_image(pushed, storage_options=options).fs
    assert fs.cat_file("world/fs/README.md") == (tree / "README.md").read_bytes()
    large = (tree / "weights_0.bin").read_bytes()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs is one that fails
        ok = False
        try:
            ok = fs.cat_file("world/fs/weights_0.bin") == large
        finally:
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fs.cat_file("world/fs/weights_0.bin") == large  # the parent's connections are still good


def test_a_chained_url(pushed: str, place: Place, tree: Path) -> None:
    with chained("world/fs/README.md", pushed, place) as stream:
        assert stream.read() == (tree / "README.md").read_bytes()


def chained(inside: str, reference: str, place: Place) -> Any:
    scheme, _, rest = reference.partition("://")
    # Oracle's library has oci:// in fsspec's table.
    link = "ocireg" if scheme == "oci" else scheme
    pfimg = {"skip_instance_cache": True}
    return fsspec.open(f"pfimg://{inside}::{link}://{rest}", **{link: dict(place.options), "pfimg": pfimg})


def other_content(stored: bytes) -> bytes:
    return codec.compress(b"not " + codec.content(stored, limit=1 << 30))


def other_signature(stored: bytes) -> bytes:
    return json.dumps({**json.loads(stored), "signature": "0" * 64}).encode()


def test_nothing_of_a_tampered_image_is_handed_out(
    pushed: str, place: Place, image: pfreg.Snapshotted, tree: Path
) -> None:
    if place.fs is None:
        return
    readme = (tree / "README.md").read_bytes()
    damages: dict[str, Callable[[bytes], bytes]] = {
        blob_path(pfreg.Digest.of(readme)): other_content,
        blob_path(image.manifest.layers.world_fs): other_content,
        MANIFEST: lambda stored: stored.replace(b'"test"', b'"evil"'),
        SIGNATURE: other_signature,
    }
    for name, damage in damages.items():
        whole = place.read(name)
        place.write(name, damage(whole))
        with pytest.raises((pfreg.IntegrityError, pfreg.SignatureError)):
            chained("world/fs/README.md", pushed, place).open()
        place.write(name, whole)
    assert chained("world/fs/README.md", pushed, place).open().read() == readme


def test_a_new_push_is_seen_when_asked_for(pushed: str, place: Place, tree: Path, store: pfreg.Store) -> None:
    fs = pfreg.open_image(pushed, storage_options=place.options).fs
    old = fs.cat_file("world/fs/README.md")
    (tree / "README.md").write_text("new\n")
    done = pfreg.push(pfreg.snapshot(tree, store=store), place.url, store=store, storage_options=place.options)
    assert fs.cat_file("world/fs/README.md") == old
    fs.invalidate_cache()
    renamed = place.where(done) != pushed  # a CID names one image for ever
    assert fs.cat_file("world/fs/README.md") == (old if renamed else b"new\n")
