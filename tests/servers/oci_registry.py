"""Real OCI registries for the tests: Debian's docker-registry on a free port of 127.0.0.1, in all its kinds.

They are killed, not stopped: that is also what the tests do to them.
"""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import secrets
import subprocess
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.servers import running

USER, PASSWORD = "alice", "s3cret-of-the-tests"
# bcrypt of PASSWORD, as `htpasswd -Bbn` writes it.
HTPASSWD = "alice:$2y$05$oTKAvGK0sO0g8fE/Sfnz/.KFbC/e/6yZvwnOndIQSoFCv7nCyx1/G"


@dataclass
class Certificate:
    """A self-signed certificate for this machine, and its key."""

    folder: Path
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048), repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.timezone.utc)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.cert_path = self.folder / "cert.pem"
        self.key_path = self.folder / "key.pem"
        self.cert_path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self.key_path.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )


class DockerRegistry:
    """One docker-registry process over one folder; it may be killed and started again, on the same port."""

    def __init__(self, folder: Path, *, auth: object = None, tls: Certificate | None = None) -> None:
        self._program = running.program("docker-registry", install="apt-get install docker-registry")
        self.folder = folder
        self.port = running.free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.scheme = "https" if tls else "http"
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        listen: dict[str, object] = {"addr": self.host}
        if tls:
            listen["tls"] = {"certificate": str(tls.cert_path), "key": str(tls.key_path)}
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            "http": listen,
        }
        if auth:
            config["auth"] = auth
        folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        (folder / "config.yml").write_text(json.dumps(config))
        self.start()

    def start(self) -> None:
        command = [self._program, "serve", str(self.folder / "config.yml")]
        self._process = running.start(command, log=self.folder / "log", ready=lambda: running.answers(self.port))

    def kill(self) -> None:
        """Kill it with SIGKILL; it may have been killed before."""
        if self._process is not None:
            running.stop(self._process)
            self._process = None

    def blob(self, digest: str) -> Path:
        """Return where the bytes of a blob lie on the server's disk."""
        hexadecimal = digest.removeprefix("sha256:")
        return self.folder / "data/docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


class TokenService:
    """A docker token service: the right password may do everything, without one anybody may pull."""

    issuer, audience = "pfreg-tests", "pfreg-registry"

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate
        self.lifetime = 300.0
        """Seconds from now on after which a registry without leeway would refuse a new token."""
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        """Method and parameters of each request."""
        self.refresh_token = secrets.token_urlsafe(16)
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                header = self.headers.get("Authorization", "")
                expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                self._answer("GET", query, known=header == expected, wrong=bool(header) and header != expected)

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = urllib.parse.parse_qs(raw)
                known = form.get("refresh_token") == [service.refresh_token]
                form["scope"] = form["scope"][0].split(" ")
                self._answer("POST", form, known=known, wrong=not known)

            def _answer(self, method: str, asked: dict[str, list[str]], *, known: bool, wrong: bool) -> None:
                service.asked.append((method, asked))
                body = b"{}" if wrong else json.dumps(service.token(asked.get("scope", []), known=known)).encode()
                self.send_response(401 if wrong else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def token(self, scopes: list[str], *, known: bool) -> dict[str, object]:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            granted = [action for action in actions.split(",") if known or action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        now = time.time()
        claims = {
            "iss": self.issuer,
            "sub": USER if known else "",
            "aud": self.audience,
            "exp": int(now + self.lifetime),
            "nbf": int(now - 3600),
            "iat": int(now),
            "jti": secrets.token_hex(8),
            "access": access,
        }
        der = self.certificate.certificate.public_bytes(serialization.Encoding.DER)
        header = {"alg": "RS256", "typ": "JWT", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = self.certificate.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return {"token": f"{signed}.{_base64url(signature)}", "expires_in": 300}

    def auth(self) -> dict[str, object]:
        """Return what a registry has to know about this service."""
        return {
            "token": {
                "realm": f"{self.realm}/token",
                "service": self.audience,
                "issuer": self.issuer,
                "rootcertbundle": str(self.certificate.cert_path),
            }
        }

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def htpasswd_auth(folder: Path) -> dict[str, object]:
    """Write a password file and return what a registry has to know about it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "htpasswd"
    path.write_text(f"{HTPASSWD}\n")
    return {"htpasswd": {"realm": "pfreg tests", "path": str(path)}}
