"""Keys of every kind, in every format, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

ED25519 = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
OTHER = ed25519.Ed25519PrivateKey.generate()
USABLE = {"ed25519": ED25519, "ecdsa-p256": P256}
UNUSABLE = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "DSA": dsa.generate_private_key(1024),
}


def pkcs8(key: Any, password: bytes | None = None) -> bytes:
    """Return a private key as PEM, PKCS8."""
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _encryption(password)))


def sec1(key: Any) -> bytes:
    """Return a private key as ``EC PRIVATE KEY``, or what the like is called for its kind."""
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))


def openssh(key: Any, password: bytes | None = None) -> bytes:
    """Return a private key in OpenSSH's format."""
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, _encryption(password)))


def spki(key: Any) -> bytes:
    """Return the public half as PEM, SPKI."""
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def line(key: Any) -> bytes:
    """Return the public half as OpenSSH's one line."""
    return bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)) + b" alice@example.org\n"


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """Write the file of a key."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def innards(key: Any) -> list[bytes]:
    """Return what must not show of a private key: its secret number, and its PEM's body."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    else:
        raw = key.private_numbers().private_value.to_bytes(32, "big")
    return [raw, raw.hex().encode(), *(text for text in pkcs8(key).splitlines() if not text.startswith(b"---"))]


def _encryption(password: bytes | None) -> Any:
    return NoEncryption() if password is None else BestAvailableEncryption(password)
