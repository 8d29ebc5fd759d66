"""Links inside an image: those that stay inside resolve; nothing follows one out, or in a circle."""

from __future__ import annotations

import pytest

import pfreg
from pfreg.image_index import Index, Node
from tests.imagefs.conftest import CSV

PfimgFileSystem = pfreg.PfimgFileSystem


@pytest.mark.parametrize(
    "path", ["to file", "chain", "to folder/a.csv", "to folder/up/data/a.csv", "data/up/to folder/deep/../a.csv"]
)
def test_links_inside_resolve(fs: PfimgFileSystem, path: str) -> None:
    assert fs.cat_file(f"world/fs/{path}") == CSV.encode()
    assert fs.info(f"world/fs/{path}")["size"] == len(CSV)


def test_a_link_to_a_file_is_that_file(fs: PfimgFileSystem) -> None:
    entry = fs.info("world/fs/to file")
    assert (entry["type"], entry["islink"], entry["destination"]) == ("file", True, "data/deep/../a.csv")
    assert entry["digest"] == fs.checksum("world/fs/data/a.csv")
    assert "islink" not in fs.info("world/fs/data/a.csv")


def test_a_link_to_a_folder_works_in_paths_and_is_never_walked(fs: PfimgFileSystem) -> None:
    assert fs.ls("world/fs/to folder", detail=False) == [
        f"world/fs/to folder/{name}" for name in ("a.csv", "deep", "up")
    ]
    listed = {entry["name"]: entry["type"] for entry in fs.ls("world/fs")}
    assert listed["world/fs/to folder"] == "link"
    assert not any("to folder/" in path or "/up/" in path for path in fs.find(""))


@pytest.mark.parametrize(
    ("name", "target"),
    [("dangling", "nowhere"), ("circle", "circle"), ("absolute", "/etc/hostname"), ("escaping", "../../manifest.json")],
)
def test_other_links_are_shown_and_not_followed(fs: PfimgFileSystem, name: str, target: str) -> None:
    path = f"world/fs/{name}"
    entry = fs.info(path)
    assert (entry["type"], entry["islink"], entry["destination"]) == ("link", True, target)
    assert not fs.isfile(path) and not fs.isdir(path)
    assert path in fs.ls("world/fs", detail=False) and path not in fs.find("world/fs")
    for call in (fs.open, fs.cat_file):
        with pytest.raises(FileNotFoundError, match="leads nowhere inside"):
            call(path)


def linked(*links: tuple[str, str]) -> Index:
    return Index(
        [Node("secret", "file"), Node("world/fs/in", "directory"), Node("world/fs/in/f", "file")]
        + [Node(f"world/fs/{path}", "link", target=target) for path, target in links]
    )


@pytest.mark.parametrize(
    "target",
    ["..", "../..", "../fs/in/f", "in/../../fs/in/f", "/world/fs/in/f", "in/f/..", "in/f/.", "none/../in/f", ""],
)
def test_a_link_that_leaves_even_for_a_moment_leads_nowhere(target: str) -> None:
    index = linked(("l", target))
    if target != "":
        assert index.resolve("world/fs/l") == index.get("world/fs/l")
    assert index.resolve("world/fs/l/secret") is None


def test_chains_of_links_end() -> None:
    links = [(f"l{i}", f"l{i + 1}") for i in range(100)] + [("l100", "in/f")]
    index = linked(*links)
    assert index.resolve("world/fs/l61") == index.get("world/fs/in/f")
    assert index.resolve("world/fs/l60") == index.get("world/fs/l60")
    growing = linked(("a", "a/a/a"))
    assert growing.resolve("world/fs/a") == growing.get("world/fs/a")
