"""pfimg:// on every registry: what was pushed is read where it lies, by every way to name it."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

import pfreg
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


def test_a_chained_url(pushed: str, place: Place, tree: Path) -> None:
    scheme, _, rest = pushed.partition("://")
    # Oracle's library has oci:// in fsspec's table.
    link = "ocireg" if scheme == "oci" else scheme
    url = f"pfimg://world/fs/README.md::{link}://{rest}"
    with fsspec.open(url, **{link: dict(place.options)}) as stream:
        assert stream.read() == (tree / "README.md").read_bytes()
