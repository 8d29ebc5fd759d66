"""Trees that both sides can hold, made by hand and by hypothesis."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hypothesis import strategies as st

from tests.interop.original import leaves_out

Maker = Callable[[Path], None]


def nested(root: Path) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "deep.py").write_text("x = 1\n" * 200)
    (root / "a" / "same").write_bytes(b"the same")
    (root / "b").write_bytes(b"the same")
    (root / "empty").write_bytes(b"")
    (root / "empty folder").mkdir()


def links(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "file").write_text("x")
    (root / "to file").symlink_to("file")
    (root / "to folder").symlink_to("sub")
    (root / "sub" / "up").symlink_to("../file")
    (root / "dangling").symlink_to("nowhere")
    (root / "to itself").symlink_to("to itself")
    os.link(root / "file", root / "hard link")


def modes(root: Path) -> None:
    for mode in (0o400, 0o444, 0o600, 0o640, 0o644, 0o666, 0o700, 0o711, 0o755, 0o777):
        path = root / f"file {mode:o}"
        path.write_text("x")
        path.chmod(mode)
    for mode in (0o500, 0o700, 0o750, 0o755, 0o777, 0o1777):
        path = root / f"folder {mode:o}"
        path.mkdir()
        path.chmod(mode)


def names(root: Path) -> None:
    order = [
        "a",
        "a b",
        "a-b",
        "a.txt",
        "a0",
        "A",
        "\u00e9",
        "e\u0301",
        "\uffff",
        "\U0001f600",
        "\u6587\u4ef6",
        "~",
        "-rf",
        "...",
    ]
    for name in (
        *order,
        "'\"$`",
        "a\nb",
        "\x1b[31m",
        ".hidden",
        "#",
        "%20",
        "n" * 255,
        " ",
        "12:30",
        "*?",
        ".git",
        "CON",
    ):
        (root / name).mkdir()
        (root / name / "x").write_text("x")


def sizes(root: Path) -> None:
    for size in (0, 1, 127, 128, 4096, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, (1 << 20) + 1):
        (root / f"{size}.bin").write_bytes((bytes(range(251)) * (size // 251 + 1))[:size])


def deep(root: Path) -> None:
    folder = root
    for depth in range(60):
        folder = folder / f"d{depth}"
        folder.mkdir()
        (folder / "f").write_text("x")


def nothing(root: Path) -> None:
    assert not list(root.iterdir())


TREES: Mapping[str, Maker] = {
    "nested": nested, "links": links, "modes": modes, "names": names, "sizes": sizes, "deep": deep, "nothing": nothing,
}  # fmt: skip

filenames = st.text(st.characters(codec="utf-8", exclude_characters="/\0\\"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and not leaves_out(name) and len(name.encode()) < 256
)
contents = st.sampled_from([b"", b"x", bytes(range(256)) * 3])  # few: the SDK takes 40 ms for each
leaves = st.one_of(
    st.tuples(st.just("file"), contents, st.sampled_from([0o644, 0o755, 0o600, 0o444])),
    st.tuples(st.just("link"), st.sampled_from(["nowhere", "a", "./b/../c"]), st.just(0)),
)
trees = st.recursive(leaves, lambda inner: st.dictionaries(filenames, inner, max_size=5), max_leaves=40).filter(
    lambda made: isinstance(made, dict)
)


def build(made: Mapping[str, object], folder: Path) -> None:
    """Write a tree that hypothesis made."""
    for name, what in made.items():
        path = folder / name
        if isinstance(what, dict):
            path.mkdir()
            build(what, path)
        elif isinstance(what, tuple) and what[0] == "link":
            path.symlink_to(what[1])
        elif isinstance(what, tuple):
            path.write_bytes(what[1])
            path.chmod(what[2])
