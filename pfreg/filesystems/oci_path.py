"""How the OCI filesystem names things: ``ocireg://host[:port]/repository[:tag][@sha256:<hex>][/path/of/a/file]``.

Rules
-----
- The first ``/`` ends the host; the repository then runs to the ``:`` of the tag or the ``@`` of the digest, so that a
  file inside an artifact always comes after a tag or a digest. A path with neither names a repository: it has tags,
  and no files.
- Only names that every registry takes: lower-case repositories, tags of at most 128 characters, ports from 1 to
  65535, sha256. No userinfo, no control characters, nothing that could escape from a URL.
- The path of a file is relative and plain: no empty, ``.`` or ``..`` component, no backslash, colon or control
  character. It comes from manifests of strangers, and ends in paths on local disks.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pfreg.errors import BadReference

__all__ = ["PROTOCOL", "ArtifactName", "is_loopback", "is_plain_path", "is_tag", "parse_path"]

PROTOCOL = "ocireg"

_EXPECTED = "expected host[:port]/repository[:tag][@sha256:<64 hex>][/file], the repository in lower case"
_HOST = re.compile(
    r"(?:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?)|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?\Z"
)
_SEGMENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_REPOSITORY = 255
_MAX_FILE_PATH = 1024


@dataclass(frozen=True, slots=True)
class ArtifactName:
    """What stands before the path of a file.

    Parameters
    ----------
    host : str
        Host name or address with its port, in lower case.
    repository : str
        Repository on that host.
    tag, digest : str or None
        What names the manifest. With both, the tag must name the manifest of that digest. With neither, this is a
        repository.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"

    @property
    def is_repository(self) -> bool:
        """Whether this has neither tag nor digest."""
        return self.tag is None and self.digest is None

    @property
    def reference(self) -> str:
        """The tag, else the digest: what the registry is asked for.

        Raises
        ------
        BadReference
            If this names a repository only.
        """
        reference = self.tag or self.digest
        if reference is None:
            raise BadReference(
                "names a repository, not an artifact", place=str(self), hint="append :latest, or another tag"
            )
        return reference


def parse_path(path: str) -> tuple[ArtifactName, str]:
    """Take a path apart, without its ``ocireg://``.

    Parameters
    ----------
    path : str
        Such as ``localhost:5000/team/img:v1/blobs/x.zst``.

    Returns
    -------
    tuple of ArtifactName and str
        The artifact and the path of the file in it, ``""`` for the artifact itself.

    Raises
    ------
    BadReference
        If `path` is anything else.
    """
    host, slash, rest = path.partition("/")
    end = min((i for i in (rest.find(":"), rest.find("@")) if i >= 0), default=len(rest))
    repository, rest = rest[:end], rest[end:]
    name, _, inner = rest.partition("/")
    tag_part, at, digest = name.partition("@")
    tag = tag_part[1:] if tag_part.startswith(":") else None
    # What stands before a stray @ may be a password: then the path is not repeated.
    place = PROTOCOL if "@" in path.replace("@sha256:", "") else path
    _check_host(host, place)
    if not slash or len(repository) > _MAX_REPOSITORY or not _REPOSITORY.match(repository):
        raise BadReference("not a repository", place=place, hint=_EXPECTED)
    if tag is not None and not is_tag(tag):
        raise BadReference("not a tag", place=place, hint="1 to 128 letters, digits, dots, dashes and underscores")
    if at and not _DIGEST.match(digest):
        raise BadReference("not a digest", place=place, hint="expected @sha256:<64 lower-case hex digits>")
    if inner and not is_plain_path(inner):
        raise BadReference("the path of a file is not plain and relative", place=place)
    return ArtifactName(host.lower(), repository, tag, digest or None), inner


def _check_host(host: str, place: str) -> None:
    match = _HOST.match(host)
    if "@" in host:
        raise BadReference(
            "a user name or password in a path", place=place, hint="pass username= and password= instead"
        )
    if not match or ".." in host or (match["v6"] and not _is_v6(match["v6"])):
        raise BadReference("not a host", place=place, hint=_EXPECTED)
    if match["port"] and not 1 <= int(match["port"]) <= 65535:
        raise BadReference("not a port", place=place, hint="1 to 65535")


def _is_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def is_tag(text: str) -> bool:
    """Whether `text` can be a tag."""
    return bool(_TAG.match(text))


def is_plain_path(path: str) -> bool:
    """Whether `path` can be the path of a file in an artifact (see the rules above)."""
    if not 0 < len(path) <= _MAX_FILE_PATH or not path.isprintable() or "\\" in path or ":" in path:
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


def is_loopback(hostname: str | None) -> bool:
    """Whether a host name, without a port, is this machine itself: ``localhost``, or a loopback *address*."""
    if hostname is None:
        return False
    try:
        return ipaddress.ip_address(hostname.strip("[]")).is_loopback
    except ValueError:
        return hostname.lower() == "localhost"
