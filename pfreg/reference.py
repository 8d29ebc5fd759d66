"""References: what a user types, and which filesystem and path it means.

Rules
-----
- A malformed reference is a :class:`~pfreg.BadReference` that says what was expected, before any network is touched.
- No reference holds a password: userinfo belongs into ``storage_options``. No reference holds control characters.
- The scheme chooses a :class:`Resolver`. ``file``, and everything that fsspec knows, is resolved here; the three
  registries with filesystems of their own register theirs with :func:`register_resolver`, and nothing else changes.
- ``storage_options`` reach the filesystem untouched; the caller's dictionaries are never modified.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import fsspec
from fsspec import AbstractFileSystem

from pfreg.errors import BadOption, BadReference, MissingDependency, UnsupportedRegistry
from pfreg.files import Files, presentable, redacted, translated
from pfreg.local_files import LocalFiles
from pfreg.remote_files import AsyncFiles, SyncFiles

__all__ = ["Location", "Reference", "Resolver", "locate", "parse", "register_resolver"]

Options = Mapping[str, Any]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")

# In these an @ before the first slash is the scheme's own syntax (a container, a revision), not a user.
_AT_IS_SYNTAX = frozenset({"abfs", "abfss", "adl", "az", "wasb", "wasbs", "github", "git"})

_HF_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HF_SHORT = re.compile(rf"(?P<user>{_HF_NAME})/(?P<repo>{_HF_NAME})(?::(?P<rev>[^\s:~^?*\[\\@]+))?\Z")
_HF_NATIVE = re.compile(
    rf"datasets/{_HF_NAME}/{_HF_NAME}(?:@[^\s:~^?*\[\\@]+)?\Z|buckets/{_HF_NAME}/{_HF_NAME}(?:/[^\s]*)?\Z"
)

_HF_TYPES = ("datasets", "models", "spaces", "buckets")

# What is secret within Azure's connection strings and the queries of signed URLs.
_INNER_SECRET = re.compile(r"(?i)\b(?:AccountKey|sig)=([^;&\s]+)")

_IPV6 = re.compile(r"\[[0-9A-Fa-f:.]+\]")
_OCI_HOST = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,9}))?\Z"
)
_OCI_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_OCI_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_OCI_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

_EXTRAS = {"s3": "s3", "s3a": "s3", "hf": "hf", "ipfs": "ipfs", "ipns": "ipfs", "oci": "oci"}
_EXTRAS |= {"gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs", "az": "abfs"}
"""Which extra of pfreg's brings a scheme's packages."""

_CID = re.compile(r"Qm[1-9A-HJ-NP-Za-km-z]{44}\Z|b[a-z2-7]{50,120}\Z|z[1-9A-HJ-NP-Za-km-z]{40,120}\Z")
_IPNS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference.

    Parameters
    ----------
    text : str
        What was typed; it may be shown.
    scheme : str
        Lower case: ``file``, ``s3``, ``hf``, ... Of a chain, its last link's, where the bytes finally lie.
    target : str
        What the scheme's filesystem is asked for.
    """

    text: str
    scheme: str
    target: str

    @property
    def address(self) -> str:
        """The reference in one spelling, whichever was typed: what a signature by a key says where an image lies."""
        if self.scheme == "file" and os.path.isabs(self.target):
            return Path(self.target).as_uri()
        whole = self.target if "://" in self.target else f"{self.scheme}://{self.target}"
        return whole if whole.endswith("://") else whole.rstrip("/")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Location:
    """Where an image lies.

    Parameters
    ----------
    reference : Reference
        What named it.
    fs : AbstractFileSystem
        The filesystem.
    path : str
        The root, as the filesystem spells it, without a trailing slash.
    files : Files
        The filesystem, as the engine uses it.
    secrets : tuple of str
        What must not appear in errors.
    options : mapping
        The ``storage_options`` that it was opened with, to open it again in another process.
    """

    reference: Reference
    fs: AbstractFileSystem
    path: str
    files: Files = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False, default=())
    options: Options = field(default_factory=dict, repr=False, compare=False)


class Resolver(Protocol):
    """Knows the references of one scheme."""

    def parse(self, text: str) -> Reference:
        """Return the parsed reference; raise BadReference for a malformed one. No I/O."""
        ...

    def open(self, reference: Reference, options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
        """Return a filesystem and the path on it."""
        ...


def parse(text: str | os.PathLike[str]) -> Reference:
    """Parse a reference.

    Parameters
    ----------
    text : str or path-like
        A local path or a URL.

    Raises
    ------
    BadReference
        If it is malformed.
    """
    if isinstance(text, os.PathLike):
        text = os.fspath(text)
    if not isinstance(text, str):
        raise BadReference(f"a reference is text, not {type(text).__name__}", hint="such as s3://bucket/prefix")
    if not text.strip():
        raise BadReference("an empty reference", hint="such as ./folder or s3://bucket/prefix")
    chained = _is_chain(text)
    for link in text.split("::") if chained else [text]:
        _refuse_userinfo(link, text)  # first: what follows may show the text
    if _CONTROL.search(text):
        raise BadReference(f"control characters in the reference {text[:200]!r}")
    return (_UrlResolver() if chained else _resolver(text)).parse(text)


def locate(text: str | os.PathLike[str], *, storage_options: Options | None = None) -> Location:
    """Parse a reference and make its filesystem.

    Parameters
    ----------
    text : str or path-like
        A local path or a URL.
    storage_options : mapping, optional
        Passed to the filesystem, as pandas and dask do.

    Raises
    ------
    BadReference
        If the reference is malformed or its scheme unknown.
    MissingDependency
        If the filesystem's package is not installed.
    BadOption
        If the filesystem does not take the options.
    """
    reference = parse(text)
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise BadOption(f"storage_options is a mapping, not {type(storage_options).__name__}", place=reference.text)
    options = _copy(storage_options or {})
    resolver = _UrlResolver() if _is_chain(reference.text) else _RESOLVERS.get(reference.scheme, _UrlResolver())
    secrets = tuple(sorted(_strings(options), key=len, reverse=True))
    with translated("open", reference.text, secrets=secrets):
        try:
            fs, path = resolver.open(reference, options)
        except MissingDependency:
            raise
        except ImportError as e:
            raise _no_package(reference, e, secrets) from presentable(e, secrets)
        except TypeError as e:
            names = ", ".join(sorted(map(str, options))) or "none"
            raise BadOption(
                f"the filesystem does not take these storage_options: {names}", operation="open", place=reference.text
            ) from presentable(e, secrets)
    return Location(reference, fs, path, _files(fs, secrets), secrets, _copy(storage_options or {}))


def _no_package(reference: Reference, e: ImportError, secrets: Sequence[str]) -> MissingDependency:
    extra = e.name if e.name == "obstore" else _EXTRAS.get(reference.scheme)
    hint = f"pip install 'pfreg[{extra}]'" if extra else f"install the fsspec filesystem for {reference.scheme}://"
    problem = f"needs a package: {e.name or redacted(str(e), secrets)}"
    return MissingDependency(problem, operation="open", place=reference.text, hint=hint)


def register_resolver(scheme: str, resolver: Resolver) -> None:
    """Let `resolver` handle the references of `scheme`, in place of whoever did before."""
    _RESOLVERS[scheme] = resolver


def _is_chain(text: str) -> bool:
    return "::" in _IPV6.sub("", text)


def _resolver(text: str) -> Resolver:
    match = _SCHEME.match(text)
    if match is None:
        return _RESOLVERS["file"]
    return _RESOLVERS.get(match[1].lower(), _UrlResolver())


def _refuse_userinfo(link: str, text: str) -> None:
    match = _SCHEME.match(link)
    if match is None or match[1].lower() in _AT_IS_SYNTAX:
        return
    authority = link[match.end() :].split("/", 1)[0]
    oracles = match[1].lower() == "oci" and "/" not in link[match.end() :] and ":" not in authority
    if "@" in authority and not oracles:
        shown = f"{match[0]}***@{authority.rsplit('@', 1)[1]}"
        hint = "Oracle's oci://bucket@namespace is read through its own package" if match[1].lower() == "oci" else ""
        raise BadReference(f"a user or password in {shown!r}", hint=hint or "put credentials into storage_options")


def _files(fs: AbstractFileSystem, secrets: Sequence[str]) -> Files:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    if "file" in protocols:
        return LocalFiles()
    return AsyncFiles(fs, secrets=secrets) if fs.async_impl else SyncFiles(fs, secrets=secrets)


def _strings(value: Any) -> set[str]:
    """Return every string in the options that may be a secret: short ones are flags and region names."""
    if isinstance(value, Mapping):
        return {text for item in value.values() for text in _strings(item)}
    if isinstance(value, list | tuple):
        return {text for item in value for text in _strings(item)}
    if not isinstance(value, str):
        return set()
    inner = _INNER_SECRET.findall(value)
    return {text for text in (value, *inner, *map(unquote, inner)) if len(text) >= 8 and "://" not in text}


def _copy(options: Options) -> dict[str, Any]:
    """Copy the dictionaries, for fsspec takes nested ones apart; whatever else is in them may not be copyable."""
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in options.items()}


class _FileResolver:
    """``file:///abs``, ``/abs``, ``./rel``, ``~/rel``."""

    def parse(self, text: str) -> Reference:
        match = _SCHEME.match(text)
        path = text[match.end() :] if match else text
        if match and not (path.startswith("/") or (os.name == "nt" and re.match(r"[A-Za-z]:", path))):
            raise BadReference(f"{text!r} is relative, or names a host", hint="expected file:///absolute/path")
        path = os.path.abspath(path if match else os.path.expanduser(path))
        return Reference(text, "file", path)

    def open(self, reference: Reference, options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
        options.setdefault("auto_mkdir", True)
        return fsspec.filesystem("file", **options), Path(reference.target).as_posix()


class _UrlResolver:
    """Everything that fsspec knows, and chains of it."""

    def parse(self, text: str) -> Reference:
        first, last = text.split("::")[0], text.split("::")[-1]
        scheme = (_SCHEME.match(last) or _SCHEME.match(first) or ("", "file"))[1].lower()
        if not _is_chain(text):
            rest = text[len(scheme) + 3 :]
            if not rest.strip("/") and scheme != "memory":
                raise BadReference(f"{text!r} names no place", hint=f"expected {scheme}://bucket/prefix or the like")
        elif "" in text.split("::"):
            raise BadReference(f"{text!r} has an empty link in its chain")
        elif (outer := _SCHEME.match(first)) and outer[1].lower() in ("hf", "oci", "ipfs", "ipns"):
            raise BadReference(f"{outer[0]} cannot lie inside another filesystem, as it does in {text!r}")
        return Reference(text, scheme, text)

    def open(self, reference: Reference, options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
        secrets = tuple(_strings(options))
        try:
            fs, path = fsspec.url_to_fs(reference.target, skip_instance_cache=True, **options)
        except ValueError as e:
            raise BadReference(
                f"fsspec has no filesystem for {reference.text!r}",
                hint=f"known schemes: {', '.join(_common_schemes())}",
            ) from presentable(e, secrets)
        cache = getattr(fs, "dircache", None)
        if cache is not None and hasattr(cache, "use_listings_cache"):
            cache.use_listings_cache = False  # what was listed a moment ago is not what is there
        if "dir" in fs.protocol and hasattr(fs, "fs"):  # DirFileSystem hides what it wraps, and drops its powers
            path, fs = fs._join(path), fs.fs
        return fs, path.rstrip("/") if path.strip("/") else path


class _OwnFilesystem:
    """A registry whose filesystem is in ``pfreg/filesystems``."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def open(self, reference: Reference, options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
        if importlib.util.find_spec(self._module) is None:
            raise UnsupportedRegistry(f"this version has no filesystem for {reference.scheme}://", place=reference.text)
        filesystem = getattr(importlib.import_module(self._module), self._name)
        return filesystem(skip_instance_cache=True, **options), reference.target


class _S3Resolver(_UrlResolver):
    """``s3://bucket/prefix``, through one of two libraries."""

    def parse(self, text: str) -> Reference:
        found = super().parse(text)
        if text.partition("://")[2].startswith("/"):
            raise BadReference(f"{text!r} names no bucket", hint=f"expected {found.scheme}://bucket/prefix")
        return found

    def open(self, reference: Reference, options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
        open_s3 = importlib.import_module("pfreg.filesystems.s3").open_s3
        under = options.pop(reference.scheme, None) or {}  # as in a chain: {"s3": {...}}
        if not isinstance(under, Mapping):
            raise BadOption(f"the options of {reference.scheme} are a mapping", place=reference.text)
        return open_s3({**under, **options}), _SCHEME.sub("", reference.target, count=1).rstrip("/")


class _HfResolver(_OwnFilesystem):
    """``hf://user/repo[:rev]``, which means a dataset, and huggingface_hub's own spelling."""

    _buckets = _OwnFilesystem("pfreg.filesystems.hf_bucket", "HfBucketFileSystem")

    def open(self, reference: Reference, options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
        if reference.target.startswith("buckets/"):
            return self._buckets.open(reference, options)
        options.setdefault("card", True)
        return super().open(reference, options)

    def parse(self, text: str) -> Reference:
        rest = text[len("hf://") :].rstrip("/")
        match = _HF_SHORT.match(rest)
        if (
            match
            and match["user"] not in ("datasets", "models", "spaces", "buckets")
            and ".." not in rest
            and "--" not in rest
        ):
            return Reference(text, "hf", f"datasets/{match['user']}/{match['repo']}@{match['rev'] or 'main'}")
        if _HF_NATIVE.match(rest) and ".." not in rest:
            return Reference(text, "hf", rest if "@" in rest or rest.startswith("buckets/") else f"{rest}@main")
        raise BadReference(f"{text!r} names no dataset", hint="expected hf://user/repo[:revision]")


class _OciResolver(_OwnFilesystem):
    """``oci://host[:port]/repo[:tag][@digest]``."""

    def parse(self, text: str) -> Reference:
        host, slash, rest = text[len("oci://") :].partition("/")
        if "@" in host:
            raise BadReference(f"{text!r} is a bucket of Oracle's", hint="read it through the package ocifs")
        rest, at, digest = rest.partition("@")
        repository, colon, tag = rest.partition(":")
        match = _OCI_HOST.match(host)
        problem = (
            "no host" if match is None
            else "a port beyond 65535" if match["port"] and not 0 < int(match["port"]) < 65536
            else "no repository" if not slash or not repository
            else "a repository that is not lower case, or malformed" if not _OCI_REPOSITORY.match(repository)
            else "a repository of more than 255 characters" if len(repository) > 255
            else "a malformed tag" if colon and not _OCI_TAG.match(tag)
            else "a malformed digest" if at and not _OCI_DIGEST.match(digest)
            else ""
        )  # fmt: skip
        if problem:
            raise BadReference(
                f"{text!r} has {problem}", hint="expected oci://host[:port]/repository[:tag][@sha256:...]"
            )
        name = f"{host}/{repository}" + (f":{tag}" if tag else "" if digest else ":latest")
        return Reference(text, "oci", name + (f"@{digest}" if digest else ""))


class _IpfsResolver(_OwnFilesystem):
    """``ipfs://CID[/path]``, ``ipns://name``, and ``ipfs://`` as the target of a push."""

    def parse(self, text: str) -> Reference:
        scheme, _, rest = text.partition("://")
        scheme, rest = scheme.lower(), rest.rstrip("/")
        name, _, inner = rest.partition("/")
        if any(part in ("", ".", "..") for part in inner.split("/")) and inner:
            raise BadReference(f"{text!r} has a path with an empty component, '.' or '..'")
        if scheme == "ipfs" and (not rest or _CID.match(name)):
            return Reference(text, scheme, rest)
        if scheme == "ipns" and _IPNS.match(name):
            return Reference(text, scheme, rest)
        raise BadReference(f"{text!r} names no CID", hint="expected ipfs://CID, ipns://name, or ipfs:// to push to")


def _common_schemes() -> list[str]:
    return ["file", "s3", "gs", "abfs", "sftp", "memory", *(s for s in _RESOLVERS if s not in ("file", "local"))]


_RESOLVERS: dict[str, Resolver] = {
    "file": _FileResolver(),
    "local": _FileResolver(),
    "s3": _S3Resolver(),
    "s3a": _S3Resolver(),
    "hf": _HfResolver("pfreg.filesystems.hf", "HfCommitFileSystem"),
    "oci": _OciResolver("pfreg.filesystems.oci", "OciFileSystem"),
    "ipfs": _IpfsResolver("pfreg.filesystems.ipfs", "IPFSFileSystem"),
    "ipns": _IpfsResolver("pfreg.filesystems.ipns", "IPNSFileSystem"),
}
