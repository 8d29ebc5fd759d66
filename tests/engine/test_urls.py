"""Any fsspec URL is a registry, chains too, without a line of ours for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

import pfreg
from tests.conftest import listing

NewStore = Callable[[str], pfreg.Store]


@pytest.fixture
def root(image: pfreg.Snapshotted, store: pfreg.Store, tmp_path: Path) -> Path:
    pfreg.push(image, tmp_path / "root", store=store)
    return tmp_path / "root"


def test_an_image_in_a_zip_file_is_read(
    image: pfreg.Snapshotted, root: Path, tree: Path, new_store: NewStore, tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "root")
    url = f"zip://root::file://{tmp_path}/packed.zip"
    assert pfreg.verify(url).cid == image.cid
    assert pfreg.pull(url, store=new_store("other")).cid == image.cid
    pfreg.clone(url, tmp_path / "out")
    assert listing(tmp_path / "out") == listing(tree)


def test_an_image_is_read_through_a_cache(image: pfreg.Snapshotted, store: pfreg.Store, new_store: NewStore) -> None:
    pfreg.push(image, "memory://chained/root", store=store)
    assert pfreg.pull("simplecache::memory://chained/root", store=new_store("other")).cid == image.cid
    fsspec.filesystem("memory").rm("/chained", recursive=True)


def test_a_folder_behind_dir_is_written_as_the_folder_itself(
    image: pfreg.Snapshotted, store: pfreg.Store, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    pfreg.push(image, f"dir::file://{tmp_path}/below", store=store, storage_options={"path": f"{tmp_path}/below"})
    (manifest,) = tmp_path.glob("below/**/manifest.json")
    assert listing(manifest.parent) == listing(root)


def test_what_cannot_be_written_says_so(
    image: pfreg.Snapshotted, store: pfreg.Store, root: Path, tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "root")
    before = (tmp_path / "packed.zip").read_bytes()
    other = pfreg.snapshot(root, store=store)
    with pytest.raises(pfreg.PfregError):
        pfreg.push(other, f"zip://root::file://{tmp_path}/packed.zip", store=store)
    assert (tmp_path / "packed.zip").read_bytes() == before
    assert pfreg.verify(f"zip://root::file://{tmp_path}/packed.zip").cid == image.cid


def test_the_callers_options_are_left_as_they_were(image: pfreg.Snapshotted, store: pfreg.Store, root: Path) -> None:
    options = {"file": {"auto_mkdir": False}}
    pfreg.exists(f"simplecache::file://{root}", storage_options=options)
    assert options == {"file": {"auto_mkdir": False}}


def test_a_base_in_folders_shares_the_disk(
    image: pfreg.Snapshotted, store: pfreg.Store, root: Path, tmp_path: Path
) -> None:
    done = pfreg.push(image, tmp_path / "fork", store=store, base=root)
    assert (done.sent, done.skipped) == (0, 0)
    for blob in root.glob("blobs/sha256/*/*.zst"):
        ours, theirs = blob.stat(), (tmp_path / "fork" / blob.relative_to(root)).stat()
        assert ours.st_size == theirs.st_size
        # A hard link, or, where the file system has them, a reflink, which is a file of its own.
        assert ours.st_ino == theirs.st_ino or theirs.st_nlink == 1


def test_a_push_without_a_base_shares_nothing(store: pfreg.Store, root: Path) -> None:
    for blob in root.glob("blobs/sha256/*/*.zst"):
        assert blob.stat().st_nlink == 1


def test_a_base_elsewhere_is_refused(image: pfreg.Snapshotted, store: pfreg.Store, root: Path, tmp_path: Path) -> None:
    with pytest.raises(pfreg.BadOption):
        pfreg.push(image, tmp_path / "fork", store=store, base="memory://elsewhere")
    assert not (tmp_path / "fork").exists()
