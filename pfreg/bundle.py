"""Signatures by keys, as they travel: an in-toto statement in a DSSE envelope in a Sigstore bundle. Pure.

Rules
-----
- The ``bundle`` field of a signature is the JSON text of an array of at most 16 Sigstore bundles of version 0.3, each
  with the hint of a public key and one DSSE envelope with one signature.
- What is signed is DSSE's pre-authentication encoding of payload and payload type. Nothing in a payload is parsed
  before that has been verified.
- A hint only finds the key among those that are trusted. The key says how it is verified; the file has no say in it.
- The statement is of our own predicate type, about exactly ``manifest.json``, and binds reference, sequence and time.
- Base64 is canonical, JSON strict, and everything bounded. A bundle of another kind is no error beside one that counts.

Sources: DSSE 1.0 (``secure-systems-lab/dsse``), in-toto Statement v1 (``in-toto/attestation``), Sigstore's
``sigstore_bundle.proto``.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pfreg import strict_json
from pfreg.digest import Digest
from pfreg.errors import IntegrityError, SignatureError
from pfreg.keys import PrivateKey, PublicKey
from pfreg.layout import MANIFEST

__all__ = ["BUNDLE_TYPE", "PAYLOAD_TYPE", "PREDICATE_TYPE", "Sealed", "Statement", "pae", "seal", "unseal"]

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:x-pfreg:publication:v1"
"""What the predicate says: that the subject was published at a reference, as which in a row, and when."""

_MAX_SEQUENCE = 2**53 - 1  # the largest integer that every reader of JSON keeps exactly
_MAX_BUNDLES = 16
_MAX_REFERENCE = 8192  # UTF-8 bytes
_MAX_PAYLOAD = 64 << 10
_MAX_DEPTH = 16
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a key signs: that a manifest was published at a reference.

    Parameters
    ----------
    manifest : Digest
        The digest of the manifest.
    reference : str
        Where it was published, as :attr:`pfreg.Reference.address` spells it.
    sequence : int
        Which publication at this reference it was, counted from 1.
    time : str
        When, in UTC: ``2026-01-02T03:04:05Z``.

    Raises
    ------
    SignatureError
        If one of them is not what it should be.
    """

    manifest: Digest
    reference: str
    sequence: int
    time: str

    def __post_init__(self) -> None:
        if not isinstance(self.reference, str) or not self.reference or not _fits(self.reference):
            raise SignatureError(f"the reference must be UTF-8 text of 1 to {_MAX_REFERENCE} bytes")
        if type(self.sequence) is not int or not 1 <= self.sequence <= _MAX_SEQUENCE:
            raise SignatureError(f"the sequence must be an integer from 1 to {_MAX_SEQUENCE}")
        if not isinstance(self.time, str) or not _is_time(self.time):
            raise SignatureError("the time must be UTC, such as 2026-01-02T03:04:05Z")

    def to_bytes(self) -> bytes:
        """Return the statement as it is signed."""
        subject = {"name": MANIFEST, "digest": {"sha256": self.manifest.hex}}
        predicate = {"reference": self.reference, "sequence": self.sequence, "time": self.time}
        return strict_json.dumps(
            {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE_TYPE, "predicate": predicate}
        )

    @classmethod
    def from_bytes(cls, payload: bytes) -> Statement:
        """Read a statement whose signature has been verified.

        Raises
        ------
        SignatureError, IntegrityError
            If it is another kind of statement, or malformed.
        """
        value = _object(strict_json.loads(payload, max_bytes=_MAX_PAYLOAD, max_depth=_MAX_DEPTH), "statement")
        if value.get("_type") != STATEMENT_TYPE or value.get("predicateType") != PREDICATE_TYPE:
            raise SignatureError("signs another kind of statement")
        subjects = value.get("subject")
        if not isinstance(subjects, list) or len(subjects) != 1:
            raise SignatureError("signs a statement that is not about exactly one subject")
        subject = _object(subjects[0], "subject")
        digest = _object(subject.get("digest"), "digest")
        if subject.get("name") != MANIFEST or list(digest) != ["sha256"]:
            raise SignatureError(f"signs a statement about something else than the sha256 of {MANIFEST}")
        about = _object(value.get("predicate"), "predicate")
        reference, sequence, time = (about.get(name) for name in ("reference", "sequence", "time"))
        return cls(Digest(digest["sha256"]), reference, sequence, time)  # type: ignore[arg-type]  # it looks itself


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a bundle says, and the trusted key whose signature over it was verified.

    Parameters
    ----------
    key : PublicKey
        The key.
    statement : Statement
        What it signed.
    """

    key: PublicKey
    statement: Statement


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return what is signed of a payload: DSSE's pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(statement: Statement, key: PrivateKey) -> str:
    """Return a ``bundle`` field with `key`'s signature over `statement`."""
    payload = statement.to_bytes()
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(key.sign(pae(payload))).decode("ascii")}],
    }
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}},
        "dsseEnvelope": envelope,
    }
    return strict_json.dumps([bundle]).decode("utf-8")


def unseal(field: str, keys: Sequence[PublicKey]) -> list[Sealed]:
    """Return what trusted keys have signed in a ``bundle`` field.

    Parameters
    ----------
    field : str
        The field; its size is bounded by that of the file it was in.
    keys : sequence of PublicKey
        The keys that are trusted.

    Raises
    ------
    SignatureError
        If the field is no array of bundles, or no bundle in it counts.
    """
    raw = field.encode("utf-8")
    try:
        bundles = strict_json.loads(raw, max_bytes=len(raw), max_depth=_MAX_DEPTH)
    except IntegrityError as e:
        raise SignatureError(f"malformed bundle: {e.problem}") from None
    if not isinstance(bundles, list) or not 1 <= len(bundles) <= _MAX_BUNDLES:
        raise SignatureError(f"malformed bundle: not an array of 1 to {_MAX_BUNDLES}")
    by_hint = {key.hint: key for key in keys}
    found: list[Sealed] = []
    problems: list[str] = []
    for bundle in bundles:
        try:
            found.append(_unsealed(bundle, by_hint))
        except IntegrityError as e:
            problems.append(f"malformed bundle: {e.problem}")
        except SignatureError as e:
            problems.append(e.problem)
    if not found:
        raise SignatureError("; ".join(list(dict.fromkeys(problems))[:3]))
    return found


def _unsealed(bundle: Any, by_hint: Mapping[str, PublicKey]) -> Sealed:
    """Return what a bundle says, once its signature has been verified over the bytes of its payload."""
    if not isinstance(bundle, dict) or bundle.get("mediaType") != BUNDLE_TYPE:
        raise SignatureError("a bundle of another kind")
    _exactly(bundle, "bundle", {"mediaType", "verificationMaterial", "dsseEnvelope"})
    material = _object(bundle["verificationMaterial"], "verificationMaterial")
    if "publicKey" not in material or {"certificate", "x509CertificateChain"} & material.keys():
        raise SignatureError("a bundle of a certificate, not of a key")
    hint = _exactly(material["publicKey"], "publicKey", {"hint"})["hint"]
    envelope = _exactly(bundle["dsseEnvelope"], "dsseEnvelope", {"payload", "payloadType", "signatures"})
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise SignatureError(f"the payload is not {PAYLOAD_TYPE}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise SignatureError("an envelope that has not exactly one signature")
    signature = _exactly(signatures[0], "signature", {"sig"}, {"keyid"})["sig"]
    payload, sig = _decoded(envelope["payload"]), _decoded(signature)
    key = by_hint.get(hint) if isinstance(hint, str) else None
    if key is None:
        raise SignatureError("signed with a key that is not trusted")
    if not key.verifies(sig, pae(payload)):
        raise SignatureError(f"not the signature of {key}")
    return Sealed(key, Statement.from_bytes(payload))


def _decoded(text: Any) -> bytes:
    """Decode standard base64; what it could be written otherwise is refused."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode("ascii") != text:
        raise IntegrityError("base64 that is empty, or not canonical")
    return data


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise IntegrityError(f"{name} is no JSON object")
    return value


def _exactly(value: Any, name: str, members: Set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    found = _object(value, name).keys()
    if not members <= found or found - members - optional:
        raise IntegrityError(f"{name} must have exactly {', '.join(sorted(members))}")
    return _object(value, name)


def _fits(reference: str) -> bool:
    try:
        return len(reference.encode("utf-8")) <= _MAX_REFERENCE
    except UnicodeEncodeError:
        return False


def _is_time(text: str) -> bool:
    try:
        return bool(_TIME.match(text)) and bool(datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return False
