"""Filesystems over a dictionary whose N-th operation fails, in eight ways.

Three protocols: ``flaky`` puts like an object store, ``flakyfolder`` like a folder that is reached over a network,
``flakyasync`` is an asynchronous object store. All of them share one :class:`World`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem, register_implementation
from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK

LOUD = ("error", "denied", "lost", "foreign", "timeout")
SILENT = ("absent", "short", "wrong")
KINDS = (*LOUD, *SILENT)
READS, WRITES, LOOKS, OTHERS = {"read"}, {"write"}, {"info", "find"}, {"copy", "move", "remove", "makedirs"}
PROTOCOLS = ("flaky", "flakyfolder", "flakyasync")


class Foreign(Exception):
    """An exception that is neither an OSError nor known to anybody."""


class World:
    """The files, what was done to them, and which operation is to fail.

    Attributes
    ----------
    files : dict of str to bytes
        What there is.
    calls : list of (str, str)
        Operations and their paths, since the last :meth:`arm`.
    struck : tuple of (str, str) or None
        The operation that failed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.files: dict[str, bytes] = {}
        self.arm()

    def arm(self, at: int | None = None, kind: str = "error", *, text: str = "broken", always: bool = False) -> None:
        """Let operation number `at`, counted from 0, fail; with `always` every one from there on."""
        self.calls: list[tuple[str, str]] = []
        self.struck: tuple[str, str] | None = None
        self._at, self._kind, self._text, self._always = at, kind, text, always

    def written(self) -> list[str]:
        """Return the names under which something was written since :meth:`arm`."""
        return [path for operation, path in self.calls if operation in ("write", "copy", "move")]

    def do(self, operation: str, path: str, act: Callable[[], Any]) -> Any:
        """Do `act`, or fail."""
        with self._lock:
            number = len(self.calls)
            self.calls.append((operation, path))
            hit = self._at is not None and (number == self._at or (self._always and number > self._at))
        if not hit or not self._applies(operation):
            return act()
        self.struck = (operation, path)
        if self._kind == "lost":
            with contextlib.suppress(FileNotFoundError):
                act()  # it was done, and its answer never came
        if self._kind in LOUD:
            raise self._error()
        return self._lie(operation, path, act)

    def _applies(self, operation: str) -> bool:
        if self._kind == "absent":
            return operation in READS | LOOKS
        if self._kind == "wrong":
            return operation in READS | LOOKS
        return operation in READS | WRITES | {"find"} if self._kind == "short" else True

    def _error(self) -> Exception:
        return {
            "error": OSError(errno.EIO, self._text),
            "denied": PermissionError(errno.EACCES, self._text),
            "lost": ConnectionResetError(errno.ECONNRESET, self._text),
            "timeout": TimeoutError(self._text),
            "foreign": Foreign(self._text),
        }[self._kind]

    def _lie(self, operation: str, path: str, act: Callable[[], Any]) -> Any:
        if self._kind == "absent":
            raise FileNotFoundError(errno.ENOENT, self._text, path)
        if operation == "write":  # only "short"
            act()
            self.files[path] = self.files[path][: len(self.files[path]) // 2]
            return None
        result = act()
        short = self._kind == "short"
        if operation == "read":
            middle = len(result) // 2
            return result[:middle] if short else result[:middle] + bytes([result[middle] ^ 1]) + result[middle + 1 :]
        if operation == "find":
            names = sorted(result)
            kept = names[::2] if short else names
            return {
                name: result[name] if short else {**result[name], "size": result[name]["size"] + 1} for name in kept
            }
        return {**result, "size": (result["size"] or 0) + 1}

    # -- the plain operations ----------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self.files[path]

    def put(self, path: str, data: bytes) -> None:
        """Set a file's bytes."""
        self.files[path] = bytes(data)

    def info(self, path: str) -> dict[str, Any]:
        """Describe a file or a folder."""
        if path in self.files:
            return {"name": path, "type": "file", "size": len(self.files[path]), "mtime": 0.0}
        if any(name.startswith(f"{path}/") for name in self.files):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(errno.ENOENT, "no such file", path)

    def find(self, path: str) -> dict[str, dict[str, Any]]:
        """Describe every file below a folder."""
        return {name: self.info(name) for name in list(self.files) if name.startswith(f"{path}/")}

    def move(self, source: str, target: str) -> None:
        """Rename a file over another."""
        self.files[target] = self.read(source)
        del self.files[source]

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.read(path)
        del self.files[path]


WORLD = World()


class Flaky(AbstractFileSystem):
    """An object store."""

    protocol = "flaky"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(f"{cls.protocol}://").strip("/")

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """See fsspec."""
        return WORLD.do("info", path, lambda: WORLD.info(path))

    def find(self, path: str, maxdepth: Any = None, withdirs: bool = False, detail: bool = False, **kw: Any) -> Any:
        """See fsspec."""
        return WORLD.do("find", path, lambda: WORLD.find(path))

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        """See fsspec."""
        return io.BytesIO(WORLD.do("read", path, lambda: WORLD.read(path)))

    def get_file(self, path: str, local: str, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """See fsspec; a failing download leaves something behind, as real ones do."""
        Path(local).write_bytes(b"half of ")
        Path(local).write_bytes(WORLD.do("read", path, lambda: WORLD.read(path)))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """See fsspec."""
        WORLD.do("write", path, lambda: WORLD.put(path, value))

    def put_file(self, local: str, path: str, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """See fsspec."""
        WORLD.do("write", path, lambda: WORLD.put(path, Path(local).read_bytes()))

    def cp_file(self, source: str, target: str, **kwargs: Any) -> None:
        """See fsspec."""
        WORLD.do("copy", target, lambda: WORLD.put(target, WORLD.read(source)))

    def mv(self, source: str, target: str, **kwargs: Any) -> None:
        """See fsspec."""
        WORLD.do("move", target, lambda: WORLD.move(source, target))

    def rm_file(self, path: str) -> None:
        """See fsspec."""
        WORLD.do("remove", path, lambda: WORLD.remove(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """See fsspec."""
        WORLD.do("makedirs", path, lambda: None)


class FlakyFolder(Flaky):
    """A folder that is reached over a network: a file being written can be seen."""

    protocol = "flakyfolder"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """See fsspec."""
        WORLD.put(path, value[: len(value) // 2])
        super().pipe_file(path, value)

    def put_file(self, local: str, path: str, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """See fsspec."""
        WORLD.put(path, b"half of ")
        super().put_file(local, path)


class FlakyAsync(AsyncFileSystem):
    """An asynchronous object store."""

    protocol = "flakyasync"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(f"{cls.protocol}://").strip("/")

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return WORLD.do("info", path, lambda: WORLD.info(path))

    async def _find(self, path: str, **kwargs: Any) -> Any:
        return WORLD.do("find", path, lambda: WORLD.find(path))

    async def _cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        return WORLD.do("read", path, lambda: WORLD.read(path))

    async def _get_file(self, path: str, local: str, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        Path(local).write_bytes(b"half of ")
        Path(local).write_bytes(WORLD.do("read", path, lambda: WORLD.read(path)))

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        WORLD.do("write", path, lambda: WORLD.put(path, value))

    async def _put_file(self, local: str, path: str, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        WORLD.do("write", path, lambda: WORLD.put(path, Path(local).read_bytes()))

    async def _cp_file(self, source: str, target: str, **kwargs: Any) -> None:
        WORLD.do("copy", target, lambda: WORLD.put(target, WORLD.read(source)))

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        WORLD.do("remove", path, lambda: WORLD.remove(path))


def register() -> None:
    """Let fsspec know the three protocols."""
    for filesystem in (Flaky, FlakyFolder, FlakyAsync):
        register_implementation(filesystem.protocol, filesystem, clobber=True)
