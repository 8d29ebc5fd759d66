"""A real S3 server, a proxy before it, and both libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pfreg
from tests.servers.fault_proxy import FaultProxy, Rule, Seen
from tests.servers.seaweedfs import S3Server, seaweedfs

LIBRARIES = ("s3fs", "obstore")
PATIENT: dict[str, Any] = {"config_kwargs": {"retries": {"max_attempts": 5}}}
HASTY: dict[str, Any] = {"config_kwargs": {"retries": {"max_attempts": 1}, "read_timeout": 5, "connect_timeout": 5}}


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no credentials, settings or choice of library of whoever runs the tests take part."""
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
        "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "PFREG_S3",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@dataclass
class Through:
    """The server, seen through a proxy.

    Parameters
    ----------
    server : S3Server
        The server.
    proxy : FaultProxy
        The proxy before it.
    library : str
        The library that is to be used.
    """

    server: S3Server
    proxy: FaultProxy
    library: str

    def options(self, who: str = "admin", **more: Any) -> dict[str, Any]:
        """Return ``storage_options`` that lead through the proxy."""
        return self.server.options(who, library=self.library) | {"endpoint_url": f"http://{self.proxy.host}"} | more

    def count(self, call: Callable[[], Any]) -> tuple[Any, list[Seen]]:
        """Return what a call returns, and the requests that it makes."""
        self.proxy.seen.clear()
        result = call()
        return result, list(self.proxy.seen)


@pytest.fixture
def through(s3_server: S3Server, library: str) -> Iterator[Through]:
    """The server behind a proxy that passes everything on until it gets another rule."""
    proxy = FaultProxy(s3_server.url)
    yield Through(s3_server, proxy, library)
    proxy.stop()


@pytest.fixture
def direct(s3_server: S3Server, library: str) -> Callable[..., dict[str, Any]]:
    """Return the options of one of the server's identities, for the library under test."""
    return lambda who="admin", **more: s3_server.options(who, library=library, **more)


@pytest.fixture
def root(s3_server: S3Server) -> str:
    return f"s3://{s3_server.new()}"


@pytest.fixture
def newer(tree: Path, store: pfreg.Store, image: pfreg.Snapshotted) -> pfreg.Snapshotted:
    """Another image, which shares most of its blobs with the first."""
    (tree / "README.md").write_text("changed\n")
    (tree / "added.bin").write_bytes(b"0123456789abcdef" * 200_000)
    return pfreg.snapshot(tree, store=store, agent_kind="test", parents=[image])


def first_times(times: int, fault: Any, *, method: str, containing: str = "") -> Rule:
    """Return a rule that meets each path's first requests of a kind with a fault."""
    met: dict[str, int] = {}

    def rule(seen: Seen) -> Any:
        if seen.method != method or containing not in seen.path:
            return None
        path = seen.path.partition("?")[0]
        met[path] = met.get(path, 0) + 1
        return fault if met[path] <= times else None

    return rule
