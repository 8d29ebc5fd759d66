"""The command line: every command, every exit code, and one line for every mistake."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.cli import main
from pfreg.progress import Bar, Progress
from tests.conftest import listing, make_tree

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("PF_STORE", str(tmp_path / "store"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def cid(run: Run, tree: Path) -> str:
    code, out, _ = run("snapshot", tree, "--json")
    assert code == 0
    return str(json.loads(out)["cid"])


def ok(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def mistake(result: tuple[int, str, str], code: int = 1) -> str:
    assert result[0] == code
    assert result[1] == ""
    assert result[2].startswith("pfreg: ") and result[2].count("\n") == 1
    assert "Traceback" not in result[2]
    return result[2]


def test_the_whole_way(run: Run, cid: str, tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert cid in ok(run("log"))
    assert ok(run("push", cid, root)).startswith(f"{cid} at {root}\nsent ")
    assert ok(run("exists", root)) == "yes\n"
    assert "unsigned" in ok(run("inspect", root))
    assert "world.fs" in ok(run("inspect", cid))
    assert "fine" in ok(run("verify", root))
    assert "looked up" in ok(run("verify", root, "--shallow"))
    assert "received 0 blobs" in ok(run("pull", root))
    assert ok(run("clone", root, tmp_path / "clone"))
    assert ok(run("checkout", cid, tmp_path / "checkout"))
    assert listing(tmp_path / "clone") == listing(tmp_path / "checkout") == listing(tree)
    assert cid in ok(run("copy", root, tmp_path / "copy"))
    assert "would remove 0" in ok(run("prune", root, "--grace", 0))
    assert "removed 0" in ok(run("prune", root, "--grace", 0, "--yes"))
    ok(run("remove", cid))
    assert ok(run("log")) == ""
    assert "removed" in ok(run("gc", "--grace", 0, "--yes"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["push", "{cid}", "{root}"],
        ["inspect", "{root}"],
        ["verify", "{root}"],
        ["pull", "{root}"],
        ["exists", "{root}"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_results_are_json(run: Run, cid: str, tmp_path: Path, arguments: list[str]) -> None:
    root = str(tmp_path / "root")
    ok(run("push", cid, root))
    result: Any = json.loads(ok(run(*(a.format(cid=cid, root=root) for a in arguments), "--json")))
    assert result is True or result["cid"] == cid


def test_log_and_prune_are_json(run: Run, cid: str, tmp_path: Path) -> None:
    ok(run("push", cid, tmp_path / "root"))
    assert [image["cid"] for image in json.loads(ok(run("log", "--json")))] == [cid]
    assert json.loads(ok(run("prune", tmp_path / "root", "--json")))["dry_run"] is True
    assert json.loads(ok(run("clone", tmp_path / "root", tmp_path / "out", "--json")))["files"] > 0


def test_snapshot_takes_what_it_is_given(run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "messages").write_text('{"role": "user", "content": "hi"}\n')
    (tmp_path / "effects").write_text('{"tool_id": "mail"}\n')
    monkeypatch.setenv("MY_SECRET", "hidden value")
    monkeypatch.setenv("MY_COLOUR", "blue")
    first = ok(run("snapshot", tree)).split()[0]
    given = ["--messages", tmp_path / "messages", "--effects", tmp_path / "effects", "--env", "--parent", first]
    chosen = ["--exclude", "src/", "--agent-kind", "tester", "--level", 19, "--json"]
    out = ok(run("snapshot", tree, *given, *chosen))
    manifest = json.loads(out)["manifest"]
    store = pfreg.Store(tmp_path / "store")
    assert manifest["parents"] == [first]
    assert manifest["agent"]["kind"] == "tester"
    assert store.read(manifest["layers"]["trace.messages"]) == b'{"content":"hi","role":"user"}\n'
    environment = store.read(manifest["layers"]["world.env"])
    assert b'"MY_COLOUR":"blue"' in environment and b"hidden value" not in environment
    assert b'"path":"src' not in store.read(manifest["layers"]["world.fs"])
    assert store.read(manifest["layers"]["effects.ledger"]).count(b"\n") == 2


def test_a_skipped_file_is_one_line(run: Run, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    code, _, err = run("snapshot", tree)
    assert code == 0
    assert err == "pfreg: warning: left out, an image cannot hold it: fifo\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["push"],
        ["pul", "x"],
        ["push", "sha256:beef", "./x"],
        ["pull", "foo://bar/x"],
        ["pull", "oci://HOST/Upper:tag"],
        ["pull", "hf://alice"],
        ["pull", "s3://user:hunter2@bucket/x"],
        ["pull", "./nothing-here"],
        ["pull", ""],
        ["snapshot", "./nothing-here"],
        ["snapshot", ".", "--level", "99"],
        ["snapshot", ".", "--messages", "./nothing-here"],
        ["verify", "sha256:" + "0" * 64],
        ["log", "--store", "./no-store"],
        ["prune", "./x", "--grace", "-1"],
        ["pull", "./x", "--jobs", "0"],
        ["pull", "./x", "--history", "some"],
        ["pull", "./x", "-o", "secret-without-a-name"],
        ["pull", "memory://x", "-o", 'nested={"a":1}'],
        ["clone", "./x", "./y", "--set-id", "perhaps"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(run: Run, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = mistake(run(*arguments))
    assert "hunter2" not in line and "secret-without-a-name" not in line


def test_a_conflict_is_3(run: Run, cid: str, tree: Path, tmp_path: Path) -> None:
    ok(run("push", cid, tmp_path / "root", "--expect", "absent"))
    assert "holds" in mistake(run("push", cid, tmp_path / "root", "--expect", "absent"), 3)
    assert mistake(run("pull", tmp_path / "root", "--expect", "sha256:" + "0" * 64), 3)


def test_damage_is_4(run: Run, cid: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    ok(run("push", cid, root))
    blob = max(root.glob("blobs/sha256/*/*.zst"), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1])
    assert blob.stem in mistake(run("verify", root), 4)
    assert mistake(run("clone", root, tmp_path / "out"), 4)
    assert not (tmp_path / "out").exists()
    mistake(run("pull", root, "--require-signature"), 4)


def test_absence_is_no(run: Run, tmp_path: Path) -> None:
    assert run("exists", tmp_path / "nothing") == (1, "no\n", "")


def test_a_bug_is_70(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("this cannot happen")

    monkeypatch.setattr("pfreg.engine.exists", broken)
    assert "a bug in pfreg: AssertionError" in mistake(run("exists", "./x"), 70)


def test_an_interrupt_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pfreg.engine.exists", interrupted)
    assert "interrupted" in mistake(run("exists", "./x"), 130)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["--version"], ["push", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    assert pfreg.__version__ in capsys.readouterr().out


def test_the_bar_is_drawn_on_a_terminal_and_only_there(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    command = [sys.executable, "-m", "pfreg", "snapshot", str(tmp_path / "tree"), "--store", str(tmp_path / "store")]
    quiet = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert quiet.stderr == b""
    master, slave = pty.openpty()
    _set_size(slave)
    drawn: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(master, drawn))
    reader.start()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, check=True, timeout=60)
    os.close(slave)  # the last handle: the reader comes to its end
    reader.join(60)
    os.close(master)
    seen = b"".join(drawn)
    assert b"snapshot" in seen and b"B/s" in seen
    assert done.stdout.startswith(b"sha256:")


def test_the_bar_shows_bytes_and_blobs() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    bar = Bar.on_terminal("push", terminal)
    assert bar is not None
    progress = Progress(bar)
    progress.expect(size=4 << 20, blobs=7)
    progress.advance(1 << 20, blobs=3)
    bar.draw()
    bar.close()
    line = terminal.getvalue().split("\r")[-3]
    assert "push" in line and "1.00M/4.00M" in line and "3/7 blobs" in line and "25%" in line
    assert Bar.on_terminal("push", io.StringIO()) is None


def _set_size(terminal: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))


def _read_all(terminal: int, drawn: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while data := os.read(terminal, 1 << 16):
            drawn.append(data)
