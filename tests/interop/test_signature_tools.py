"""Other people's tools read what our keys sign, and we read the keys that they make."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.signing import HmacVerifier, check_signature
from tests import golden
from tests.formats.some_keys import USABLE, spki, write
from tests.servers.running import missing, program

every_kind = pytest.mark.parametrize("kind", USABLE)
CID = golden.GOLDEN["store-small"]["parent"]
OPENSSL = {
    "ed25519": ["genpkey", "-algorithm", "ed25519"],
    "ecdsa-p256": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
}
KEYGEN = {"ed25519": ["-t", "ed25519"], "ecdsa-p256": ["-t", "ecdsa", "-b", "256"]}

SIGSTORE = """
const { createPublicKey } = require("node:crypto");
const { bundleFromJSON } = require(process.env.SIGSTORE + "/bundle");
const { Verifier, toSignedEntity, toTrustMaterial } = require(process.env.SIGSTORE + "/verify");
const [bundle, hint, pem] = process.argv.slice(1);
const rawBytes = createPublicKey(pem).export({ type: "spki", format: "der" });
const nobody = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const thresholds = { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 };
const verifier = new Verifier(toTrustMaterial(nobody, { [hint]: { rawBytes } }), thresholds);
verifier.verify(toSignedEntity(bundleFromJSON(JSON.parse(bundle))));
console.log("verified");
"""


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PFREG_TRUSTED_KEYS", "PFREG_KEY_PASSWORD", "PF_FILE_REG_SIGN_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def openssl() -> str:
    return program("openssl", install="apt install openssl")


@pytest.fixture
def sigstore() -> str:
    """The folder of Sigstore's libraries: below ``NODE_PATH``, or ``node_modules`` here."""
    program("node", install="apt install nodejs npm")
    for place in filter(None, [*os.environ.get("NODE_PATH", "").split(os.pathsep), "node_modules"]):
        folder = Path(place).absolute() / "@sigstore"
        if (folder / "verify").is_dir():
            return str(folder)
    missing("@sigstore/verify is not installed: npm install @sigstore/verify, and NODE_PATH says where")
    return ""


def pushed(tmp_path: Path, key: Any) -> dict[str, Any]:
    """Push an image with a key; return what is in ``manifest.json.sig``."""
    pfreg.push(CID, tmp_path / "root", store=golden.opened("store-small", tmp_path), signing_key=key)
    value: dict[str, Any] = json.loads((tmp_path / "root" / "manifest.json.sig").read_bytes())
    return value


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, **options)


# -- what we sign ------------------------------------------------------------------------------------------------


@every_kind
def test_openssl_verifies_what_we_signed(kind: str, openssl: str, tmp_path: Path) -> None:
    (bundle,) = json.loads(pushed(tmp_path, USABLE[kind])["bundle"])
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    (tmp_path / "signed").write_bytes(
        b"DSSEv1 " + b"28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    )
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    write(tmp_path / "key.pub", spki(USABLE[kind]))
    options = ["-pubin", "-inkey", tmp_path / "key.pub", "-rawin", "-sigfile", tmp_path / "sig"]
    options += [] if kind == "ed25519" else ["-digest", "sha256"]
    done = run(openssl, "pkeyutl", "-verify", *options, "-in", tmp_path / "signed")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "signed", "ab") as stream:
        stream.write(b" ")
    assert run(openssl, "pkeyutl", "-verify", *options, "-in", tmp_path / "signed").returncode != 0
    statement = json.loads(payload)
    manifest = (tmp_path / "root" / "manifest.json").read_bytes()
    assert statement["subject"] == [
        {"name": "manifest.json", "digest": {"sha256": hashlib.sha256(manifest).hexdigest()}}
    ]


@every_kind
def test_sigstores_own_library_verifies_what_we_signed(kind: str, sigstore: str, tmp_path: Path) -> None:
    (bundle,) = json.loads(pushed(tmp_path, USABLE[kind])["bundle"])
    key = pfreg.PublicKey.load(spki(USABLE[kind]))
    environ = {**os.environ, "SIGSTORE": sigstore}

    def verify() -> subprocess.CompletedProcess[str]:
        return run("node", "-e", SIGSTORE, json.dumps(bundle), key.hint, key.pem, env=environ)

    done = verify()
    assert (done.returncode, done.stdout) == (0, "verified\n"), done.stderr
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(b"{}").decode()
    assert "signature verification failed" in verify().stderr


@every_kind
@pytest.mark.parametrize("secret", [None, "secret-key-1"])
def test_the_originals_part_is_what_it_always_was(
    kind: str, secret: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret is not None:
        monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", secret)
    value = pushed(tmp_path, USABLE[kind])
    manifest = (tmp_path / "root" / "manifest.json").read_bytes()
    key = b"processfork-default-self-sign-key.v1" if secret is None else secret.encode()
    assert isinstance(value.pop("bundle"), str)
    assert value == {
        "algorithm": "hmac-sha256",
        "manifest_digest": hashlib.sha256(manifest).hexdigest(),
        "signature": hmac.new(key, manifest, hashlib.sha256).hexdigest(),
    }
    if secret is None:
        theirs = (golden.VECTORS / "registry-small" / "manifest.json.sig").read_bytes()
        assert (tmp_path / "root" / "manifest.json.sig").read_bytes().startswith(theirs[:-1] + b',"bundle":"')
        assert manifest == (golden.VECTORS / "registry-small" / "manifest.json").read_bytes()


def test_signing_a_root_of_the_originals_adds_the_bundle_only(tmp_path: Path) -> None:
    root = golden.copied("registry-small", tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    key = USABLE["ed25519"]
    done = pfreg.push(CID, root, store=golden.opened("store-small", tmp_path), signing_key=key)
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert (done.sent, done.published) == (0, True)
    assert {path for path in after if before.get(path) != after[path]} == {root / "manifest.json.sig"}
    signature = after[root / "manifest.json.sig"]
    assert check_signature(after[root / "manifest.json"], signature, verifier=HmacVerifier()).status == "unsigned"
    assert pfreg.verify(root, trusted_keys=[spki(key)]).trust.status == "verified"


# -- keys that others made ---------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("password", [None, "correct horse"])
def test_keys_that_openssl_made(
    kind: str, password: str | None, openssl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encryption = [] if password is None else ["-aes-256-cbc", "-pass", f"pass:{password}"]
    assert run(openssl, *OPENSSL[kind], *encryption, "-out", tmp_path / "me.pem").returncode == 0
    opening = [] if password is None else ["-passin", f"pass:{password}"]
    done = run(openssl, "pkey", "-in", tmp_path / "me.pem", *opening, "-pubout", "-out", tmp_path / "me.pub")
    assert done.returncode == 0, done.stderr
    if password is not None:
        monkeypatch.setenv("PFREG_KEY_PASSWORD", password)
    pushed(tmp_path, tmp_path / "me.pem")
    trust = pfreg.verify(tmp_path / "root", trusted_keys=[tmp_path / "me.pub"]).trust
    der = subprocess.run(
        [openssl, "pkey", "-pubin", "-in", tmp_path / "me.pub", "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert trust.by == f"{kind} key {hashlib.sha256(der).hexdigest()[:16]}, me.pub"


@every_kind
@pytest.mark.parametrize("password", ["", "correct horse"])
def test_keys_that_ssh_keygen_made(kind: str, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keygen = program("ssh-keygen", install="apt install openssh-client")
    done = run(keygen, "-q", *KEYGEN[kind], "-N", password, "-C", "alice@example.org", "-f", tmp_path / "id")
    assert done.returncode == 0, done.stderr
    if password:
        monkeypatch.setenv("PFREG_KEY_PASSWORD", password)
    pushed(tmp_path, tmp_path / "id")
    trust = pfreg.verify(tmp_path / "root", trusted_keys=[tmp_path / "id.pub"]).trust
    assert trust.status == "verified" and trust.by.endswith(", id.pub")


def test_an_older_p256_key_of_openssls(openssl: str, tmp_path: Path) -> None:
    """``ecparam`` writes SEC1, behind a block that names the curve."""
    done = run(openssl, "ecparam", "-name", "prime256v1", "-genkey", "-out", tmp_path / "me.pem")
    assert done.returncode == 0, done.stderr
    (tmp_path / "me.pem").chmod(0o600)
    pushed(tmp_path, tmp_path / "me.pem")
    run(openssl, "ec", "-in", tmp_path / "me.pem", "-pubout", "-out", tmp_path / "me.pub")
    assert pfreg.verify(tmp_path / "root", trusted_keys=[tmp_path / "me.pub"]).trust.status == "verified"
