"""fsspec's own tests of get and open, against an image made beforehand of what they expect to find."""

from __future__ import annotations

from pathlib import Path

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures
from fsspec.tests.abstract.get import AbstractGetTests

import pfreg


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory: pytest.TempPathFactory) -> pfreg.PfimgFileSystem:
    """Every scenario of fsspec's suite, in one image."""
    folder, local, make = tmp_path_factory.mktemp("scenarios"), LocalFileSystem(auto_mkdir=True), AbstractFixtures()

    def join(*parts: str) -> str:
        return "/".join(parts)

    agent = folder / "agent"
    for name, build in [
        ("bulk", make._bulk_operations_scenario_0),
        ("glob", make._glob_edge_cases_files),
        ("prefix", make._dir_and_file_with_same_name_prefix),
        ("hashed", make._10_files_with_hashed_names),
    ]:
        build(local, join, str(agent / name))
    (agent / "src").mkdir()
    (agent / "src" / "file").touch()
    store = pfreg.Store(folder / "store")
    pfreg.push(pfreg.snapshot(agent, store=store), folder / "root", store=store)
    return pfreg.PfimgFileSystem(fo=str(folder / "root"), skip_instance_cache=True)


class TestGet(AbstractFixtures, AbstractGetTests):
    @pytest.fixture
    def fs(self, prebuilt: pfreg.PfimgFileSystem) -> AbstractFileSystem:
        return prebuilt

    @pytest.fixture
    def fs_path(self) -> str:
        return "world/fs"

    @pytest.fixture
    def local_path(self, tmp_path: Path) -> str:
        return str(tmp_path)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return True

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self) -> str:
        return "world/fs/bulk/source"

    @pytest.fixture
    def fs_glob_edge_cases_files(self) -> str:
        return "world/fs/glob/source"

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self) -> str:
        return "world/fs/prefix/source"

    @pytest.fixture
    def fs_10_files_with_hashed_names(self) -> str:
        return "world/fs/hashed/source"

    def test_get_directory_recursive(self, fs: AbstractFileSystem, local_target: str) -> None:
        """As the suite has it, which makes the folder itself: into a new folder, then into one that is there."""
        for source, got in [("src", ""), ("src", "src/"), ("src/", "")]:
            fs.get(f"world/fs/{source}", local_target, recursive=True)
            assert (Path(local_target) / got / "file").is_file()


def test_open_exclusive(prebuilt: pfreg.PfimgFileSystem) -> None:
    """What is left of the suite of open, which writes: whoever writes is told why not."""
    with pytest.raises(OSError, match="immutable"):
        prebuilt.open("world/fs/bulk/source/file1", "xb")
