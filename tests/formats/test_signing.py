"""Signatures: the golden ones verify, everything else fails, the default key proves nothing, and no secret shows."""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg.digest import Digest
from pfreg.errors import SignatureError
from pfreg.limits import Limits
from pfreg.signing import HmacSigner, HmacVerifier, Signature, Trust, check_signature, secret_variable
from tests import golden
from tests.formats.images import compact, in_root, says_one_line

SECRET = "correct horse battery staple"
MANIFEST = b'{"any":"bytes, for the signature comes before parsing"}'
VARIABLES = {
    "file": "PF_FILE_REG_SIGN_KEY",
    "s3": "PF_S3_REG_SIGN_KEY",
    "hf": "PF_HF_REG_SIGN_KEY",
    "ipfs": "PF_IPFS_REG_SIGN_KEY",
    "oci": "PF_OCI_REG_SIGN_KEY",
    "sftp": "PF_FILE_REG_SIGN_KEY",
    "memory": "PF_FILE_REG_SIGN_KEY",
}


def pair(root: str) -> tuple[bytes, bytes]:
    folder = golden.VECTORS / root
    return (folder / "manifest.json").read_bytes(), (folder / "manifest.json.sig").read_bytes()


def signed(**fields: Any) -> bytes:
    value = json.loads(HmacSigner().sign(MANIFEST))
    value.update(fields)
    return compact({name: v for name, v in value.items() if v is not ...})


@pytest.mark.parametrize("root, secret", [("registry-small", None), ("registry-keyed", "secret-key-1")])
def test_golden_signatures_are_made_again_bit_for_bit_and_verify(root: str, secret: str | None) -> None:
    manifest, signature = pair(root)
    assert HmacSigner(secret).sign(manifest) == signature == golden.GOLDEN[root]["sig_file"].encode()
    trust = check_signature(manifest, signature, verifier=HmacVerifier(secret, name="ours"))
    assert trust == (Trust("unsigned", "published default key") if secret is None else Trust("verified", "ours"))
    parsed = Signature.from_bytes(signature)
    assert (str(parsed.manifest_digest), parsed.signature, parsed.bundle, parsed.raw) == (
        golden.GOLDEN[root]["cid"], golden.GOLDEN[root]["signature"], None, signature,
    )  # fmt: skip


@pytest.mark.parametrize("secret", [None, "secret-key-2", "secret-key-1 ", "Secret-key-1", "\0", "é"])
def test_the_golden_keyed_signature_fails_under_any_other_key(secret: str | None) -> None:
    with pytest.raises(SignatureError) as caught:
        check_signature(*pair("registry-keyed"), verifier=HmacVerifier(secret))
    assert says_one_line(caught.value)


def test_the_default_key_fails_once_a_secret_is_set() -> None:
    with pytest.raises(SignatureError):
        check_signature(*pair("registry-small"), verifier=HmacVerifier("secret-key-1"))
    with pytest.raises(SignatureError):
        HmacVerifier("secret-key-1").verify(MANIFEST, Signature.from_bytes(HmacSigner().sign(MANIFEST)))


def test_the_default_key_is_no_signature_where_one_is_required() -> None:
    with pytest.raises(SignatureError):
        check_signature(*pair("registry-small"), verifier=HmacVerifier(), require_signature=True)
    manifest, signature = pair("registry-keyed")
    trust = check_signature(manifest, signature, verifier=HmacVerifier("secret-key-1"), require_signature=True)
    assert trust.status == "verified"


def test_a_signature_of_another_manifest_fails_whatever_it_says() -> None:
    manifest, signature = pair("registry-small")
    other, _ = pair("registry-keyed")
    with pytest.raises(SignatureError):
        check_signature(other, signature, verifier=HmacVerifier())
    renamed = signature.replace(Digest.of(manifest).hex.encode(), Digest.of(other).hex.encode())
    with pytest.raises(SignatureError):
        check_signature(other, renamed, verifier=HmacVerifier())


@given(st.data())
def test_one_changed_byte_of_the_manifest_is_noticed(data: st.DataObject) -> None:
    manifest, signature = pair("registry-keyed")
    changed = bytearray(manifest)
    changed[data.draw(st.integers(0, len(manifest) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SignatureError):
        check_signature(bytes(changed), signature, verifier=HmacVerifier("secret-key-1"))


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.binary(max_size=200))
def test_whoever_shares_the_secret_agrees(secret: str, manifest: bytes) -> None:
    signature = HmacSigner(secret).sign(manifest)
    assert check_signature(manifest, signature, verifier=HmacVerifier(secret)).status == "verified"
    expected = hmac.new(secret.encode(), manifest, hashlib.sha256).hexdigest()
    assert signature.decode() == (
        f'{{"algorithm":"hmac-sha256","manifest_digest":"{hashlib.sha256(manifest).hexdigest()}",'
        f'"signature":"{expected}"}}'
    )


HEX = hashlib.sha256(MANIFEST).hexdigest()
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"signature",
    "no UTF-8": signed().replace(b"hmac", b"\xffmac"),
    "byte order mark": b"\xef\xbb\xbf" + signed(),
    "cut off": signed()[:-1],
    "a list": b"[" + signed() + b"]",
    "null": b"null",
    "duplicate algorithm": signed()[:-1] + b',"algorithm":"hmac-sha256"}',
    "duplicate signature": signed()[:-1] + b',"signature":"' + b"0" * 64 + b'"}',
    "NaN": signed()[:-1] + b',"x":NaN}',
    "absurd depth": b"[" * 100_000,
    **{
        f"algorithm {v!r}": signed(algorithm=v)
        for v in ("none", "", "HMAC-SHA256", "sha256", None, 1, ["hmac-sha256"], ...)
    },
    **{f"algorithm {v}": signed(algorithm=v) for v in ("cosign-key", "cosign-keyless", "ed25519", "hmac-sha1")},
    **{
        f"manifest_digest {v!r}": signed(manifest_digest=v)
        for v in (..., None, 1, "", HEX[:-1], HEX + "0", HEX.upper(), "sha256:" + HEX, HEX + "\n", [HEX])
    },
    **{
        f"signature {v!r}": signed(signature=v)
        for v in (..., None, 1, "", "0" * 63, "0" * 65, "g" * 64, "\u0663" * 64, ["0" * 64], True)
    },
    "signature in upper case": signed(signature=hmac.new(b"x", b"", "sha256").hexdigest().upper()),
    "signature with a newline": signed(signature="0" * 64 + "\n"),
    "signature of a wrong digit": signed(signature="0" * 64),
    **{f"bundle {v!r}": signed(bundle=v) for v in (1, [], {}, True)},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_signature_fails_in_one_line(name: str) -> None:
    with pytest.raises(SignatureError) as caught:
        check_signature(MANIFEST, MALFORMED[name], verifier=HmacVerifier())
    assert says_one_line(caught.value)


def test_a_signature_is_bounded() -> None:
    with pytest.raises(SignatureError):
        check_signature(MANIFEST, signed(), verifier=HmacVerifier(), limits=Limits(signature_bytes=len(signed()) - 1))
    with pytest.raises(SignatureError):
        check_signature(MANIFEST, signed(bundle="x" * (4 << 20)), verifier=HmacVerifier())


def test_fields_that_we_do_not_know_are_left_alone() -> None:
    signature = signed(bundle="[]", x_newer={"a": [1]})
    assert Signature.from_bytes(signature).bundle == "[]"
    assert check_signature(MANIFEST, signature, verifier=HmacVerifier()).status == "unsigned"


@pytest.mark.parametrize("scheme", VARIABLES)
def test_each_registry_has_its_variable(scheme: str) -> None:
    assert secret_variable(scheme) == VARIABLES[scheme]
    environ = {VARIABLES[scheme]: SECRET, "PF_OTHER_REG_SIGN_KEY": "no"}
    signature = HmacSigner.for_scheme(scheme, environ=environ).sign(MANIFEST)
    assert signature == HmacSigner(SECRET).sign(MANIFEST)
    trust = check_signature(MANIFEST, signature, verifier=HmacVerifier.for_scheme(scheme, environ=environ))
    assert trust == Trust("verified", VARIABLES[scheme])
    assert HmacSigner.for_scheme(scheme, environ={}).sign(MANIFEST) == HmacSigner().sign(MANIFEST)


def test_the_variables_of_the_process_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PF_S3_REG_SIGN_KEY", SECRET)
    assert HmacSigner.for_scheme("s3").sign(MANIFEST) == HmacSigner(SECRET).sign(MANIFEST)
    assert HmacSigner.for_scheme("file").sign(MANIFEST) == HmacSigner().sign(MANIFEST)


@pytest.mark.parametrize("secret", ["", 0, b"bytes", [SECRET]])
def test_an_empty_secret_is_an_error_not_the_default_key(secret: Any) -> None:
    for make in (HmacSigner, HmacVerifier):
        with pytest.raises(SignatureError) as caught:
            make(secret)
        assert says_one_line(caught.value)
    with pytest.raises(SignatureError):
        HmacSigner.for_scheme("file", environ={"PF_FILE_REG_SIGN_KEY": ""})


def test_comparison_is_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    check_signature(*pair("registry-keyed"), verifier=HmacVerifier("secret-key-1"))
    assert len(compared) == 1


def test_no_secret_shows_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", SECRET)
    manifest = in_root(tmp_path / "root", {})  # signed under the default key
    store = pfreg.Store(tmp_path / "store")
    shown = [repr(HmacSigner(SECRET)), repr(HmacVerifier(SECRET)), str(HmacSigner(SECRET)), f"{HmacVerifier(SECRET)}"]
    with pytest.raises(SignatureError) as caught:
        pfreg.pull(tmp_path / "root", store=store)
    error: BaseException | None = caught.value
    while error is not None:
        shown += [str(error), repr(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or error.__context__
    shown.append(repr(pickle.dumps(caught.value)))
    pulled = pfreg.pull(tmp_path / "root", store=store, verifier=HmacVerifier())
    done = pfreg.push(manifest.cid, tmp_path / "pushed", store=store)
    verified = pfreg.verify(tmp_path / "pushed")
    assert verified.trust == Trust("verified", "PF_FILE_REG_SIGN_KEY")
    shown += [repr(value) for value in (pulled, done, verified, store)]
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(shown) > 15
    assert not any(SECRET in text for text in shown)


@pytest.mark.parametrize("state", ["missing", "malformed", "of another manifest", "of another key"])
def test_no_verb_believes_a_root_whose_signature_is_wrong(state: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    manifest = in_root(root, {})
    signature = root / "manifest.json.sig"
    if state == "missing":
        signature.unlink()
    elif state == "malformed":
        signature.write_bytes(b"{}")
    else:
        signature.write_bytes(HmacSigner("other").sign(manifest.raw if "key" in state else b"other"))
    store = pfreg.Store(tmp_path / "store")
    verbs = [
        lambda: pfreg.pull(root, store=store),
        lambda: pfreg.clone(root, tmp_path / "out"),
        lambda: pfreg.copy(root, tmp_path / "copy"),
        lambda: pfreg.verify(root),
        lambda: pfreg.inspect(root),
        lambda: pfreg.prune(root, grace=0, dry_run=False),
    ]
    for verb in verbs:
        with pytest.raises(SignatureError) as caught:
            verb()
        assert says_one_line(caught.value)
        assert caught.value.place == str(root)
    assert store.images() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "store"]
    assert pfreg.exists(root)  # which verifies nothing, and says so
