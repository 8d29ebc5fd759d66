"""An image as a folder of the operating system: a real mount by the real command, and what FUSE asks of it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg import mount as mounting
from pfreg.cli import main
from tests.conftest import listing
from tests.imagefs.conftest import CSV, LARGE
from tests.imagefs.test_tampering import blob, other_content
from tests.servers.running import missing

LEADING_OUT = ("absolute", "circle", "dangling", "escaping")


@pytest.fixture
def operations() -> Any:
    """The module of the operations, which needs fusepy and libfuse."""
    try:
        from pfreg import mount_operations
    except (ImportError, OSError):
        missing("no FUSE: pip install fusepy; apt-get install fuse")
    return mount_operations


@pytest.fixture
def device(operations: Any) -> None:
    """A FUSE that this user may mount with."""
    if sys.platform == "linux" and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing("/dev/fuse is not there: modprobe fuse, or docker run --device /dev/fuse --cap-add SYS_ADMIN")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "mounted").mkdir()
    return tmp_path / "mounted"


@contextlib.contextmanager
def mounted(here: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run ``pfreg mount`` until the folder is there; it must have ended by itself afterwards."""
    command = [sys.executable, "-m", "pfreg", "mount", *map(str, arguments), str(here)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    hung = threading.Timer(60, process.kill)
    hung.start()
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "is at" in said and str(here) in said, said + process.stderr.read()
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)
        hung.cancel()
        assert not os.path.ismount(here)


@pytest.mark.usefixtures("device")
def test_the_agents_folder_is_there(root: Path, here: Path, folder: Path) -> None:
    with mounted(here, root):
        for name in LEADING_OUT:
            (folder / name).unlink()
        assert shown(here / "world" / "fs") == listing(folder)
        assert sorted(os.listdir(here)) == [
            "cache", "effects", "manifest.json", "manifest.json.sig", "model", "trace", "world",
        ]  # fmt: skip
        assert (here / "manifest.json").read_bytes() == (root / "manifest.json").read_bytes()
        assert len((here / "trace" / "messages.jsonl").read_text().splitlines()) == 2


def shown(mounted: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in a mounted folder, without the links whose targets are not told."""
    found: dict[str, tuple[object, ...]] = {}
    for top, folders, files in os.walk(mounted):
        for name in (*folders, *files):
            path = Path(top) / name
            if path.relative_to(mounted).as_posix() not in LEADING_OUT:
                found |= {path.relative_to(mounted).as_posix(): one(path)}
    return found


def one(path: Path) -> tuple[object, ...]:
    if path.is_symlink():
        return "symlink", os.readlink(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    return ("dir", mode) if path.is_dir() else ("file", mode, path.read_bytes())


@pytest.mark.usefixtures("device")
def test_links_are_followed_inside_only(root: Path, here: Path) -> None:
    with mounted(here, root):
        world = here / "world" / "fs"
        for path in ("to file", "chain", "to folder/a.csv", "data/up/to folder/up/data/a.csv"):
            assert (world / path).read_text() == CSV
        for name in LEADING_OUT:
            assert (world / name).is_symlink() and not (world / name).exists()
            with pytest.raises(FileNotFoundError):
                (world / name).read_bytes()
            with pytest.raises(FileNotFoundError):
                os.readlink(world / name)


@pytest.mark.usefixtures("device")
def test_it_is_read_only(root: Path, here: Path) -> None:
    with mounted(here, root):
        world = here / "world" / "fs"
        for write in (
            lambda: (world / "new").write_text("x"),
            lambda: (world / "run.sh").write_text("x"),
            lambda: (world / "run.sh").unlink(),
            lambda: (world / "run.sh").chmod(0o777),
            lambda: (world / "run.sh").rename(world / "walk.sh"),
            lambda: (world / "new").mkdir(),
            lambda: (world / "new").symlink_to("run.sh"),
        ):
            with pytest.raises(OSError) as refused:
                write()
            assert refused.value.errno == errno.EROFS


@pytest.mark.usefixtures("device")
def test_programs_read_it(root: Path, here: Path) -> None:
    with mounted(here, root):
        world = here / "world" / "fs"
        found = subprocess.run(["grep", "-rlx", "99,9801", "."], cwd=world, capture_output=True, text=True).stdout
        assert sorted(found.split()) == ["./data/a.csv", "./data/deep/b.csv"]
        with open(world / "large.bin", "rb") as stream:
            stream.seek(2_000_000)
            assert stream.read(10) == LARGE[2_000_000:2_000_010]
        made = pfreg.open_image(root).fs.created("").timestamp()
        assert (world / "run.sh").stat().st_mtime == made and (world / "run.sh").stat().st_uid == os.getuid()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unmounts(root: Path, here: Path, stop: signal.Signals) -> None:
    with mounted(here, root) as process:
        busy = os.open(here / "world" / "fs" / "run.sh", os.O_RDONLY)
        assert os.read(busy, 2) == b"#!"
        process.send_signal(stop)
        assert process.wait(60) == 0
        assert not os.path.ismount(here) and os.listdir(here) == []
        with contextlib.suppress(OSError):  # what served it has gone
            os.close(busy)


@pytest.mark.usefixtures("device")
def test_unmounted_by_somebody_else(root: Path, here: Path) -> None:
    with mounted(here, root) as process:
        subprocess.run(["umount", str(here)] if os.getuid() == 0 else ["fusermount", "-u", str(here)], check=True)
        assert process.wait(60) == 0


@pytest.mark.usefixtures("device")
def test_damage_is_an_error_and_never_a_byte(root: Path, here: Path) -> None:
    other_content(blob(root, pfreg.Digest.of(CSV.encode())))
    with mounted(here, root) as process:
        with pytest.raises(OSError) as damaged:
            (here / "world" / "fs" / "data" / "a.csv").read_bytes()
        assert damaged.value.errno == errno.EIO
        assert (here / "world" / "fs" / "run.sh").read_text() == "#!/bin/sh\n"
        process.terminate()
        assert "pfreg: warning: " in process.communicate()[1]


@pytest.mark.usefixtures("device")
def test_over_s3(
    s3: dict[str, Any], snapshot: pfreg.Snapshotted, store: pfreg.Store, here: Path, tmp_path: Path
) -> None:
    pfreg.push(snapshot, "s3://images/mounted", store=store, storage_options=s3)
    options = [text for name, value in s3.items() for text in ("-o", f"{name}={value}")]
    with mounted(here, "s3://images/mounted", *options):
        assert (here / "world" / "fs" / "large.bin").read_bytes() == LARGE


# -- without a mount ---------------------------------------------------------------------------------------------


def test_every_error_has_a_number(operations: Any, fs: pfreg.PfimgFileSystem, root: Path) -> None:
    """FUSE answers with numbers; an error without one would end the mount."""
    asked = operations.ImageOperations(fs)
    for number, call in [
        (errno.ENOENT, ("getattr", "/world/fs/none")),
        (errno.ENOENT, ("open", "/world/fs/dangling", os.O_RDONLY)),
        (errno.ENOENT, ("readlink", "/world/fs/escaping")),
        (errno.EISDIR, ("open", "/world/fs/data", os.O_RDONLY)),
        (errno.EROFS, ("open", "/world/fs/run.sh", os.O_WRONLY)),
        (errno.EROFS, ("mkdir", "/world/fs/new", 0o755)),
        (errno.EROFS, ("create", "/world/fs/new", 0o644)),
    ]:
        with pytest.raises(OSError) as refused:
            asked(*call)
        assert refused.value.errno == number, call
    blob(root, pfreg.Digest.of(CSV.encode())).unlink()
    with pytest.warns(UserWarning, match="sha256:"), pytest.raises(OSError) as lost:
        asked("open", "/world/fs/data/a.csv", os.O_RDONLY)
    assert lost.value.errno == errno.EIO


def test_the_operations_read(operations: Any, fs: pfreg.PfimgFileSystem) -> None:
    asked = operations.ImageOperations(fs)
    assert set(asked("readdir", "/world/fs/data", 0)) == {".", "..", "a.csv", "deep", "up"}
    handle = asked("open", "/world/fs/large.bin", os.O_RDONLY)
    assert asked("read", "/world/fs/large.bin", 5, 1000, handle) == LARGE[1000:1005]
    assert asked("release", "/world/fs/large.bin", handle) == 0 and not asked.cache
    assert stat.S_ISLNK(asked("getattr", "/world/fs/escaping")["st_mode"])
    assert asked("getattr", "/trace/messages.jsonl")["st_size"] == len(fs.cat_file("trace/messages.jsonl"))


# -- what is missing ---------------------------------------------------------------------------------------------


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("pfreg: mount")
    return captured.err


def test_without_fusepy(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fuse", None)
    assert main(["mount", str(root), str(here)]) == 1
    assert "pip install 'pfreg[mount]'" in one_line(capsys)


def test_without_libfuse(root: Path, here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pfreg", "mount", str(root), str(here)],
        env={**os.environ, "FUSE_LIBRARY_PATH": str(here / "none.so")}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "apt-get install fuse" in done.stderr or "pfreg[mount]" in done.stderr


@pytest.mark.usefixtures("operations")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the device")
def test_without_the_device(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mounting, "_DEVICE", "/dev/no-fuse")
    assert main(["mount", str(root), str(here)]) == 1
    assert "/dev/no-fuse: is not there" in one_line(capsys)


@pytest.mark.parametrize(
    ("make", "problem"),
    [(lambda path: path.rmdir(), "no such folder"), (lambda path: (path / "x").touch(), "not empty")],
)
def test_a_folder_that_cannot_be_used(
    root: Path, here: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], problem: str
) -> None:
    make(here)
    assert main(["mount", str(root), str(here)]) == 1
    assert problem in one_line(capsys)


@pytest.mark.usefixtures("device")
def test_no_image_is_no_mount(tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mount", str(tmp_path), str(here)]) == 1
    assert not os.path.ismount(here) and "no image" in capsys.readouterr().err
