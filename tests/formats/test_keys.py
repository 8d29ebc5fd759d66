"""Files of keys: every format that is promised loads, everything else is one clear error, and no private key shows."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg.errors import BadKey
from pfreg.keys import ExposedKey, PrivateKey, PublicKey, public_keys, trusted
from tests.formats.images import says_one_line
from tests.formats.some_keys import (
    ED25519,
    OTHER,
    P256,
    UNUSABLE,
    USABLE,
    innards,
    line,
    openssh,
    pkcs8,
    sec1,
    spki,
    write,
)

PASSWORD = "correct horse"
COSIGN = (
    b"-----BEGIN ENCRYPTED %b PRIVATE KEY-----\neyJrZGYiOnsibmFtZSI6InNjcnlwdCJ9fQ==\n-----END ENCRYPTED KEY-----\n"
)

every_kind = pytest.mark.parametrize("kind", USABLE)


def refused(load: Any, *arguments: Any, **options: Any) -> BadKey:
    with pytest.raises(BadKey) as caught:
        load(*arguments, **options)
    assert says_one_line(caught.value)
    assert isinstance(caught.value, ValueError)
    return caught.value


# -- what loads --------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("written", [pkcs8, openssh])
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_private_key_loads(kind: str, written: Any, password: str | None, tmp_path: Path) -> None:
    content = written(USABLE[kind], password.encode() if password else None)
    path = write(tmp_path / "alice.pem", content)
    environ = {"PFREG_KEY_PASSWORD": PASSWORD}  # which does not matter where nothing is encrypted
    for source in (path, str(path), content, content.decode()):
        key = PrivateKey.load(source, environ=environ)
        assert key.public.algorithm == kind
        assert key.public.spki == PublicKey.load(spki(USABLE[kind])).spki
        assert key.public.verifies(key.sign(b"message"), b"message")
    assert PrivateKey.load(path, environ=environ).public.name == "alice.pem"


def test_a_p256_key_may_be_sec1() -> None:
    assert PrivateKey.load(sec1(P256)).public == PublicKey.load(spki(P256))


@every_kind
@pytest.mark.parametrize("written", [spki, line])
def test_a_public_key_loads(kind: str, written: Any, tmp_path: Path) -> None:
    content = written(USABLE[kind])
    path = write(tmp_path / "alice.pub", content, 0o644)
    for source in (path, str(path), content, content.decode(), content + b"\n\n", content.replace(b"\n", b"\r\n")):
        key = PublicKey.load(source)
        assert (key.algorithm, key.pem.encode()) == (kind, spki(USABLE[kind]))
    assert str(PublicKey.load(path)).endswith(", alice.pub")


@every_kind
def test_objects_are_keys_too(kind: str) -> None:
    private = PrivateKey.load(USABLE[kind])
    assert PrivateKey.load(private) is private
    assert PublicKey.load(USABLE[kind].public_key()) == PublicKey.load(private.public) == private.public


@every_kind
def test_a_hint_is_the_sha256_of_the_key_in_der(kind: str) -> None:
    der = base64.b64decode(b"".join(spki(USABLE[kind]).splitlines()[1:-1]))
    key = PublicKey.load(spki(USABLE[kind]))
    assert key.spki == der
    assert base64.b64decode(key.hint) == hashlib.sha256(der).digest()
    assert hashlib.sha256(der).hexdigest()[:16] in str(key)


@every_kind
def test_a_key_verifies_what_it_signed_and_nothing_else(kind: str) -> None:
    key = PrivateKey.load(USABLE[kind])
    signature = key.sign(b"message")
    assert key.public.verifies(signature, b"message")
    assert not key.public.verifies(signature, b"messagf")
    assert not PrivateKey.load(OTHER).public.verifies(signature, b"message")
    for wrong in (b"", b"\0", signature[:-1], signature + b"\0", b"\0" * len(signature), bytes(64), b"0" * 72):
        assert not key.public.verifies(wrong, b"message")


@given(st.binary(max_size=200), st.binary(max_size=80))
def test_no_bytes_are_a_signature_by_chance(message: bytes, signature: bytes) -> None:
    for key in USABLE.values():
        assert not PublicKey.load(key.public_key()).verifies(signature, message)


# -- what does not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_key_of_another_kind_is_refused(kind: str, tmp_path: Path) -> None:
    key: Any = UNUSABLE[kind]
    path = write(tmp_path / "key", pkcs8(key))
    error = refused(PrivateKey.load, path)
    assert error.place == str(path) and "Ed25519 or ECDSA P-256" in error.hint
    refused(PrivateKey, key)
    assert "Ed25519 or ECDSA P-256" in refused(PublicKey.load, spki(key)).hint
    refused(PublicKey.load, key.public_key())


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=["P-384", "P-521"])
def test_an_openssh_key_of_another_kind_is_refused(curve: Any) -> None:
    key = ec.generate_private_key(curve)
    refused(PrivateKey.load, openssh(key))
    refused(PublicKey.load, line(key))


NO_PUBLIC_KEY: dict[str, bytes] = {
    "nothing": b"",
    "text": b"this is no key\n",
    "zeros": bytes(100),
    "a private key": pkcs8(ED25519),
    "an encrypted private key": pkcs8(P256, b"x"),
    "an OpenSSH private key": openssh(ED25519),
    "a SEC1 private key": sec1(P256),
    "two keys": spki(ED25519) + spki(P256),
    "two lines": line(ED25519) + line(OTHER),
    "a private key after a public one": spki(ED25519) + pkcs8(ED25519),
    "a certificate": spki(ED25519).replace(b"PUBLIC KEY", b"CERTIFICATE"),
    "PKCS1": spki(UNUSABLE["RSA"]).replace(b"PUBLIC KEY", b"RSA PUBLIC KEY"),
    "cut off": spki(ED25519)[:-30],
    "no base64": spki(ED25519).replace(b"MCowBQYDK2Vw", b"MCow!QYDK2Vw"),
    "a shorter point": b"-----BEGIN PUBLIC KEY-----\nMCkwBQYDK2VwAyAA\n-----END PUBLIC KEY-----\n",
    "a line cut off": line(ED25519)[:40],
    "a line of another kind than it says": line(ED25519).replace(b"ssh-ed25519", b"ecdsa-sha2-nistp256", 1),
    "options before the key": b"no-pty " + line(ED25519),
    "a certificate of OpenSSH's": line(ED25519).replace(b"ssh-ed25519", b"ssh-ed25519-cert-v01@openssh.com", 1),
    "a security key": line(ED25519).replace(b"ssh-ed25519", b"sk-ssh-ed25519@openssh.com", 1),
    "more than a file of a key has": spki(ED25519) + b"\n" * (64 << 10),
}


@pytest.mark.parametrize("name", NO_PUBLIC_KEY)
def test_what_is_no_public_key_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "key", NO_PUBLIC_KEY[name])
    error = refused(PublicKey.load, path)
    assert error.place == str(path) and "public key" in error.hint
    refused(PublicKey.load, NO_PUBLIC_KEY[name])


NO_PRIVATE_KEY: dict[str, bytes] = {
    "nothing": b"",
    "text": b"this is no key\n",
    "a public key": spki(ED25519),
    "a public line": line(ED25519),
    "cosign's format": COSIGN % b"SIGSTORE",
    "cosign's older format": COSIGN % b"COSIGN",
    "cut off": pkcs8(ED25519)[:-40],
    "an OpenSSH key cut off": openssh(ED25519)[:-60],
    "more than a file of a key has": pkcs8(ED25519) + b"\n" * (64 << 10),
}


@pytest.mark.parametrize("name", NO_PRIVATE_KEY)
@pytest.mark.parametrize("password", [None, "x"])
def test_what_is_no_private_key_is_refused(name: str, password: str | None, tmp_path: Path) -> None:
    path = write(tmp_path / "key", NO_PRIVATE_KEY[name])
    environ = {} if password is None else {"PFREG_KEY_PASSWORD": password}
    assert refused(PrivateKey.load, path, environ=environ).place == str(path)
    assert refused(PrivateKey.load, NO_PRIVATE_KEY[name], environ=environ).place == ""


@pytest.mark.parametrize("written", [pkcs8, openssh])
def test_an_encrypted_key_wants_its_password(written: Any) -> None:
    content = written(ED25519, PASSWORD.encode())
    assert "PFREG_KEY_PASSWORD" in refused(PrivateKey.load, content, environ={}).hint
    for wrong in ("Correct horse", "correct horse "):
        error = refused(PrivateKey.load, content, environ={"PFREG_KEY_PASSWORD": wrong})
        assert "password" in error.problem and wrong not in str(error)


def test_the_process_has_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFREG_KEY_PASSWORD", PASSWORD)
    assert PrivateKey.load(openssh(P256, PASSWORD.encode())).public == PublicKey.load(spki(P256))


@pytest.mark.parametrize("load", [PrivateKey.load, PublicKey.load])
def test_a_file_that_cannot_be_read_is_one_error(load: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "missing",
        tmp_path / "folder",
        tmp_path / "missing" / "key",
        Path("/dev/zero"),
        "",
        "a\0b",
    ):
        refused(load, path)
    for nothing in (None, 1, [], object()):
        refused(load, nothing)
    if os.geteuid():
        refused(load, write(tmp_path / "unreadable", pkcs8(ED25519), 0o000))


# -- trusted keys ------------------------------------------------------------------------------------------------


def test_one_trusted_key_will_do_and_none_will_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pub", spki(ED25519))
    for one in (path, str(path), spki(ED25519), spki(ED25519).decode(), ED25519.public_key(), PublicKey.load(path)):
        assert [key.spki for key in public_keys(one)] == [key.spki for key in public_keys([one])]
    refused(public_keys, [])
    refused(public_keys, [spki(ED25519), b"no key"])
    refused(trusted, [], environ={})


def test_the_environment_names_trusted_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(tmp_path / "a.pub", spki(ED25519)), write(tmp_path / "b.pub", line(P256))
    environ = {"PFREG_TRUSTED_KEYS": os.pathsep.join(map(str, (first, second)))}
    assert [key.name for key in trusted(None, environ=environ) or ()] == ["a.pub", "b.pub"]
    assert [key.name for key in trusted([second], environ=environ) or ()] == ["b.pub"]
    assert trusted(None, environ={}) is None
    for wrong in ("", os.pathsep, f"{first}{os.pathsep}", str(tmp_path / "missing")):
        refused(trusted, None, environ={"PFREG_TRUSTED_KEYS": wrong})
    monkeypatch.setenv("PFREG_TRUSTED_KEYS", str(first))
    assert [key.name for key in trusted(None) or ()] == ["a.pub"]


# -- secrets -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
@pytest.mark.parametrize("mode, exposed", [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o660, True)])
def test_a_private_key_that_others_may_read_is_worth_a_warning(mode: int, exposed: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "key", pkcs8(ED25519), mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PrivateKey.load(path)
        PublicKey.load(write(tmp_path / "key.pub", spki(ED25519), 0o644))
    assert [warning.category for warning in caught] == [ExposedKey] * exposed
    assert all(str(path) in str(warning.message) and "chmod" in str(warning.message) for warning in caught)


@every_kind
def test_a_private_key_shows_nowhere(kind: str) -> None:
    key = PrivateKey.load(USABLE[kind])
    signer = pfreg.KeySigner(key, reference="s3://bucket/a")
    for shown in (repr(key), str(key), f"{key}", repr(signer), str(signer), repr(key.public), repr([key])):
        assert not any(secret in shown.encode() for secret in innards(USABLE[kind]))
    for what in (key, signer, [key]):
        with pytest.raises(TypeError):
            pickle.dumps(what)
        with pytest.raises(TypeError):
            copy.deepcopy(what)
    assert pickle.loads(pickle.dumps(key.public)) == key.public


@every_kind
@pytest.mark.parametrize("written", [pkcs8, openssh])
def test_a_private_key_in_the_wrong_place_does_not_show(kind: str, written: Any, tmp_path: Path) -> None:
    content: bytes = written(USABLE[kind])
    damaged = content[:-60] + b"x" + content[-60:]
    missing = tmp_path / "missing.pem"
    mistakes: list[Any] = [
        lambda: PublicKey.load(content),
        lambda: PublicKey.load(content.decode()),
        lambda: PublicKey.load(PrivateKey.load(content)),
        lambda: PrivateKey.load(damaged),
        lambda: PrivateKey.load(damaged.decode()),
        lambda: PrivateKey.load(content.replace(b"-----BEGIN", b"-----BEGUN")),
        lambda: PrivateKey.load(" " + content.decode()),
        lambda: public_keys([content, missing]),
        lambda: pfreg.PfimgFileSystem(fo="memory://a", trusted_keys=[content.decode()], skip_instance_cache=True),
    ]
    failed = 0
    for mistake in mistakes:
        try:
            mistake()
        except BadKey as e:
            failed += 1
            error: BaseException | None = e
            while error is not None:
                shown = f"{error} {error!r} {error.args} {vars(error)}".encode()
                assert not any(secret in shown for secret in innards(USABLE[kind]))
                error = error.__cause__ or error.__context__
    assert failed >= len(mistakes) - 2  # leading blanks and a character after the end are forgiven by some versions


def test_the_first_vector_of_rfc_8032() -> None:
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    key = PrivateKey.load(ed25519.Ed25519PrivateKey.from_private_bytes(secret))
    assert key.sign(b"") == signature
    assert key.public.spki.endswith(public)
