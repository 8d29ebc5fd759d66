"""A writable double of the Hugging Face Hub: real git repositories, LFS, Xet, tokens, pagination, faults.

It speaks what the Hub speaks to ``huggingface_hub``, ``hf_xet`` and ``@huggingface/hub``; what they do not ask is not
there. It was written from those clients and from the Hub's public documentation, not by watching huggingface.co.

>>> with Hub(folder) as hub:
...     hub.add_user("alice")
...     HfApi(endpoint=hub.url, token=hub.token("alice")).create_repo("alice/data", repo_type="dataset")
"""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import dataclass
from pathlib import Path

from .contents import Contents
from .faults import Fault, Faults
from .git import Entry, Repository
from .web import Call, Refused, Request, Routes, Server

__all__ = ["Hub", "HubRepository", "Settings"]

_OUTSIDE_GIT = """7z arrow bin bz2 ckpt ftz gz h5 joblib lfs lz4 mlmodel model msgpack npy npz onnx ot parquet pb pickle
pkl pt pth rar safetensors tar tflite tgz wasm xz zip zst"""
ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _OUTSIDE_GIT.split())
"""The .gitattributes that a new repository begins with."""


@dataclass(slots=True)
class Settings:
    """What differs between Hubs, and between tests.

    Parameters
    ----------
    xet : bool
        Offer Xet; LFS is there always.
    page : int
        Entries in one answer of a listing.
    part : int
        Size of the parts of an LFS object, 0 to take every object in one.
    largest_inline : int
        Bytes of a file up to which git itself takes it.
    """

    xet: bool = True
    page: int = 1000
    part: int = 0
    largest_inline: int = 10 << 20


@dataclass(slots=True)
class HubRepository:
    """One repository, and who may do what with it."""

    kind: str
    name: str
    git: Repository
    private: bool = False
    gated: bool = False

    @property
    def owner(self) -> str:
        return self.name.partition("/")[0]

    def is_outside_git(self, commit: str, path: str, size: int, largest_inline: int) -> bool:
        """Whether the Hub keeps a file beside git, by its size or by the repository's .gitattributes."""
        attributes = self.git.entries(commit).get(".gitattributes")
        lines = self.git.small_blob(attributes.oid).decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        name = path.rpartition("/")[2]
        return size > largest_inline or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


class Hub:
    """The double. Use it as a context manager, or :meth:`start` and :meth:`stop` it.

    Parameters
    ----------
    folder : Path
        Where repositories and contents are kept.
    settings : Settings, optional
        How it behaves.
    port : int
        0 for any free one.
    """

    def __init__(self, folder: Path, settings: Settings | None = None, port: int = 0) -> None:
        from . import api, buckets, files

        self.folder = folder
        self.settings = settings or Settings()
        self.contents = Contents(folder / "contents")
        self.faults = Faults()
        self.repositories: dict[tuple[str, str], HubRepository] = {}
        self.buckets: dict[str, buckets.Bucket] = {}
        self._tokens: dict[str, str] = {}
        self.lock = threading.RLock()
        routes = Routes()
        for module in (api, files, buckets):
            module.add_routes(self, routes)
        self.server = Server(routes, self.faults, port)

    def __enter__(self) -> Hub:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to serve, in a thread."""
        self.server.start()

    def stop(self) -> None:
        """Stop serving."""
        self.server.stop()

    # -- for tests ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The endpoint."""
        return self.server.url

    @property
    def calls(self) -> list[Call]:
        """Every request so far, whatever its answer."""
        return self.server.calls

    @property
    def api_calls(self) -> list[Call]:
        """The requests that count against the quota of the Hub's API: no transfers of content."""
        return [call for call in self.calls if call.path.startswith("/api/") or call.path.endswith("/objects/batch")]

    def add_user(self, name: str) -> str:
        """Make a user, and return a token of theirs."""
        self._tokens[f"hf_{name}"] = name
        return f"hf_{name}"

    def revoke(self, token: str) -> None:
        """Make a token worthless."""
        self._tokens.pop(token, None)

    def fail(self, path: str, **rule: object) -> None:
        """Inject a fault; the arguments are those of :class:`Fault`."""
        self.faults.add(Fault(path, **rule))  # type: ignore[arg-type]

    def forget(self) -> None:
        """Empty the log and take all faults out of force."""
        self.calls.clear()
        self.faults.clear()

    def repository(self, name: str, kind: str = "dataset") -> HubRepository:
        """Return a repository, to look at its git.

        Raises
        ------
        KeyError
            If there is none.
        """
        return self.repositories[kind, name]

    def create(self, name: str, kind: str = "dataset", *, private: bool = False, gated: bool = False) -> HubRepository:
        """Make a repository with the first commit that the Hub gives it."""
        git = Repository.create(self.folder / "repositories" / f"{kind}s" / f"{name}.git")
        owner = name.partition("/")[0]
        git.commit("main", "initial commit", owner, [(".gitattributes", ATTRIBUTES.encode())])
        made = HubRepository(kind, name, git, private, gated)
        self.repositories[kind, name] = made
        return made

    # -- for routes --------------------------------------------------------------------------------------------------

    def user(self, request: Request, *, needed: bool = False) -> str | None:
        """Return whose token a request carries.

        Raises
        ------
        Refused
            401 if the token is not known, or `needed` and absent.
        """
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self._tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        if needed and not token:
            raise Refused(401, "Invalid username or password.")
        return self._tokens.get(token)

    def readable(self, request: Request, kind: str, name: str) -> HubRepository:
        """Return a repository that the request may see.

        Raises
        ------
        Refused
            404 where there is none for this user, 401 for nobody in particular: the Hub does not tell strangers which.
        """
        user = self.user(request)
        found = self.repositories.get((kind, name))
        if found is None or (found.private and found.owner != user):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        return found

    def writable(self, request: Request, kind: str, name: str) -> HubRepository:
        """Return a repository that the request may change.

        Raises
        ------
        Refused
            401, 403 or 404.
        """
        user = self.user(request, needed=True)
        found = self.readable(request, kind, name)
        if found.owner != user:
            raise Refused(403, "Forbidden: you do not have write access to this repository")
        return found

    def commit_of(self, repository: HubRepository, revision: str) -> str:
        """Return the commit that a revision names.

        Raises
        ------
        Refused
            404 if there is none.
        """
        commit = repository.git.resolve(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def describe(self, entry: Entry) -> dict[str, object]:
        """Return what listings say about a file or folder."""
        if not entry.is_file:
            return {"type": "directory", "oid": entry.oid, "size": 0, "path": entry.path}
        described: dict[str, object] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
        if entry.pointer:
            lfs = {"oid": entry.pointer.sha256, "size": entry.pointer.size, "pointerSize": entry.size}
            described |= {"size": entry.pointer.size, "lfs": lfs}
            if xet_hash := self.contents.xet_hash(entry.pointer.sha256):
                described["xetHash"] = xet_hash
        return described
