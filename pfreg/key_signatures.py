"""Signatures of manifests by real keys: who makes them, who judges them, and which of these a verb uses.

Rules
-----
- A signature by a key keeps the original's shape: its HMAC, which the original reads, and the key's in ``bundle``.
- Where keys are trusted only they count. The HMAC, and a signature without a bundle, are worth nothing then.
- What was signed for another reference is not refused, for copies keep signatures; :class:`Trust` says for which it was
  signed, and a :class:`KeyVerifier` that knows its reference, or the least sequence, refuses others.
- Sequences at a reference grow: a new one follows the highest that the key, or another trusted one, has signed there.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping, Sequence

from pfreg import strict_json
from pfreg.bundle import Sealed, Statement, seal, unseal
from pfreg.digest import Digest
from pfreg.errors import BadOption, SignatureError
from pfreg.keys import KeySource, PrivateKey, PublicKey, TrustedKeys, public_keys, trusted
from pfreg.limits import DEFAULT_LIMITS
from pfreg.signing import HmacSigner, HmacVerifier, Signature, Signer, Trust, Verifier

__all__ = ["KeySigner", "KeyVerifier", "next_sequence", "verifier_for"]


class KeySigner:
    """Sign with a key, and beside it as the original does.

    Parameters
    ----------
    key : path-like, bytes, PrivateKey or a private key of ``cryptography``
        See :meth:`pfreg.keys.PrivateKey.load`.
    reference : str
        Where the manifest is going to be published, as :attr:`pfreg.Reference.address` spells it.
    sequence : int
        Which publication there it is.
    time : datetime.datetime, optional
        When; now by default.
    hmac : Signer, optional
        Makes what the original reads; by default with the published default key.

    Raises
    ------
    BadKey
        If the key cannot be used.
    """

    def __init__(
        self,
        key: KeySource,
        *,
        reference: str,
        sequence: int = 1,
        time: datetime.datetime | None = None,
        hmac: Signer | None = None,
    ) -> None:
        self._key = PrivateKey.load(key)
        self._reference, self._sequence, self._time = reference, sequence, time
        self._hmac = HmacSigner() if hmac is None else hmac

    def __repr__(self) -> str:
        return f"KeySigner({self._key.public}, reference={self._reference!r}, sequence={self._sequence})"

    def sign(self, manifest: bytes) -> bytes:
        """Return the ``manifest.json.sig`` of `manifest`.

        Raises
        ------
        SignatureError
            If reference, sequence or time cannot be signed.
        """
        now = (self._time or datetime.datetime.now(datetime.timezone.utc)).astimezone(datetime.timezone.utc)
        time = now.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
        statement = Statement(Digest.of(manifest), self._reference, self._sequence, time)
        plain = self._hmac.sign(manifest)
        value = strict_json.loads(plain, max_bytes=len(plain), max_depth=DEFAULT_LIMITS.json_depth)
        return strict_json.dumps({**value, "bundle": seal(statement, self._key)})


class KeyVerifier:
    """Judge signatures by trusted keys, and by nothing else.

    Parameters
    ----------
    keys : sequence of keys
        See :meth:`pfreg.keys.PublicKey.load`; a single one will do.
    reference : str, optional
        The only reference that an image may have been signed for, as :attr:`pfreg.Reference.address` spells it. Without
        it an image that was published elsewhere is verified, too, and :class:`Trust` says where it was.
    min_sequence : int
        The least sequence; an older publication is refused.

    Raises
    ------
    BadKey
        If a key cannot be used, or there is none.
    """

    def __init__(self, keys: TrustedKeys, *, reference: str | None = None, min_sequence: int = 0) -> None:
        self._keys = public_keys(keys)
        self._reference, self._least = reference, min_sequence

    def __repr__(self) -> str:
        return f"KeyVerifier({', '.join(map(str, self._keys))})"

    def verify(self, manifest: bytes, signature: Signature) -> Trust:
        """Return which trusted key signed `manifest`, for which reference, as which publication there, and when.

        Raises
        ------
        SignatureError
            If none did.
        """
        if signature.bundle is None:
            raise SignatureError("not signed with a key, and only trusted keys count", hint=self._hint())
        try:
            vouched = unseal(signature.bundle, self._keys)
        except SignatureError as e:
            raise SignatureError(e.problem, hint=self._hint()) from None
        problems = [self._problem(sealed.statement, Digest.of(manifest)) for sealed in vouched]
        for sealed, problem in zip(vouched, problems, strict=True):
            if not problem:
                statement = sealed.statement
                return Trust("verified", str(sealed.key), statement.reference, statement.sequence, statement.time)
        raise SignatureError(problems[0])

    def _problem(self, statement: Statement, cid: Digest) -> str:
        if statement.manifest != cid:
            return f"signs another manifest, {statement.manifest}"
        if self._reference is not None and statement.reference != self._reference:
            return f"signed for another reference, {statement.reference}"
        if statement.sequence < self._least:
            return f"an older publication, {statement.sequence}, than {self._least}"
        return ""

    def _hint(self) -> str:
        return f"trusted: {', '.join(map(str, self._keys))}"


def verifier_for(
    scheme: str,
    *,
    verifier: Verifier | None = None,
    trusted_keys: TrustedKeys | None = None,
    environ: Mapping[str, str] | None = None,
) -> Verifier:
    """Return who judges the signatures of a registry.

    Parameters
    ----------
    scheme : str
        The registry's, for the secrets of the environment.
    verifier : Verifier, optional
        What a caller gave.
    trusted_keys : sequence of keys, optional
        What a caller gave; by default ``PFREG_TRUSTED_KEYS``.
    environ : mapping, optional
        The process's environment by default.

    Raises
    ------
    BadOption
        If both are given.
    BadKey
        If a key cannot be used.
    """
    if verifier is not None:
        if trusted_keys is not None:
            raise BadOption("verifier and trusted_keys both say who judges", hint="give one of them")
        return verifier
    keys = trusted(trusted_keys, environ=environ)
    return HmacVerifier.for_scheme(scheme, environ=environ) if keys is None else KeyVerifier(keys)


def next_sequence(found: bytes | None, reference: str, keys: Sequence[PublicKey]) -> int:
    """Return which publication at `reference` the next one is.

    Parameters
    ----------
    found : bytes or None
        The signature that is there.
    reference : str
        The reference.
    keys : sequence of PublicKey
        Whose word counts: what nobody of them has signed could be anything.
    """
    statements = [sealed.statement for sealed in _said(found, keys)]
    return 1 + max((said.sequence for said in statements if said.reference == reference), default=0)


def _said(found: bytes | None, keys: Sequence[PublicKey]) -> list[Sealed]:
    """Return what keys say in a signature, and in the one of the manifest that it was about to replace."""
    said: list[Sealed] = []
    while found is not None:
        try:
            signature = Signature.from_bytes(found)
        except SignatureError:
            break
        with contextlib.suppress(SignatureError):
            said += unseal(signature.bundle or "", keys)
        found = None if signature.previous is None else signature.previous.encode("utf-8")
    return said
