"""Images as Python objects, what differs between two, and both on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import pfreg
from pfreg.cli import main
from tests.golden import GOLDEN, VECTORS, opened
from tests.imagefs.conftest import CSV, LARGE


@pytest.fixture
def image(root: Path) -> pfreg.Image:
    return pfreg.open_image(root)


def test_what_was_said_and_done(image: pfreg.Image, snapshot: pfreg.Snapshotted) -> None:
    assert image.cid == image.manifest.cid == snapshot.cid
    assert image.trust == pfreg.Trust("unsigned", "published default key")
    assert [message["content"] for message in image.messages()] == ["hi", "ho"]
    assert [effect["tool_id"] for effect in image.effects()] == ["mail"]
    assert image.env == {"LANG": "C"}
    assert {entry.path for entry in image.files()} >= {"data/a.csv", "to folder", "empty"}
    assert image.open("data/a.csv").read() == CSV.encode()
    assert list(image.pages()) == []


def test_at_a_glance(image: pfreg.Image, snapshot: pfreg.Snapshotted) -> None:
    assert repr(image).startswith(f"<Image {snapshot.cid.short} of 'test' at ")
    page = image._repr_html_()
    for text in (str(snapshot.cid), "test", "unsigned", "world.fs", "trace.messages", "KiB", "none"):
        assert text in page
    rows = [re.findall(">([^<]*)</t[hd]>", row) for row in page.split("</tr>") if "<tr>" in row]
    assert [row[0] for row in rows] == [
        "image", "place", "agent", "created", "parents", "signature",
        "layer", *(name for name, _ in image.manifest.layers), "all",
    ]  # fmt: skip
    assert rows[-1][2] == str(image.inspect().blobs)
    assert image.inspect() == pfreg.inspect(image.fs.fo)


def test_a_hostile_agent_cannot_write_html(folder: Path, store: pfreg.Store) -> None:
    cid = pfreg.snapshot(folder, store=store, agent_kind="<script>").cid
    assert "<script>" not in pfreg.open_image(cid, store=store)._repr_html_()


def test_lines_that_are_no_json(folder: Path, store: pfreg.Store) -> None:
    good = store.manifest(pfreg.snapshot(folder, store=store, messages=[{"role": "user", "content": "x"}]).cid)
    for text in (b"no json\n", b"[1]\n", b'{"a":1,"a":2}\n'):
        digest = store.put(text)
        raw = good.raw.replace(str(good.layers.trace_messages).encode(), str(digest).encode())
        store.record(pfreg.Manifest.from_bytes(raw))
        with pytest.raises(pfreg.LayerError, match="line 1"):
            pfreg.open_image(pfreg.Digest.of(raw), store=store).messages()


def test_images_of_the_original(tmp_path: Path) -> None:
    image = pfreg.open_image(VECTORS / "registry-small")
    assert str(image.cid) == GOLDEN["store-small"]["parent"]
    assert image.messages()[0]["content"] == 'hi "there"\nsecond line ☃'
    assert image.env["OPENAI_API_KEY"] == "<redacted>"
    for entry in image.files():
        if entry.kind == "file":
            assert len(image.open(entry.path).read()) == entry.size


def test_a_merge_has_the_effects_of_both_sides(tmp_path: Path) -> None:
    store = opened("store-merged", tmp_path)
    tools = {
        name: [effect["tool_id"] for effect in pfreg.open_image(GOLDEN["store-merged"][name], store=store).effects()]
        for name in ("base", "a", "b", "merged")
    }
    assert tools == {"base": ["tool0"], "a": ["tool1"], "b": ["tool2"], "merged": ["tool0", "tool1", "tool2"]}


def test_pages_are_arrays(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    store = opened("store-cache", tmp_path)
    image = pfreg.open_image(GOLDEN["store-cache"]["kv"], store=store)
    pages = list(image.pages())
    assert [page.ix for page in pages] == [0, 1, 2, 3]
    assert all(page.k.dtype == numpy.uint16 and page.v.dtype == numpy.uint16 for page in pages)
    assert pages[2].k.tobytes() == image.fs.cat_file("cache/pages/2.k")
    assert pfreg.open_image(GOLDEN["store-cache"]["base"], store=store).fs.ls("cache/pages") == []


def test_diff(image: pfreg.Image, folder: Path, store: pfreg.Store) -> None:
    (folder / "data" / "a.csv").write_text("other\n")
    (folder / "new").write_text("new\n")
    (folder / "run.sh").chmod(0o700)
    (folder / "dangling").unlink()
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": "else"}]
    fork = pfreg.snapshot(folder, store=store, messages=messages, env={"LANG": "de", "X": "1"})
    found = pfreg.diff(image, pfreg.open_image(fork.cid, store=store))
    assert (found.files.added, found.files.removed) == (("new",), ("dangling",))
    assert found.files.changed == ("data/a.csv", "run.sh")
    assert (found.environment.added, found.environment.changed) == (("X",), ("LANG",))
    assert (found.common_messages, len(found.first_messages), len(found.second_messages)) == (1, 1, 1)
    same = pfreg.diff(image, image)
    assert same.files == same.environment and not same.files.changed and same.common_messages == 2


def test_command_ls(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("0750") and line.endswith("world/fs/run.sh") for line in lines)
    assert any(line.endswith("world/fs/escaping -> ../../manifest.json") for line in lines)
    assert main(["ls", str(root), "/", "--json"]) == 0
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} >= {"manifest.json", "world", "trace"}
    assert main(["ls", str(root), "world/none"]) == 1
    assert "no such file" in capsys.readouterr().err


def test_command_cat(
    root: Path, store: pfreg.Store, snapshot: pfreg.Snapshotted, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["cat", str(root), "world/fs/large.bin"]) == 0
    assert capfdbinary.readouterr().out == LARGE
    assert main(["cat", str(snapshot.cid), "world/fs/data/a.csv", "--store", store.path]) == 0
    assert capfdbinary.readouterr().out == CSV.encode()
    assert main(["cat", str(root), "world/fs"]) == 1


def test_command_diff(
    root: Path,
    store: pfreg.Store,
    another: Callable[[str], pfreg.Snapshotted],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fork = another("new\n")
    assert main(["diff", str(root), str(fork.cid), "--store", store.path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "~ data/a.csv", "- env LANG", "0 messages in common", "< user: hi", "< assistant: ho",
    ]  # fmt: skip
    assert main(["diff", str(root), str(fork.cid), "--store", store.path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["changed"] == ["data/a.csv"]
