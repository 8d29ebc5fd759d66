"""Credentials: found where they are, sent where they belong, and nowhere else."""

from __future__ import annotations

import base64
import json
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pfreg.errors import AccessDenied, BadOption, TransferError
from pfreg.filesystems.oci import OciFileSystem
from pfreg.filesystems.oci_auth import (
    BearerToken,
    Challenge,
    IdentityToken,
    Login,
    may_speak,
    origin,
    read_challenge,
    read_token,
    token_request,
)
from pfreg.filesystems.oci_credentials import find_credentials
from tests.filesystems.conftest import Faulty, write
from tests.servers.fault_proxy import Answer, Seen
from tests.servers.oci_registry import PASSWORD, USER, Certificate, DockerRegistry, TokenService

FILES = {"manifest.json": b"{}", "a": b"1"}
LOGIN = {"username": USER, "password": PASSWORD}
SECRET = "hunter2-the-secret"


# -- real registries


def test_basic_authentication(htpasswd_registry: DockerRegistry, repository: str) -> None:
    root = f"{htpasswd_registry.host}/{repository}:v1"
    write(OciFileSystem(**LOGIN), root, FILES)
    assert OciFileSystem(**LOGIN).cat_file(f"{root}/a") == b"1"
    with pytest.raises(AccessDenied):
        OciFileSystem().find(root)
    with pytest.raises(AccessDenied) as caught:
        OciFileSystem(username=USER, password=SECRET).exists(root)
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, PermissionError)


def test_credentials_from_the_environment(
    htpasswd_registry: DockerRegistry, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_USERNAME", USER)
    monkeypatch.setenv("OCI_PASSWORD", PASSWORD)
    assert write(OciFileSystem(), f"{htpasswd_registry.host}/{repository}:v1", FILES).startswith("sha256:")


def test_credentials_from_docker_config(
    htpasswd_registry: DockerRegistry, repository: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {htpasswd_registry.host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert write(OciFileSystem(), f"{htpasswd_registry.host}/{repository}:v1", FILES).startswith("sha256:")


def test_bearer_tokens(token_registry: DockerRegistry, token_service: TokenService, repository: str) -> None:
    root = f"{token_registry.host}/{repository}:v1"
    fs = OciFileSystem(**LOGIN, token_realms=[token_service.realm])
    write(fs, root, FILES)
    assert OciFileSystem().cat_file(f"{root}/a") == b"1"  # anybody may pull, with an anonymous token
    scopes = [query["scope"] for _, query in token_service.asked]
    assert scopes == [
        [f"repository:{repository}:pull"],
        [f"repository:{repository}:pull,push"],
        [f"repository:{repository}:pull"],
    ]


def test_an_anonymous_push_is_denied(token_registry: DockerRegistry, repository: str) -> None:
    with pytest.raises(AccessDenied):
        write(OciFileSystem(), f"{token_registry.host}/{repository}:v1", FILES)


def test_a_wrong_password_for_tokens(
    token_registry: DockerRegistry, token_service: TokenService, repository: str
) -> None:
    fs = OciFileSystem(username=USER, password=SECRET, token_realms=[token_service.realm])
    with pytest.raises(AccessDenied) as caught:
        write(fs, f"{token_registry.host}/{repository}:v1", FILES)
    assert SECRET not in str(caught.value)


def test_credentials_do_not_go_to_a_realm_elsewhere(
    token_registry: DockerRegistry, token_service: TokenService, repository: str
) -> None:
    with pytest.raises(AccessDenied, match="token_realms"):
        OciFileSystem(**LOGIN).find(f"{token_registry.host}/{repository}:v1")
    assert token_service.asked == []


def test_a_token_that_ends_in_the_middle_of_a_push(
    token_registry: DockerRegistry, token_service: TokenService, repository: str
) -> None:
    """The registry takes a token for 60 s longer than it says; the service says that they last much longer."""
    root = f"{token_registry.host}/{repository}:v1"
    token_service.lifetime = -58.5
    fs = OciFileSystem(**LOGIN, token_realms=[token_service.realm])
    with fs.transaction:
        fs.pipe_file(f"{root}/a", b"1")
        client = fs._client(token_registry.host)
        tokens = client._authorizer._tokens
        push = tokens[f"repository:{repository}:pull,push",].value
        _wait_until_refused(f"http://{token_registry.host}/v2/{repository}/tags/list", push)
        token_service.lifetime = 300
        asked = len(token_service.asked)
        fs.pipe_file(f"{root}/b", b"2")
        assert len(token_service.asked) == asked + 1
    assert sorted(OciFileSystem().find(root)) == [f"{root}/a", f"{root}/b"]


def _wait_until_refused(url: str, token: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 401:
                return
        time.sleep(0.05)
    raise AssertionError("the token does not end")


def test_an_identity_token_is_exchanged(
    token_registry: DockerRegistry,
    token_service: TokenService,
    repository: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    entry = {"identitytoken": token_service.refresh_token}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {token_registry.host: entry}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    write(OciFileSystem(token_realms=token_service.realm), f"{token_registry.host}/{repository}:v1", FILES)
    assert {method for method, _ in token_service.asked} == {"POST"}


def test_a_bearer_token_as_it_is(
    token_registry: DockerRegistry, token_service: TokenService, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = token_service.token([f"repository:{repository}:pull,push"], known=True)["token"]
    monkeypatch.setenv("OCI_BEARER", str(token))
    write(OciFileSystem(), f"{token_registry.host}/{repository}:v1", FILES)
    assert token_service.asked == []
    with pytest.raises(AccessDenied):
        write(OciFileSystem(bearer="wrong"), f"{token_registry.host}/{repository}:v1", FILES)


def test_a_mount_from_another_repository_has_both_scopes(
    token_registry: DockerRegistry, token_service: TokenService, repository: str
) -> None:
    options = {**LOGIN, "token_realms": [token_service.realm]}
    base = f"{token_registry.host}/{repository}/base:v1"
    write(OciFileSystem(**options), base, {"a": b"1" * 100})
    fs = OciFileSystem(**options)
    with fs.transaction:
        fs.cp_file(f"{base}/a", f"{token_registry.host}/{repository}:v1/a")
    both = [f"repository:{repository}:pull,push", f"repository:{repository}/base:pull"]
    assert both in [query["scope"] for _, query in token_service.asked]


def test_private_certificates(
    tls_registry: DockerRegistry,
    oci_certificate: Certificate,
    repository: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    root = f"{tls_registry.host}/{repository}:v1"
    write(OciFileSystem(plain_http=False, ca_bundle=str(oci_certificate.cert_path)), root, FILES)
    with pytest.raises(TransferError, match="OCI_CA_BUNDLE"):
        OciFileSystem(plain_http=False).find(root)
    monkeypatch.setenv("OCI_CA_BUNDLE", str(oci_certificate.cert_path))
    assert OciFileSystem(plain_http=False).cat_file(f"{root}/a") == b"1"
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for path in (str(empty), str(tmp_path / "absent.pem")):
        with pytest.raises(BadOption):
            OciFileSystem(plain_http=False, ca_bundle=path).find(root)


def test_https_does_not_fall_back_to_http(oci_registry: DockerRegistry, repository: str) -> None:
    """There is a registry on that port, and it speaks http."""
    with pytest.raises(TransferError):
        OciFileSystem(plain_http=False, deadline=0).tags(f"{oci_registry.host}/{repository}")


def test_http_to_a_registry_that_speaks_tls_says_so(tls_registry: DockerRegistry, repository: str) -> None:
    with pytest.raises(TransferError, match="plain_http=False"):
        OciFileSystem(deadline=0).tags(f"{tls_registry.host}/{repository}")


# -- registries of bad faith


def basic(seen: Seen) -> Answer | None:
    """Ask for credentials."""
    return None if "Authorization" in seen.headers else Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})


def test_a_redirect_elsewhere_gets_no_credentials(faulty: Faulty) -> None:
    elsewhere = faulty("", lambda seen: Answer(404))
    registry = faulty("", lambda seen: basic(seen) or Answer(307, {"Location": f"http://{elsewhere.host}/stolen"}))
    with pytest.raises(FileNotFoundError):
        OciFileSystem(username="alice", password=SECRET).find(f"{registry.host}/a:v1")
    assert "Authorization" in registry.seen[-1].headers
    assert [seen.path for seen in elsewhere.seen] == ["/stolen"]
    assert "Authorization" not in elsewhere.seen[0].headers


def test_an_upload_location_elsewhere_gets_no_credentials(faulty: Faulty) -> None:
    elsewhere = faulty("", lambda seen: Answer(201))

    def lie(seen: Seen) -> Answer:
        asked = basic(seen)
        if asked:
            return asked
        if seen.method == "POST":
            return Answer(202, {"Location": f"http://{elsewhere.host}/upload?x=1"})
        return Answer(201 if seen.method == "PUT" else 404)

    registry = faulty("", lie)
    write(OciFileSystem(username="alice", password=SECRET), f"{registry.host}/a:v1", FILES)
    assert len(elsewhere.seen) == 2
    assert all(seen.method == "PUT" and "Authorization" not in seen.headers for seen in elsewhere.seen)


def test_a_challenge_from_elsewhere_is_not_answered(faulty: Faulty) -> None:
    elsewhere = faulty("", lambda seen: Answer(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    registry = faulty("", lambda seen: Answer(307, {"Location": f"http://{elsewhere.host}/"}))
    with pytest.raises(AccessDenied):
        OciFileSystem(username="alice", password=SECRET).find(f"{registry.host}/a:v1")
    assert all("Authorization" not in seen.headers for seen in elsewhere.seen + registry.seen)


def test_redirects_end(faulty: Faulty) -> None:
    registry = faulty("", lambda seen: Answer(302, {"Location": f"{seen.path}x"}))
    with pytest.raises(TransferError, match="too often"):
        OciFileSystem(deadline=0).find(f"{registry.host}/a:v1")
    assert len(registry.seen) == 6


@pytest.mark.parametrize(
    "location", ["", "ftp://h/x", "http://192.0.2.1/x", "file:///etc/passwd", "http://[::g]/", "http://h:99999/"]
)
def test_a_redirect_to_no_good_place(location: str, faulty: Faulty) -> None:
    registry = faulty("", lambda seen: Answer(302, {"Location": location}))
    with pytest.raises(TransferError, match="no https"):
        OciFileSystem(deadline=0).find(f"{registry.host}/a:v1")


def test_an_error_repeats_nothing_that_the_registry_says(faulty: Faulty) -> None:
    def echo(seen: Seen) -> Answer:
        said = seen.headers.get("Authorization", "")
        errors = [{"code": "DENIED", "message": said, "detail": said}, {"code": said, "message": ""}]
        return basic(seen) or Answer(403, {}, json.dumps({"errors": errors}).encode())

    registry = faulty("", echo)
    with pytest.raises(AccessDenied, match="403 DENIED") as caught:
        OciFileSystem(username="alice", password=SECRET).find(f"{registry.host}/a:v1")
    assert base64.b64encode(f"alice:{SECRET}".encode()).decode() not in str(caught.value)


# -- the rules alone


@pytest.mark.parametrize(
    ("headers", "scheme", "parameters"),
    [
        (
            ['Bearer realm="https://a/t",service="s",scope="x:y:pull,push"'],
            "bearer",
            {"realm": "https://a/t", "service": "s", "scope": "x:y:pull,push"},
        ),
        (['Basic realm="x"', 'Bearer realm="https://a/t"'], "bearer", {"realm": "https://a/t"}),
        (["BASIC realm=x"], "basic", {"realm": "x"}),
        (["Digest realm=x"], None, {}),
        ([], None, {}),
    ],
)
def test_challenges_are_read(headers: list[str], scheme: str | None, parameters: dict[str, str]) -> None:
    challenge = read_challenge(headers)
    assert challenge == (Challenge(scheme, parameters) if scheme else None)


def ask(realm: str, *, credentials: Login | IdentityToken | None, trusted: tuple[str, ...] = ()) -> object:
    challenge = Challenge("bearer", {"realm": realm, "service": "s"})
    return token_request(
        challenge,
        ["repository:a:pull"],
        credentials,
        registry="https://r.example",
        trusted_realms=trusted,
        plain_http=False,
    )


@pytest.mark.parametrize("realm", ["", "http://r.example/t", "http://127.0.0.1/t", "ftp://r.example/", "https:///t"])
def test_a_realm_of_no_good_kind_is_refused(realm: str) -> None:
    with pytest.raises(AccessDenied):
        ask(realm, credentials=None)


def test_a_realm_elsewhere_gets_credentials_only_if_trusted() -> None:
    for realm in ("https://auth.example/t", "https://r.example:444/t", "https://r.example.evil/t"):
        with pytest.raises(AccessDenied):
            ask(realm, credentials=Login("alice", SECRET))
        assert not getattr(ask(realm, credentials=None), "authorization", None)
    request = ask("https://auth.example:443/t", credentials=Login("alice", SECRET), trusted=("https://auth.example",))
    assert SECRET not in repr(request)
    assert getattr(request, "authorization", None) == Login("alice", SECRET).basic


def test_origins_and_where_a_registry_may_send_us() -> None:
    assert origin("https://H.example:443/x") == origin("https://h.example") == "https://h.example"
    assert origin("http://[::1]:5000/") == "http://[::1]:5000"
    assert not may_speak("http://h.example/", registry="https://r.example", plain_http=True)
    assert may_speak("http://h.example/", registry="http://r.example", plain_http=True)
    assert not may_speak("http://h.example/", registry="http://127.0.0.1:5000", plain_http=False)
    assert may_speak("https://h.example/", registry="https://r.example", plain_http=False)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"token":7}', b'{"token":"a b"}', b'{"token":"a\\r\\nX: 1"}', b"[" * 100_000]
)
def test_an_answer_without_a_token(raw: bytes) -> None:
    with pytest.raises(TransferError):
        read_token(raw, now=0, place="here")


def test_a_token_is_renewed_before_it_ends() -> None:
    assert read_token(b'{"token":"t","expires_in":100}', now=1000, place="").renew_at == 1080
    assert read_token(b'{"access_token":"t"}', now=1000, place="").renew_at == 1048
    assert read_token(b'{"token":"t","expires_in":-5}', now=1000, place="").renew_at == 1048
    assert "t0ken" not in repr(read_token(b'{"token":"t0ken"}', now=0, place=""))


# -- docker's configuration


def docker(folder: Path, config: object) -> dict[str, str]:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return {"DOCKER_CONFIG": str(folder)}


def helper(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("config", "host", "expected"),
    [
        ({"auths": {"h:5000": {"auth": encoded("u:p:q")}}}, "h:5000", Login("u", "p:q")),
        ({"auths": {"https://h/v2/": {"auth": encoded("u:p")}}}, "h", Login("u", "p")),
        ({"auths": {"h": {"username": "u", "password": "p"}}}, "h", Login("u", "p")),
        ({"auths": {"h": {"auth": encoded("u:"), "identitytoken": "i"}}}, "h", IdentityToken("i")),
        ({"auths": {"h": {"registrytoken": "r"}}}, "h", BearerToken("r")),
        ({"auths": {"https://index.docker.io/v1/": {"auth": encoded("u:p")}}}, "docker.io", Login("u", "p")),
        ({"auths": {"h:5000": {"auth": encoded("u:p")}}}, "h:5001", None),
        ({"auths": {"h.example": {"auth": encoded("u:p")}}}, "h", None),
        ({"auths": {"h": {}}}, "h", None),
        ({"auths": []}, "h", None),
        ({}, "h", None),
    ],
)
def test_docker_config(config: object, host: str, expected: object, tmp_path: Path) -> None:
    assert find_credentials(host, docker(tmp_path, config), helper_timeout=5) == expected


def test_the_environment_comes_before_docker(tmp_path: Path) -> None:
    environ = docker(tmp_path, {"auths": {"h": {"auth": encoded("u:p")}}})
    assert find_credentials("h", {**environ, "OCI_USERNAME": "e", "OCI_PASSWORD": "f"}, helper_timeout=5) == Login(
        "e", "f"
    )
    assert find_credentials("h", {**environ, "OCI_USERNAME": "e", "OCI_BEARER": "b"}, helper_timeout=5) == BearerToken(
        "b"
    )
    assert find_credentials("h", {"DOCKER_CONFIG": str(tmp_path / "absent")}, helper_timeout=5) is None


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "",
        {"auths": {"h": {"auth": "!!!"}}},
        {"auths": {"h": {"auth": encoded("nocolon")}}},
        {"credsStore": "../x"},
    ],
)
def test_a_spoilt_docker_config_is_an_error(config: object, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied) as caught:
        find_credentials("h", docker(tmp_path, config), helper_timeout=5)
    assert "nocolon" not in str(caught.value)


def test_credential_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"ServerURL":"x","Username":"u","Secret":"%s"}'
    helper(tmp_path, "one", f'test "$1" = get && host=$(cat) && printf \'{answer}\' "$host"', monkeypatch)
    helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1", monkeypatch)
    helper(tmp_path, "token", 'echo \'{"Username":"<token>","Secret":"i"}\'', monkeypatch)
    store = docker(tmp_path, {"credsStore": "one", "credHelpers": {"t.example": "token", "n.example": "none"}})
    assert find_credentials("h.example", store, helper_timeout=20) == Login("u", "h.example")
    assert find_credentials("t.example", store, helper_timeout=20) == IdentityToken("i")
    assert find_credentials("n.example", store, helper_timeout=20) == Login("u", "n.example")
    only = docker(tmp_path, {"credsStore": "none", "auths": {"h": {"auth": encoded("a:b")}}})
    assert find_credentials("h", only, helper_timeout=20) == Login("a", "b")


@pytest.mark.parametrize(
    "script", [f"echo {SECRET}; exit 1", f"echo {SECRET}", f"echo '[\"{SECRET}\"]'", "exec sleep 60"]
)
def test_a_helper_that_fails_is_an_error_without_its_words(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, "bad", script, monkeypatch)
    with pytest.raises(AccessDenied, match="docker-credential-bad") as caught:
        find_credentials("h", docker(tmp_path, {"credsStore": "bad"}), helper_timeout=1)
    assert SECRET not in str(caught.value)
    with pytest.raises(AccessDenied, match="docker-credential-absent"):
        find_credentials("h", docker(tmp_path, {"credsStore": "absent"}), helper_timeout=1)
