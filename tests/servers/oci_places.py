"""OCI registries of all kinds for the conformance suite, and a filesystem that tampers with artifacts in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fsspec.asyn import sync

from pfreg.filesystems.oci import OciFileSystem
from tests.conformance.places import Place, Registry
from tests.servers.oci_registry import PASSWORD, USER, Certificate, DockerRegistry, TokenService, htpasswd_auth

LOGIN = {"username": USER, "password": PASSWORD}


class Tampering(OciFileSystem):
    """Replaces and removes single files, as somebody with the right to push could: a new manifest, the rest kept."""

    def invalidate_cache(self, path: str | None = None) -> None:
        self.refresh()

    def cat_file(self, path: str, **kwargs: Any) -> bytes:
        self.refresh()
        data: bytes = sync(self.loop, self._cat_file, path)
        return data

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        with self._all_but(path):
            sync(self.loop, self._pipe_file, path, value)

    def rm_file(self, path: str) -> None:
        with self._all_but(path):
            pass

    @contextlib.contextmanager
    def _all_but(self, path: str) -> Iterator[None]:
        self.refresh()
        root = path[: path.index("/", path.index(":v1"))]
        others = [other for other in self.find(root) if other != path]
        with self.transaction:
            self.keep(others)
            yield


def _registry(host: str, options: dict[str, Any]) -> Registry:
    def new(name: str) -> Place:
        path = f"{host}/conformance/{name}:v1"
        return Place(f"oci://{path}", options, path, Tampering(**options))

    return Registry(new, overlays=False, any_name=False)


@contextlib.contextmanager
def _running(folder: Path, options: dict[str, Any], **kind: Any) -> Iterator[Registry]:
    server = DockerRegistry(folder, **kind)
    try:
        yield _registry(server.host, options)
    finally:
        server.kill()


def anonymous(folder: Path) -> AbstractContextManager[Registry]:
    return _running(folder, {})


def htpasswd(folder: Path) -> AbstractContextManager[Registry]:
    return _running(folder, LOGIN, auth=htpasswd_auth(folder))


def tls(folder: Path) -> AbstractContextManager[Registry]:
    certificate = Certificate(folder / "tls")
    options = {"plain_http": False, "ca_bundle": str(certificate.cert_path)}
    return _running(folder, options, tls=certificate)


@contextlib.contextmanager
def tokens(folder: Path) -> Iterator[Registry]:
    service = TokenService(Certificate(folder / "tls"))
    try:
        with _running(folder, {**LOGIN, "token_realms": [service.realm]}, auth=service.auth()) as registry:
            yield registry
    finally:
        service.stop()


@contextlib.contextmanager
def shards(folder: Path) -> Iterator[Registry]:
    with _running(folder, {"oci_shard": 7}) as registry:
        yield registry


OCI_REGISTRIES: dict[str, Callable[[Path], AbstractContextManager[Registry]]] = {
    "oci": anonymous,
    "oci-htpasswd": htpasswd,
    "oci-tls": tls,
    "oci-tokens": tokens,
    "oci-shards": shards,
}
