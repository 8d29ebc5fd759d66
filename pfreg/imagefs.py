"""``pfimg://``: the inside of an image as a read-only fsspec filesystem, read where the image lies.

>>> pd.read_csv("pfimg://world/fs/data.csv::s3://bucket/agents/a", storage_options={"s3": {...}})  # doctest: +SKIP

Rules
-----
- Only the manifest, the signature, the tree and the blobs that are opened travel.
- Every byte handed out is verified; a damaged image raises on open and yields nothing. What cannot be read is
  never taken for absent or empty, as fsspec's own ``exists``, ``find`` and ``glob`` do.
- The target may be any reference of pfreg or URL of fsspec: what pfreg's own filesystems read is left to them. Where
  fsspec's table gives a scheme to another library (``oci``), say ``fo="oci://..."`` or ``::ocireg://...``.
- An instance shows one image for as long as it lives; ``invalidate_cache`` looks for a new one.
- ``find``, ``glob``, ``walk`` and ``get`` deal in files and folders: a link to a file inside the tree is that file.
  Links to folders work in paths, and like those that lead nowhere they are shown by ``ls`` only, so that no walk ends
  in a circle. ``blobs/`` is there by name, but not in the listing of the top, or everything would be found twice.
- An instance that is pickled, or written as JSON, takes the trusted keys along, not their paths, and those of the
  environment, too: what is not trusted here is not trusted in another process.
- Options that name a secret reach neither a ``repr``, nor an error, nor ``to_json(include_password=False)``.
- A forked child opens the image, and its connections, anew.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from fsspec.archive import AbstractArchiveFileSystem

from pfreg.digest import Digest
from pfreg.errors import BadOption, ImageNotFound, IsFolder, PathNotFound, ReadOnlyImage
from pfreg.image_file import ImageFile
from pfreg.image_index import Node
from pfreg.image_reader import ImageReader, Judgement, Unjudged
from pfreg.key_signatures import KeyVerifier
from pfreg.keys import PublicKey, TrustedKeys, public_keys, trusted
from pfreg.reference import Location, locate, parse
from pfreg.signing import HmacVerifier, Verifier
from pfreg.store import Store

__all__ = ["PfimgFileSystem"]

_FSSPECS_OWN = frozenset(
    {"skip_instance_cache", "use_listings_cache", "listings_expiry_time", "max_paths", "asynchronous", "loop"}
)
_SPELLED = {"ocireg": "oci"}  # fsspec has given these names away: what is written in a chain, and what is meant


class PfimgFileSystem(AbstractArchiveFileSystem):  # type: ignore[misc]
    """The inside of an image.

    Parameters
    ----------
    fo : str
        The reference of the image's root, or of the file of an image in a store (``<store>/images/<hex>.json``).
    target_protocol : str, optional
        The scheme of `fo`, where `fo` has none; fsspec fills it in for chained URLs.
    target_options : mapping, optional
        Options of the target's filesystem.
    verify : bool
        Whether the signature is judged. Digests are always verified.
    secret : str, optional
        The shared secret of the signature; by default what the environment has.
    verifier : Verifier, optional
        Judges the signature, in place of `secret`.
    trusted_keys : sequence of keys, optional
        Only signatures by these keys count; see :func:`pfreg.pull`. By default the files that ``PFREG_TRUSTED_KEYS``
        names, if it is set. An image in a store, which keeps no signatures, then needs its `expected_digest`.
    require_signature : bool
        Refuse what is only signed with the published default key.
    expected_digest : str or Digest, optional
        The CID that the image must have.
    cache : str or path-like, optional
        A folder of the user's own where large files are kept; by default a temporary one.
    store : str or path-like, optional
        A store that serves as cache: what is read is in it afterwards.
    **storage_options
        Only fsspec's own.

    Raises
    ------
    BadOption
        If an option is unknown, or two contradict each other.
    BadKey
        If a trusted key cannot be used.
    BadReference
        If `fo` is malformed, or holds a password.
    """

    protocol = "pfimg"
    root_marker = ""
    cachable = True

    def __init__(
        self,
        fo: str | os.PathLike[str] = "",
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        *,
        verify: bool = True,
        secret: str | None = None,
        verifier: Verifier | None = None,
        trusted_keys: TrustedKeys | None = None,
        require_signature: bool = False,
        expected_digest: str | Digest | None = None,
        cache: str | os.PathLike[str] | None = None,
        store: str | os.PathLike[str] | None = None,
        **storage_options: Any,
    ) -> None:
        unknown = sorted(set(storage_options) - _FSSPECS_OWN)
        if unknown:
            hint = "options of the target go under its scheme, as in {'s3': {...}}, or into target_options"
            raise BadOption(f"pfimg has no option {unknown[0]!r}", operation="open", hint=hint)
        if not verify and (secret or verifier or trusted_keys is not None or require_signature):
            raise BadOption("verify=False leaves nothing to judge with a key", operation="open")
        if trusted_keys is not None and (secret or verifier):
            raise BadOption("trusted_keys is given, and something else that judges", operation="open")
        if not fo:
            raise BadOption("no image", operation="open", hint="pfimg://<path inside>::s3://bucket/prefix, or fo=")
        super().__init__(**storage_options)
        self.fo = os.fspath(fo)
        self._target_options = dict(target_options or {})
        self._scheme = target_protocol
        parse(self._place())  # now: what is malformed, or holds a password, is not kept to be shown later
        self._verify, self._secret, self._verifier = verify, secret, verifier
        self._keys = None if trusted_keys is None else public_keys(trusted_keys)
        self._require = require_signature
        self._expected = None if expected_digest is None else Digest.parse(expected_digest)
        self._folder = None if cache is None else os.path.abspath(os.path.expanduser(cache))
        self._store = store
        self._opened: ImageReader | None = None
        self._owner = os.getpid()
        self._opening = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        stripped: str = super()._strip_protocol(os.fspath(path))
        return stripped.strip("/")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place()!r})"

    __str__ = __repr__

    # -- the image -----------------------------------------------------------------------------------------------

    @property
    def image(self) -> ImageReader:
        """The image, opened when this is first asked for.

        Raises
        ------
        ImageNotFound, SignatureError, IntegrityError, AccessDenied, TransferError
            If it cannot be opened.
        """
        if os.getpid() != self._owner:  # a lock that another thread held at the fork is never released
            self._owner, self._opening, self._opened = os.getpid(), threading.Lock(), None
        with self._opening:
            if self._opened is None:
                self._opened = self._open_image()
            return self._opened

    def _open_image(self) -> ImageReader:
        location = locate(self._place(), storage_options=self._target_options)
        store = None if self._store is None else Store(self._store)
        return ImageReader(location, self._judgement(location), folder=self._folder, store=store)

    def _judgement(self, location: Location) -> Judgement:
        verifier: Verifier
        keys = self._trusted()
        if not self._verify:
            verifier = Unjudged()
        elif self._verifier is not None:
            verifier = self._verifier
        elif self._secret is not None:
            verifier = HmacVerifier(self._secret)
        elif keys is not None:
            verifier = KeyVerifier(keys)
        else:
            verifier = HmacVerifier.for_scheme(_innermost(location.reference.scheme, self._target_options))
        return Judgement(verifier, self._require, self._expected)

    def _trusted(self) -> tuple[PublicKey, ...] | None:
        """Return the keys that count, None where something else judges."""
        if not self._verify or self._verifier is not None or self._secret is not None:
            return None
        return trusted(self._keys)

    def _place(self) -> str:
        if not self._scheme or "://" in self.fo:  # universal_pathlib says "" where there is none
            return self.fo
        return f"{_SPELLED.get(self._scheme, self._scheme)}://{self.fo}"

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget the image, so that the next access sees what is there now."""
        self._opened = None
        super().invalidate_cache(path)

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return what this instance is made of, without anything that could be a secret if so asked."""
        value: dict[str, Any] = super().to_dict(include_password=include_password)
        return value if include_password else _without_secrets(value)

    @property
    def storage_options(self) -> dict[str, Any]:
        """What this instance was made with, the trusted keys themselves in place of what named them."""
        keys = self._trusted()
        return self._options if keys is None else {**self._options, "trusted_keys": [key.pem for key in keys]}

    @storage_options.setter
    def storage_options(self, options: dict[str, Any]) -> None:  # fsspec does so, once the instance is made
        self._options = options

    # -- looking -------------------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return name, size, type, and where the image has them digest, mode, and where a link points."""
        path = self._strip_protocol(path)
        node = self.image.node(path)
        return self._described(node, path, self.image.size(node))

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Tell whether there is anything at `path`. Only what is absent is not there: any other trouble is raised."""
        return self._kind(path) is not None

    def isfile(self, path: str) -> bool:
        """Tell whether there is a file at `path`, or a link to one."""
        return self._kind(path) == "file"

    def isdir(self, path: str) -> bool:
        """Tell whether there is a folder at `path`, or a link to one."""
        return self._kind(path) == "directory"

    def _kind(self, path: str) -> str | None:
        try:
            return self.image.node(self._strip_protocol(path)).kind
        except (PathNotFound, ImageNotFound):
            return None

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List a folder. The size of a layer is None here until it has been read; ``info`` reads it."""
        path = self._strip_protocol(path)
        node = self.image.node(path)
        if node.kind != "directory":
            found = [self.info(path)]
        else:
            prefix = f"{path}/" if path else ""
            found = [self._listed(child, prefix) for child in self.image.children(path)]
        return found if detail else [entry["name"] for entry in found]

    def _listed(self, child: Node, prefix: str) -> dict[str, Any]:
        name = prefix + child.path.rpartition("/")[2]
        end = self.image.node(child.path) if child.kind == "link" else child
        if end.kind == "directory" and child.kind == "link":
            end = child
        return self._described(end, name, end.size, at=child.path)

    def _described(self, node: Node, name: str, size: int | None, at: str | None = None) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": name, "size": size, "type": node.kind}
        if node.digest is not None:
            entry["digest"] = str(node.digest)
        if node.mode is not None:
            entry["mode"] = node.mode
        link = self.image.link(name if at is None else at)
        if link is not None:
            entry["islink"], entry["destination"] = True, link.target
        return entry

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = "omit", **kwargs: Any
    ) -> Iterator[tuple[str, Any, Any]]:
        """Walk a folder. What is absent is left out; whatever else cannot be listed is raised, by ``find`` too."""
        if on_error == "omit":
            on_error = _raise_all_but_absence
        walked: Iterator[tuple[str, Any, Any]] = super().walk(path, maxdepth, topdown, on_error, **kwargs)
        return walked

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """List all files below `path`."""
        found: dict[str, dict[str, Any]] = super().find(path, maxdepth, withdirs, detail=True, **kwargs)
        found = {name: entry or self.info(name) for name, entry in found.items()}
        found = {name: entry for name, entry in found.items() if entry["type"] != "link"}
        return found if detail else list(found)

    def checksum(self, path: str) -> str:
        """Return the digest of a file.

        Raises
        ------
        IsFolder
            If it is none.
        """
        node = self.image.node(self._strip_protocol(path))
        if node.digest is None:
            raise IsFolder("only a file has a digest", operation="checksum", place=path)
        return str(node.digest)

    ukey = checksum

    def created(self, path: str) -> datetime.datetime:
        """Return when the image was made."""
        self.image.node(self._strip_protocol(path))
        seconds = datetime.datetime.strptime(self.image.manifest.created_at[:19], "%Y-%m-%dT%H:%M:%S")
        return seconds.replace(tzinfo=datetime.timezone.utc)

    modified = created

    # -- reading -------------------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ImageFile:
        if mode not in ("rb", "r"):
            self._refuse(path)
        node, stream = self.image.open(path)
        return ImageFile(self, path, node.digest, stream)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes of a file, or some of them; negative positions count from the end."""
        with self.open(path, "rb") as stream:
            first, last, _ = slice(start, end).indices(stream.size)
            stream.seek(first)
            return bytes(stream.read(max(0, last - first)))

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """Return the bytes of many files, read together."""
        names = self.expand_path(path, recursive=recursive)
        if len(names) > 1 and on_error == "raise":
            self.image.prefetch([self.image.node(name) for name in names])
        return super().cat(path, recursive=recursive, on_error=on_error, **kwargs)

    # -- refusing ------------------------------------------------------------------------------------------------

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ReadOnlyImage(
            "an image is immutable", operation="write", place=self._place(), hint="clone it, and snapshot what you made"
        )

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = mv = pipe_file = put_file = touch = _refuse


def _raise_all_but_absence(error: OSError) -> None:
    if not isinstance(error, PathNotFound):
        raise error


def _innermost(scheme: str, options: Mapping[str, Any]) -> str:
    """Return the scheme where the bytes finally lie, which decides about the key."""
    while isinstance(options.get("target_protocol"), str):
        scheme, options = options["target_protocol"], options.get("target_options") or {}
    return scheme


_HARMLESS = frozenset({"cls", "protocol", "fo", "target_protocol", "trusted_keys", "expected_digest", "cache", "store"})


def _without_secrets(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_harmless(value))


def _harmless(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield key, _without_secrets(item)
        elif key == "args":  # fo, target_protocol and target_options, where they were given without their names
            yield key, [_without_secrets(part) if isinstance(part, Mapping) else part for part in item]
        elif key in _HARMLESS or item is None or isinstance(item, bool | int | float):
            yield key, item
