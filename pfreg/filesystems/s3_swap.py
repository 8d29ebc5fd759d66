"""Compare and swap on S3: a write that succeeds only if nobody else has written meanwhile.

Rules
-----
- Whether a server honours ``If-Match`` and ``If-None-Match`` is found out by trying, once for an instance, with an
  object that is made for it and removed again: one that ignores them says nothing, and overwrites.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable

__all__ = ["Swapping"]

_NEVER = '"00000000000000000000000000000000"'  # an ETag that no content has had here


class Swapping:
    """What a filesystem with conditional writes has in common with others."""

    _honoured: bool | None = None
    rm_file: Callable[[str], None]

    def version(self, path: str) -> str | None:
        """Return what names the content of the file at `path` now, None where there is none."""
        raise NotImplementedError

    def swap(self, path: str, data: bytes, *, version: str | None) -> str:
        """Write `data` if the file at `path` is still what `version` names, None for absent; return the new version.

        Raises
        ------
        FileExistsError
            If it is not. Nothing has been written then.
        """
        raise NotImplementedError

    def swaps(self, folder: str) -> bool:
        """Tell whether the server honours conditions, found out with an object in `folder`."""
        if self._honoured is None:
            path = f"{folder}/.conditions.{secrets.token_hex(8)}.part"
            try:
                self._honoured = self._try(path)
            finally:
                with contextlib.suppress(PermissionError):  # who may not remove leaves one byte
                    self.rm_file(path)
        return self._honoured

    def _try(self, path: str) -> bool:
        try:
            first = self.swap(path, b"1", version=None)
            if self._takes(path, None) or self._takes(path, _NEVER):
                return False
            self.swap(path, b"3", version=first)
        except PermissionError:
            raise
        except OSError:
            return False  # it does not know conditions, and says so; or does not keep them
        return True

    def _takes(self, path: str, version: str | None) -> bool:
        try:
            self.swap(path, b"2", version=version)
        except FileExistsError:
            return False
        return True
