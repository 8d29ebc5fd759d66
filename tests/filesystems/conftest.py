from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfreg.filesystems.oci import OciFileSystem
from tests.servers.fault_proxy import FaultProxy, Rule
from tests.servers.oci_registry import Certificate, DockerRegistry, TokenService, htpasswd_auth

Faulty = Callable[[str, Rule], FaultProxy]


@pytest.fixture(autouse=True)
def no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OCI_BEARER", "OCI_USERNAME", "OCI_PASSWORD", "OCI_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))


@pytest.fixture(scope="session")
def oci_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("oci-tls"))


@pytest.fixture(scope="session")
def oci_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    registry = DockerRegistry(tmp_path_factory.mktemp("oci-anonymous"))
    yield registry
    registry.kill()


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A registry that a test may kill or spoil."""
    registry = DockerRegistry(tmp_path / "registry")
    yield registry
    registry.kill()
    shutil.rmtree(registry.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def htpasswd_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    folder = tmp_path_factory.mktemp("oci-htpasswd")
    registry = DockerRegistry(folder, auth=htpasswd_auth(folder))
    yield registry
    registry.kill()


@pytest.fixture(scope="session")
def tls_registry(tmp_path_factory: pytest.TempPathFactory, oci_certificate: Certificate) -> Iterator[DockerRegistry]:
    registry = DockerRegistry(tmp_path_factory.mktemp("oci-tls-registry"), tls=oci_certificate)
    yield registry
    registry.kill()


@pytest.fixture
def token_service(oci_certificate: Certificate) -> Iterator[TokenService]:
    service = TokenService(oci_certificate)
    yield service
    service.stop()


@pytest.fixture
def token_registry(tmp_path: Path, token_service: TokenService) -> Iterator[DockerRegistry]:
    registry = DockerRegistry(tmp_path / "token-registry", auth=token_service.auth())
    yield registry
    registry.kill()


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    """Start proxies that follow a rule, before a registry (``host:port``) or before none (``""``)."""
    proxies: list[FaultProxy] = []

    def start(host: str, rule: Rule = lambda seen: None) -> FaultProxy:
        proxies.append(FaultProxy(f"http://{host}" if host else "http://127.0.0.1:1", rule))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository name that no other test uses."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")
    while "--" in name:
        name = name.replace("--", "-")
    return f"tests/{name[:120].strip('-')}"


def write(fs: OciFileSystem, root: str, files: dict[str, bytes]) -> str:
    """Write an artifact in one transaction and return its digest."""
    with fs.transaction:
        for path, data in files.items():
            fs.pipe_file(f"{root}/{path}", data)
    assert fs.committed is not None
    return fs.committed
