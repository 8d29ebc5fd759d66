"""Signatures of manifests.

Rules
-----
- A signature is verified over the bytes of the manifest as they were received, before anything in them is parsed.
- ``manifest.json.sig`` has the original's shape, so that the original reads what we write; fields that we do not know
  are left alone.
- The original signs with a *published* default key unless a secret is set. That proves nothing: it is reported as
  unsigned, never as verified.
- Once a secret is configured only that one counts: the default key fails then, too.
- A manifest that replaces another is preceded by its signature, with the other's inside (``previous``): so at every
  moment, whoever stops where, the file vouches for the manifest that is there. The original ignores the field.
- Signatures are compared in constant time. No secret appears in a ``repr``, an error or a result.

HMAC is what the original knows. For real keys ``key_signatures`` has further :class:`Signer` and :class:`Verifier`
classes, which carry their signatures in the ``bundle`` field.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pfreg import strict_json
from pfreg.digest import Digest
from pfreg.errors import IntegrityError, SignatureError
from pfreg.limits import DEFAULT_LIMITS, Limits

__all__ = [
    "HmacSigner",
    "HmacVerifier",
    "Signature",
    "Signer",
    "Trust",
    "Verifier",
    "bridge",
    "check_signature",
    "secret_variable",
    "signature_of",
]

ALGORITHM = "hmac-sha256"
_DEFAULT_KEY = (
    b"processfork-default-self-sign-key.v1"  # published with the original: it identifies, it does not protect
)
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_VARIABLES = {
    "hf": "PF_HF_REG_SIGN_KEY",
    "s3": "PF_S3_REG_SIGN_KEY",
    "ipfs": "PF_IPFS_REG_SIGN_KEY",
    "oci": "PF_OCI_REG_SIGN_KEY",
}


@dataclass(frozen=True, slots=True)
class Trust:
    """What a signature is worth.

    Parameters
    ----------
    status : {"verified", "unsigned"}
        ``unsigned`` for the published default key.
    by : str
        What it was checked against, for people: the name of a variable or of a key.
    reference : str or None
        Where a key says that the image was published, as :attr:`pfreg.Reference.address` spells it; a copy lies
        elsewhere.
    sequence : int or None
        Which publication there a key says it was, counted from 1. Whoever has seen a higher one sees a rollback.
    time : str or None
        When, in UTC, by the signer's clock: ``2026-01-02T03:04:05Z``.
    """

    status: Literal["verified", "unsigned"]
    by: str
    reference: str | None = None
    sequence: int | None = None
    time: str | None = None

    def __str__(self) -> str:
        text = f"{self.status} ({self.by})"
        return text if self.reference is None else f"{text}: {self.reference}, publication {self.sequence}, {self.time}"


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed ``manifest.json.sig``.

    Attributes
    ----------
    raw : bytes
        The file as it was received.
    manifest_digest : Digest
        The manifest that it says it signs.
    signature : str
        64 hexadecimal digits.
    bundle : str or None
        Signatures of real keys; see ``bundle.py``.
    previous : str or None
        The signature of the manifest that this one is about to replace, as the text of its file.
    """

    raw: bytes
    manifest_digest: Digest
    signature: str
    bundle: str | None = None
    previous: str | None = None

    @classmethod
    def from_bytes(cls, raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Signature:
        """Read a ``manifest.json.sig``.

        Raises
        ------
        SignatureError
            If it is malformed, too large, or of another algorithm.
        """
        try:
            value = strict_json.loads(raw, max_bytes=limits.signature_bytes, max_depth=limits.json_depth)
            return cls._from_json(raw, value)
        except IntegrityError as e:
            raise SignatureError(f"malformed signature: {e.problem}", operation="read signature") from None

    @classmethod
    def _from_json(cls, raw: bytes, value: Any) -> Signature:
        if not isinstance(value, dict):
            raise IntegrityError("not a JSON object")
        if value.get("algorithm") != ALGORITHM:
            raise SignatureError(f"algorithm {str(value.get('algorithm'))[:80]!r} is not {ALGORITHM}")
        names = ("manifest_digest", "signature", "bundle", "previous")
        digest, signature, bundle, previous = (value.get(name) for name in names)
        if not isinstance(digest, str) or not isinstance(signature, str) or not _HEX.match(signature):
            raise IntegrityError("manifest_digest and signature must be 64 lower-case hex digits")
        if not isinstance(bundle, str | None) or not isinstance(previous, str | None):
            raise IntegrityError("bundle and previous must be strings")
        return cls(bytes(raw), Digest(digest), signature, bundle, previous)


class Signer(Protocol):
    """Makes signatures."""

    def sign(self, manifest: bytes) -> bytes:
        """Return the ``manifest.json.sig`` of `manifest`."""
        ...


class Verifier(Protocol):
    """Judges signatures."""

    def verify(self, manifest: bytes, signature: Signature) -> Trust:
        """Return what `signature` is worth for `manifest`; raise :class:`~pfreg.SignatureError` if it is wrong."""
        ...


class HmacSigner:
    """Sign as the original does.

    Parameters
    ----------
    secret : str, optional
        The shared secret; the published default key without one.
    """

    def __init__(self, secret: str | None = None) -> None:
        self._key = _DEFAULT_KEY if secret is None else _key(secret)

    def __repr__(self) -> str:
        return f"HmacSigner({'default key' if self._key == _DEFAULT_KEY else 'secret'})"

    def sign(self, manifest: bytes) -> bytes:
        """Return the ``manifest.json.sig`` of `manifest`, byte for byte as the original writes it."""
        return strict_json.dumps(
            {
                "algorithm": ALGORITHM,
                "manifest_digest": hashlib.sha256(manifest).hexdigest(),
                "signature": _hmac(self._key, manifest),
            }
        )

    @classmethod
    def for_scheme(cls, scheme: str, *, environ: Mapping[str, str] | None = None) -> HmacSigner:
        """Return the signer that the environment asks for, for registries of `scheme`."""
        return cls(_secret(scheme, environ))


class HmacVerifier:
    """Verify what the original signs.

    Parameters
    ----------
    secret : str, optional
        The shared secret. Without one the default key is accepted, and reported as unsigned.
    name : str
        What to call the secret in results and errors.
    """

    def __init__(self, secret: str | None = None, *, name: str = "shared secret") -> None:
        self._key = None if secret is None else _key(secret)
        self._name = name

    def __repr__(self) -> str:
        return f"HmacVerifier({'default key' if self._key is None else self._name})"

    def verify(self, manifest: bytes, signature: Signature) -> Trust:
        """Return what `signature` is worth for `manifest`.

        Raises
        ------
        SignatureError
            If it was made with another key, or over other bytes.
        """
        key = _DEFAULT_KEY if self._key is None else self._key
        if hmac.compare_digest(_hmac(key, manifest), signature.signature):
            return Trust("unsigned", "published default key") if self._key is None else Trust("verified", self._name)
        if self._key is None:
            raise SignatureError("signed with a key that is not configured", hint=f"set its secret: {self._name}")
        raise SignatureError(f"not signed with the secret of {self._name}")

    @classmethod
    def for_scheme(cls, scheme: str, *, environ: Mapping[str, str] | None = None) -> HmacVerifier:
        """Return the verifier that the environment asks for, for registries of `scheme`."""
        return cls(_secret(scheme, environ), name=secret_variable(scheme))


def secret_variable(scheme: str) -> str:
    """Return the environment variable that holds the secret for registries of `scheme`."""
    return _VARIABLES.get(scheme, "PF_FILE_REG_SIGN_KEY")


def check_signature(
    manifest: bytes,
    signature: bytes,
    *,
    verifier: Verifier,
    require_signature: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Trust:
    """Verify `signature` over `manifest`, both as they were received.

    Raises
    ------
    SignatureError
        If it is malformed, of another manifest, of another key, or of the default key while `require_signature` is set.
    """
    parsed = Signature.from_bytes(signature, limits=limits)
    if parsed.manifest_digest != Digest.of(manifest):
        raise SignatureError(f"signs another manifest, {parsed.manifest_digest}")
    trust = verifier.verify(manifest, parsed)
    if require_signature and trust.status != "verified":
        raise SignatureError("only signed with the published default key, and a signature is required")
    return trust


def bridge(signature: bytes, there: bytes, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return `signature` with the one `there`, that of the manifest which is about to be replaced, as ``previous``.

    Where that is impossible, because one of them has another form or there is no room, it is `signature` as it is.
    """
    try:
        Signature.from_bytes(there, limits=limits)
        value = strict_json.loads(signature, max_bytes=limits.signature_bytes, max_depth=limits.json_depth)
        if not isinstance(value, dict):
            return signature
        both = strict_json.dumps({**value, "previous": there.decode("utf-8")})
    except (SignatureError, IntegrityError):
        return signature
    return both if len(both) <= limits.signature_bytes else signature


def signature_of(manifest: bytes, found: bytes, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return what the signature file `found` has to say about `manifest`.

    That is `found` itself; without its ``previous``, if it has one; or that ``previous``, if that is about `manifest`.
    """
    try:
        outer = Signature.from_bytes(found, limits=limits)
        if outer.previous is None:
            return found
        inner = outer.previous.encode("utf-8")
        if Signature.from_bytes(inner, limits=limits).manifest_digest == Digest.of(manifest) != outer.manifest_digest:
            return inner
    except SignatureError:
        return found
    value = strict_json.loads(found, max_bytes=limits.signature_bytes, max_depth=limits.json_depth)
    return strict_json.dumps({name: field for name, field in value.items() if name != "previous"})


def _hmac(key: bytes, manifest: bytes) -> str:
    return hmac.new(key, manifest, hashlib.sha256).hexdigest()


def _key(secret: str) -> bytes:
    if not isinstance(secret, str) or not secret:
        raise SignatureError("an empty secret signs nothing", hint="unset the variable, or give it a value")
    return secret.encode("utf-8")


def _secret(scheme: str, environ: Mapping[str, str] | None) -> str | None:
    return (os.environ if environ is None else environ).get(secret_variable(scheme))
