"""A filesystem over local folders that kills the process that reads a certain blob, or fails there and tells secrets."""

from __future__ import annotations

import os
from typing import Any

from distributed import WorkerPlugin
from fsspec import register_implementation
from fsspec.implementations.local import LocalFileSystem


class Mortal(LocalFileSystem):
    """Local folders, as an object store.

    Parameters
    ----------
    at : str
        Part of the path at which it happens; it never does by default.
    deaths : str
        A folder. As long as there are fewer than `lives` files in it, the process that reads there adds one and dies.
    lives : int
        How many processes die.
    token : str
        A credential.
    fails : bool
        Raise an error that tells the credential, instead of dying.
    """

    protocol = "mortal"
    cachable = False

    def __init__(
        self, at: str = "\n", deaths: str = "", lives: int = 1, token: str = "", fails: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs, auto_mkdir=True)
        self.at, self.deaths, self.lives, self.token, self.fails = at, deaths, lives, token, fails

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = LocalFileSystem._strip_protocol(path.removeprefix("mortal://"))
        return stripped

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """See fsspec."""
        if self.at in path:
            self._strike()
        return super().open(path, mode, **kwargs)

    def _strike(self) -> None:
        if self.fails:
            raise OSError(f"refused for {self.token}")
        for death in range(self.lives):
            try:
                os.close(os.open(f"{self.deaths}/{death}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os._exit(9)


def register() -> None:
    """Let fsspec know it in this process."""
    register_implementation("mortal", Mortal, clobber=True)


class Registering(WorkerPlugin):
    """Lets fsspec know it in every worker, those included that replace the dead."""

    def setup(self, worker: Any) -> None:
        """See dask."""
        register()
