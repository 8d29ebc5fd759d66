"""Keys that sign manifests, and keys that are trusted: Ed25519 and ECDSA over P-256.

Rules
-----
- The key chooses the algorithm: Ed25519 (RFC 8032), or ECDSA over P-256 with SHA-256, in DER. Other kinds are refused.
- A private key is PEM (PKCS8, encrypted or not; SEC1) or in OpenSSH's own format; ``PFREG_KEY_PASSWORD`` has its
  password. A public key is SPKI in PEM, or one line of OpenSSH's. One file holds one key.
- A private key, its file's content and its password reach no ``repr``, error or pickle. Public keys are pickled whole.
- A private key where a public one is expected is refused, and the other way round.
- Files of keys are bounded. A private key that others may read is worth a warning.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pfreg.errors import BadKey

__all__ = [
    "KEY_PASSWORD",
    "TRUSTED_KEYS",
    "ExposedKey",
    "KeySource",
    "PrivateKey",
    "PublicKey",
    "TrustedKeys",
    "public_keys",
    "trusted",
]

KEY_PASSWORD = "PFREG_KEY_PASSWORD"  # noqa: S105 - a variable's name
"""The environment variable with the password of an encrypted private key."""
TRUSTED_KEYS = "PFREG_TRUSTED_KEYS"
"""The environment variable with paths of trusted public keys, separated as ``PATH`` is."""

_MAX_BYTES = 64 << 10  # real ones have 80 to 500
_OPENSSH = ("ssh-ed25519", "ecdsa-sha2-nistp256")
_WANT_PRIVATE = "expected a private key, Ed25519 or ECDSA P-256, as PEM (PKCS8) or in OpenSSH's format"
_WANT_PUBLIC = "expected one public key, Ed25519 or ECDSA P-256, as PEM (SPKI) or a line of OpenSSH's"


class ExposedKey(UserWarning):
    """Other users of the machine may read the file of a private key."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key.

    Parameters
    ----------
    algorithm : {"ed25519", "ecdsa-p256"}
        What its signatures are.
    spki : bytes
        The key as a SubjectPublicKeyInfo (RFC 5280) in DER.
    name : str
        What to call it, for people: the name of its file, or nothing.
    """

    algorithm: Literal["ed25519", "ecdsa-p256"]
    spki: bytes
    name: str = ""

    @classmethod
    def load(cls, source: KeySource) -> PublicKey:
        """Return the public key that `source` names, or is.

        Parameters
        ----------
        source : path-like, bytes, PublicKey or a public key of ``cryptography``
            A path; or the content of a file, which as text is known by how it begins.

        Raises
        ------
        BadKey
            If it is missing, unreadable, too large, private, or of another kind.
        """
        if isinstance(source, PublicKey):
            return source
        if isinstance(source, Ed25519PublicKey | EllipticCurvePublicKey):
            return cls._of(source, "")
        raw, place = _content(source, _WANT_PUBLIC)
        return cls._of(_parse_public(raw, place), os.path.basename(place), place)

    @classmethod
    def _of(cls, key: object, name: str, place: str = "") -> PublicKey:
        if isinstance(key, Ed25519PublicKey):
            return cls("ed25519", _der(key), name)
        if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            return cls("ecdsa-p256", _der(key), name)
        raise _bad(f"a public key of another kind, {_kind(key)}", place, _WANT_PUBLIC)

    @property
    def hint(self) -> str:
        """The base64 of the sha256 of the key in DER, as RFC 6962 and Sigstore name keys."""
        return base64.b64encode(hashlib.sha256(self.spki).digest()).decode("ascii")

    @property
    def pem(self) -> str:
        """The key as SPKI in PEM."""
        key = serialization.load_der_public_key(self.spki)
        return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def __str__(self) -> str:
        short = f"{self.algorithm} key {hashlib.sha256(self.spki).hexdigest()[:16]}"
        return f"{short}, {self.name}" if self.name else short

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Tell whether `signature` is this key's over `message`."""
        key = serialization.load_der_public_key(self.spki)
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, message)
            elif isinstance(key, EllipticCurvePublicKey):
                key.verify(signature, message, ECDSA(hashes.SHA256()))
            else:
                return False
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """A private key. It shows its public half only, and cannot be pickled.

    Parameters
    ----------
    key : private key of ``cryptography``
        Ed25519, or ECDSA over P-256.
    name : str
        What to call it, for people.

    Attributes
    ----------
    public : PublicKey
        Its public half.

    Raises
    ------
    BadKey
        If it is of another kind.
    """

    __slots__ = ("_key", "public")

    def __init__(self, key: object, *, name: str = "") -> None:
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
            self._key: Ed25519PrivateKey | EllipticCurvePrivateKey = key
        elif isinstance(key, Ed25519PrivateKey):
            self._key = key
        else:
            raise _bad(f"a private key of another kind, {_kind(key)}", name, _WANT_PRIVATE)
        self.public = PublicKey._of(self._key.public_key(), os.path.basename(name))

    @classmethod
    def load(cls, source: KeySource, *, environ: Mapping[str, str] | None = None) -> PrivateKey:
        """Return the private key that `source` names, or is.

        Parameters
        ----------
        source : path-like, bytes, PrivateKey or a private key of ``cryptography``
            A path; or the content of a file, which as text is known by how it begins.
        environ : mapping, optional
            Where the password is; the process's environment by default.

        Raises
        ------
        BadKey
            If it is missing, unreadable, too large, public, of another kind, or its password is missing or wrong.

        Warns
        -----
        ExposedKey
            If others may read its file.
        """
        if isinstance(source, PrivateKey):
            return source
        if isinstance(source, Ed25519PrivateKey | EllipticCurvePrivateKey):
            return cls(source)
        raw, place = _content(source, _WANT_PRIVATE, private=True)
        password = (os.environ if environ is None else environ).get(KEY_PASSWORD)
        return cls(_parse_private(raw, place, password), name=place)

    def sign(self, message: bytes) -> bytes:
        """Return this key's signature over `message`."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ECDSA(hashes.SHA256()))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled: let the other process load it")


KeySource = (
    str
    | os.PathLike[str]
    | bytes
    | PublicKey
    | PrivateKey
    | Ed25519PublicKey
    | EllipticCurvePublicKey
    | Ed25519PrivateKey
    | EllipticCurvePrivateKey
)
"""What names a key: a path, a file's content, or the key itself."""
TrustedKeys = KeySource | Sequence[KeySource]


def public_keys(keys: TrustedKeys) -> tuple[PublicKey, ...]:
    """Return the public keys that `keys` names; a single one will do.

    Raises
    ------
    BadKey
        If one of them is no public key, or there is none: that would trust nobody, or everybody.
    """
    if isinstance(keys, Sequence) and not isinstance(keys, str | bytes):
        if not keys:
            raise BadKey("an empty list of trusted keys", hint=_WANT_PUBLIC)
        return tuple(PublicKey.load(key) for key in keys)
    return (PublicKey.load(keys),)


def trusted(keys: TrustedKeys | None, *, environ: Mapping[str, str] | None = None) -> tuple[PublicKey, ...] | None:
    """Return the keys that are trusted, None where none are configured and every signature counts for what it is.

    Parameters
    ----------
    keys : sequence of keys, optional
        See :meth:`PublicKey.load`. By default the files that ``PFREG_TRUSTED_KEYS`` names.
    environ : mapping, optional
        The process's environment by default.

    Raises
    ------
    BadKey
        See :func:`public_keys`.
    """
    if keys is not None:
        return public_keys(keys)
    text = (os.environ if environ is None else environ).get(TRUSTED_KEYS)
    if text is None:
        return None
    paths = text.split(os.pathsep)
    if not all(paths):
        raise BadKey(f"{TRUSTED_KEYS} has an empty path", hint="unset it, or list files of public keys")
    return public_keys(paths)


# -- files -------------------------------------------------------------------------------------------------------


def _content(source: object, wanted: str, *, private: bool = False) -> tuple[bytes, str]:
    """Return the content of a key's file, and its path where it has one. Content given as such is never shown."""
    if isinstance(source, bytes):
        return _bounded(source, "", wanted), ""
    if isinstance(source, str) and ("\n" in source or source.startswith(("-----BEGIN", *(f"{n} " for n in _OPENSSH)))):
        return _bounded(source.encode("utf-8", "replace"), "", wanted), ""
    if not isinstance(source, str | os.PathLike):
        raise _bad(f"no key, but {type(source).__name__}", "", wanted)
    place = os.path.expanduser(os.fsdecode(source))
    try:
        with open(place, "rb") as stream:
            if private:
                _warn_if_exposed(os.fstat(stream.fileno()).st_mode, place)
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as e:
        raise _bad(f"cannot be read: {e.strerror or type(e).__name__}", place, wanted) from None
    except ValueError:
        raise _bad("no path", "", wanted) from None
    return _bounded(raw, place, wanted), place


def _bounded(raw: bytes, place: str, wanted: str) -> bytes:
    if len(raw) > _MAX_BYTES:
        raise _bad(f"more than {_MAX_BYTES} bytes", place, wanted)
    return raw


def _warn_if_exposed(mode: int, place: str) -> None:
    if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings.warn(ExposedKey(f"others may read the private key {place}: chmod 600"), stacklevel=2)


# -- formats -----------------------------------------------------------------------------------------------------


def _parse_public(raw: bytes, place: str) -> object:
    text = raw.strip()
    if b"PRIVATE KEY-----" in text:
        raise _bad("a private key", place, _WANT_PUBLIC)
    if text.count(b"-----BEGIN") > 1 or (text.startswith(b"ssh-") and b"\n" in text):
        raise _bad("more than one key", place, _WANT_PUBLIC)
    try:
        if text.startswith(b"-----BEGIN PUBLIC KEY-----"):
            return serialization.load_pem_public_key(text)
        if text.split(b" ")[0] in {name.encode("ascii") for name in _OPENSSH}:
            return serialization.load_ssh_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise _bad("no public key, or a damaged one", place, _WANT_PUBLIC) from None
    raise _bad("no public key", place, _WANT_PUBLIC)


def _parse_private(raw: bytes, place: str, password: str | None) -> object:
    if b"PUBLIC KEY-----" in raw or raw.startswith((b"ssh-", b"ecdsa-")):
        raise _bad("a public key", place, _WANT_PRIVATE)
    if b"SIGSTORE PRIVATE KEY" in raw or b"COSIGN PRIVATE KEY" in raw:
        raise _bad("cosign's own encrypted format", place, f"{_WANT_PRIVATE}; openssl genpkey and ssh-keygen make them")
    openssh = b"-----BEGIN OPENSSH PRIVATE KEY-----" in raw
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    problem = "no private key, or a damaged one"
    hint = f"{_WANT_PRIVATE}; {KEY_PASSWORD} has the password of an encrypted one"
    for secret in (None,) if password is None else (None, password.encode("utf-8", "surrogateescape")):
        try:
            return load(raw, secret)
        except TypeError:  # it is encrypted
            problem, hint = "encrypted", f"put its password into {KEY_PASSWORD}"
        except ValueError:
            if secret is not None:
                problem, hint = f"the password in {KEY_PASSWORD} is wrong, or the file damaged", ""
        except UnsupportedAlgorithm:
            problem = "of a kind, or an encryption, that cannot be read here"
    raise _bad(problem, place, hint)


def _der(key: Ed25519PublicKey | EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _kind(key: object) -> str:
    curve = getattr(getattr(key, "curve", None), "name", None)
    return f"ECDSA {curve}" if curve else type(key).__name__.removeprefix("_")


def _bad(problem: str, place: str, hint: str) -> BadKey:
    return BadKey(problem, operation="load key", place=place, hint=hint)
