"""Where things lie, and that nothing else is taken for them."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfreg import layout
from pfreg.digest import Digest
from tests import golden

digests = st.binary(max_size=8).map(Digest.of)
D = Digest.of(b"")


@given(digests)
def test_a_path_and_its_digest_belong_together(digest: Digest) -> None:
    path = layout.blob_path(digest)
    assert path == f"blobs/sha256/{digest.hex[:2]}/{digest.hex}.zst"
    for prefix in ("", "/", "bucket/a/", "/blobs/sha256/aa/", "s3://b/x\ny/"):
        assert layout.digest_of_blob(prefix + path) == digest
    image = layout.image_path(digest)
    assert image == f"images/{digest.hex}.json"
    assert layout.digest_of_image(posixpath.basename(image)) == digest


@pytest.mark.parametrize(
    "path",
    [
        "", "blobs", D.hex, f"{D.hex}.zst", f"sha256/{D.hex[:2]}/{D.hex}.zst", f"blobs/sha256/00/{D.hex}.zst",
        f"blobs/sha256/{D.hex[:2]}/{D.hex}", f"blobs/sha256/{D.hex[:2]}/{D.hex}.zst.part",
        f"xblobs/sha256/e3/{D.hex}.zst",
        f"blobs/sha256/{D.hex[:2]}/{D.hex}.zst/", f"blobs/sha256/{D.hex[:2]}/{D.hex}.zst\n",
        f"blobs/sha256/e3/x/{D.hex}.zst",
        f"blobs/sha256/{D.hex[:2].upper()}/{D.hex.upper()}.zst", f"blobs/sha256/{D.hex[:2]}/{D.hex[:-1]}.zst",
        f"blobs/sha512/{D.hex[:2]}/{D.hex}.zst", f"blobs/sha256/{D.hex[:2]}/{D.hex}0.zst",
        layout.partial_name(layout.blob_path(D)),
    ],
)  # fmt: skip
def test_what_is_no_blob_is_not_taken_for_one(path: str) -> None:
    assert layout.digest_of_blob(path) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        D.hex,
        f"{D.hex}.json.part",
        f"x{D.hex}.json",
        f"{D.hex[:-1]}.json",
        f"{D.hex.upper()}.json",
        f"{D.hex}.json\n",
    ],
)
def test_what_is_no_image_is_not_taken_for_one(name: str) -> None:
    assert layout.digest_of_image(name) is None


@given(st.sampled_from(["manifest.json", "a/b/c.zst", layout.blob_path(D)]))
def test_a_partial_name_is_new_hidden_and_beside_its_file(path: str) -> None:
    names = {layout.partial_name(path) for _ in range(20)}
    assert len(names) == 20
    for name in names:
        assert posixpath.dirname(name) == posixpath.dirname(path)
        assert posixpath.basename(name).startswith(".") and layout.is_partial(name)
        assert layout.digest_of_blob(name) is None
    assert not layout.is_partial(path)


@pytest.mark.parametrize(
    "name", ["x.part", ".x.part", ".x.0123.part", f".x.{'g' * 16}.part", ".x.0123456789abcdef.part.zst"]
)
def test_other_peoples_files_are_not_taken_for_partial_ones(name: str) -> None:
    assert not layout.is_partial(name)


def test_golden_stores_and_roots_lie_as_the_layout_says() -> None:
    for folder in (*golden.STORES, *golden.REGISTRIES):
        root = golden.VECTORS / folder
        files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        blobs = {digest for path in files if (digest := layout.digest_of_blob(path))}
        assert {layout.blob_path(digest) for digest in blobs} == {path for path in files if path.startswith("blobs/")}
        images = {path for path in files if path.startswith("images/")}
        if folder in golden.REGISTRIES:
            assert files - {layout.blob_path(digest) for digest in blobs} == {layout.MANIFEST, layout.SIGNATURE}
        else:
            found = {layout.digest_of_image(posixpath.basename(path)) for path in images}
            assert found <= blobs  # a manifest in a store is a blob, too
