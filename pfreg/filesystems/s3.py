"""Which library carries the bytes to and from S3: obstore, which is faster, or s3fs, which knows every option.

Rules
-----
- The option ``library``, given or in fsspec's configuration, else the variable ``PFREG_S3``, forces one (``obstore`` or
  ``s3fs``); what that one cannot do is then an error with the reason.
- Unforced, obstore is taken where it is installed and does with the options just what s3fs would; else s3fs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.config import apply_config

from pfreg.errors import BadOption
from pfreg.filesystems.s3_options import Untranslatable, translate

__all__ = ["open_s3"]

_CONFIG = {
    "max_pool_connections": 32,  # botocore's own 10 would be the bound of what is in flight
    "response_checksum_validation": "when_required",  # every byte is verified against its digest as it is
    "user_agent": "pfreg",  # which botocore otherwise builds twice for each request
}
_LIBRARIES = ("obstore", "s3fs")


class _Configured:
    """What fsspec's own configuration is asked about."""

    protocol = ("s3", "s3a")


def open_s3(options: Mapping[str, Any]) -> AbstractFileSystem:
    """Return a filesystem for ``s3://``.

    Parameters
    ----------
    options : mapping
        The ``storage_options``, as for s3fs, and ``library``.

    Raises
    ------
    BadOption
        If a library is forced that does not exist, or that cannot do what the options ask for.
    ImportError
        If no library is installed, or not the one that is forced.
    """
    rest = apply_config(_Configured, dict(options))
    forced = rest.pop("library", None) or os.environ.get("PFREG_S3") or None
    if forced not in (None, *_LIBRARIES):
        raise BadOption(f"no library for S3 is called {str(forced)[:40]!r}", hint=f"one of {', '.join(_LIBRARIES)}")
    if forced == "obstore" or (forced is None and _obstore_serves(rest)):
        from pfreg.filesystems.s3_obstore import ObstoreFileSystem

        return ObstoreFileSystem(**rest)
    importlib.import_module("s3fs")  # first, so that where it is missing it is named, and not what it needs
    from pfreg.filesystems.s3_s3fs import S3KeysFileSystem

    config = {**_CONFIG, **(rest.get("config_kwargs") or {})}
    return S3KeysFileSystem(
        **{**rest, "config_kwargs": config, "skip_instance_cache": True, "use_listings_cache": False}
    )


def _obstore_serves(options: Mapping[str, Any]) -> bool:
    if importlib.util.find_spec("obstore") is None:
        return False
    from pfreg.filesystems.s3_obstore import forked

    try:
        translate(options)
    except Untranslatable:
        return False
    return not forked()
