"""Where credentials for a registry come from.

Rules
-----
- The first of these that has any: options; ``OCI_BEARER``; ``OCI_USERNAME`` and ``OCI_PASSWORD``; docker's
  ``config.json`` (``$DOCKER_CONFIG`` or ``~/.docker``): its ``credHelpers`` for the host, ``credsStore``, ``auths``.
- They are looked up when a registry asks for them, not before, and are stored nowhere.
- A credential helper is a program ``docker-credential-<name>`` on the PATH; it gets a time-out, and what it prints goes
  into no error.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from pfreg.errors import AccessDenied
from pfreg.filesystems.oci_auth import BearerToken, Credentials, IdentityToken, Login

__all__ = ["find_credentials"]

_OPERATION = "find credentials"
_HELPER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_MAX_CONFIG = 1 << 20
# The protocol of docker's helpers has no other sign than this sentence for "I have none".
_NOT_FOUND = "credentials not found in native keychain"
_IDENTITY_USER = "<token>"


def find_credentials(host: str, environ: Mapping[str, str], *, helper_timeout: float) -> Credentials | None:
    """Look for credentials in the environment and in docker's configuration; blocks while a helper runs.

    Parameters
    ----------
    host : str
        Host and port of the registry, as in the reference.
    environ : mapping of str to str
        The environment.
    helper_timeout : float
        Seconds that a credential helper may take.

    Returns
    -------
    Credentials or None
        None if there are none for this host.

    Raises
    ------
    AccessDenied
        If docker's configuration cannot be read, or a credential helper fails.
    """
    if environ.get("OCI_BEARER"):
        return BearerToken(environ["OCI_BEARER"])
    if environ.get("OCI_USERNAME"):
        return Login(environ["OCI_USERNAME"], environ.get("OCI_PASSWORD", ""))
    folder = environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    config = _read_config(os.path.join(folder, "config.json"))
    for key in _spellings(host):
        helper = _table(config, "credHelpers").get(key)
        found = _ask_helper(helper, key, helper_timeout) if isinstance(helper, str) else None
        if found:
            return found
    store = config.get("credsStore")
    if isinstance(store, str) and store:
        for key in _spellings(host):
            if found := _ask_helper(store, key, helper_timeout):
                return found
    for key in _spellings(host):
        entry = _table(config, "auths").get(key)
        if isinstance(entry, dict) and (found := _read_entry(entry, key)):
            return found
    return None


def _spellings(host: str) -> tuple[str, ...]:
    hub = ("https://index.docker.io/v1/",) if host in ("docker.io", "index.docker.io") else ()
    return (host, f"https://{host}", f"http://{host}", f"https://{host}/v1/", f"https://{host}/v2/", *hub)


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _read_config(path: str) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_CONFIG + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise AccessDenied(f"cannot be read: {error.strerror}", operation=_OPERATION, place=path) from error
    try:
        config = json.loads(raw) if len(raw) <= _MAX_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise AccessDenied("is no JSON object", operation=_OPERATION, place=path, hint="run docker login again")
    return config


def _read_entry(entry: Mapping[str, Any], key: str) -> Credentials | None:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    if text("identitytoken"):
        return IdentityToken(text("identitytoken"))
    if text("registrytoken"):
        return BearerToken(text("registrytoken"))
    if text("auth"):
        try:
            username, colon, password = base64.b64decode(text("auth"), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = username = password = ""
        if not colon:
            raise AccessDenied("its auth is not base64 of user:password", operation=_OPERATION, place=key)
        return Login(username, password)
    return Login(text("username"), text("password")) if text("username") else None


def _ask_helper(name: str, key: str, seconds: float) -> Credentials | None:
    if not _HELPER_NAME.match(name):
        raise AccessDenied(f"not the name of a credential helper: {name[:64]!r}", operation=_OPERATION, place=key)
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run([program, "get"], input=key.encode(), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise AccessDenied(f"{program} took more than {seconds:g} s", operation=_OPERATION, place=key) from None
    except OSError as error:
        raise AccessDenied(f"{program}: {error.strerror}", operation=_OPERATION, place=key) from None
    if done.returncode:
        if done.stdout.strip() == _NOT_FOUND.encode():
            return None
        raise AccessDenied(f"{program} failed with exit code {done.returncode}", operation=_OPERATION, place=key)
    try:
        answer = json.loads(done.stdout[:_MAX_CONFIG])
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, RecursionError, KeyError, TypeError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise AccessDenied(f"{program} answered something else than credentials", operation=_OPERATION, place=key)
    return IdentityToken(secret) if username == _IDENTITY_USER else Login(username, secret)
