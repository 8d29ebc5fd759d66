"""The effects ledger (``effects.ledger.v1``): which tool calls an agent has made, chained so that none can be altered.

Rules
-----
- JSON lines under a header; each entry's ``session_hmac`` is HMAC-SHA256, under the session's secret, of the previous
  entry's hash and its own, both as hex. The hash of an entry is the sha256 of its JSON with an empty ``session_hmac``.
- The secret comes from ``PF_SESSION_SECRET`` and then stays outside; else a fresh one is embedded, which detects
  accidents, not attackers. So it is in the original.
- ``args_hash`` and ``result_hash`` look like digests and name no blobs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pfreg import strict_json
from pfreg.digest import Digest
from pfreg.errors import BadOption, IntegrityError
from pfreg.limits import DEFAULT_LIMITS, Limits
from pfreg.manifest import now

__all__ = ["KIND", "build_ledger", "verify_ledger"]

KIND = "effects.ledger.v1"
_FIELDS = ("ts", "tool_id", "args_hash", "idempotency_key", "result_hash", "side_effect_class", "session_hmac")
_CLASSES = ("pure", "idempotent", "irreversible", "network-only")
_EMPTY = str(Digest.of(b""))


def build_ledger(effects: Sequence[Mapping[str, str]], *, secret_hex: str | None = None) -> bytes:
    """Return the ledger of some tool calls.

    Parameters
    ----------
    effects : sequence of mapping
        Each has a ``tool_id``, and may have ``ts``, ``args_hash``, ``result_hash``, ``idempotency_key`` and
        ``side_effect_class`` (one of pure, idempotent, irreversible, network-only).
    secret_hex : str, optional
        The session's secret; ``$PF_SESSION_SECRET`` by default, else a fresh one that is embedded.

    Raises
    ------
    BadOption
        If an effect or the secret is malformed.
    """
    outside = os.environ.get("PF_SESSION_SECRET") if secret_hex is None else secret_hex
    header: dict[str, Any] = {"entries": len(effects), "kind": KIND}
    secret = outside or secrets.token_hex(32)
    if not outside:
        header |= {"session_secret_hex": secret, "verification_mode": "tamper-detection"}
    lines, previous = [strict_json.dumps(header)], ""
    for effect in effects:
        entry = _entry(effect)
        current = _hash(entry)
        entry["session_hmac"] = _chain(secret, previous, current)
        lines.append(strict_json.dumps(entry))
        previous = current
    return b"".join(line + b"\n" for line in lines)


def verify_ledger(raw: bytes, *, secret_hex: str | None = None, limits: Limits = DEFAULT_LIMITS) -> int:
    """Check the chain of a ledger; return how many entries it has.

    Raises
    ------
    IntegrityError
        If an entry was altered, removed or added, or if there is no secret to check it with.
    """
    lines = raw.splitlines()
    if not lines:
        raise IntegrityError("an empty ledger")
    header, *entries = (
        strict_json.loads(line, max_bytes=limits.layer_bytes, max_depth=limits.json_depth) for line in lines
    )
    if not isinstance(header, dict) or header.get("kind") != KIND or header.get("entries") != len(entries):
        raise IntegrityError(f"not a ledger of kind {KIND} with {len(entries)} entries")
    secret = header.get("session_secret_hex", secret_hex)
    if entries and not isinstance(secret, str):
        raise IntegrityError("the session's secret is kept elsewhere", hint="set PF_SESSION_SECRET")
    previous = ""
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("session_hmac"), str):
            raise IntegrityError(f"entry {number} of the ledger is malformed")
        current = _hash(entry)
        if not hmac.compare_digest(_chain(str(secret), previous, current), entry["session_hmac"]):
            raise IntegrityError(f"entry {number} of the ledger breaks the chain")
        previous = current
    return len(entries)


def _entry(effect: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(effect, Mapping) or not effect.get("tool_id"):
        raise BadOption("an effect is a mapping with a tool_id")
    unknown = set(effect) - set(_FIELDS) - {"ix"}
    if unknown:
        raise BadOption(f"an effect has no field {sorted(map(str, unknown))[0]!r}")
    entry = {
        "ts": now(),
        "tool_id": "",
        "args_hash": _EMPTY,
        "idempotency_key": "",
        "result_hash": _EMPTY,
        "side_effect_class": "irreversible",
        "session_hmac": "",
    }
    entry.update({field: effect[field] for field in _FIELDS if field in effect and field != "session_hmac"})
    if not all(isinstance(value, str) for value in entry.values()):
        raise BadOption("the fields of an effect are text")
    if entry["side_effect_class"] not in _CLASSES:
        raise BadOption(f"side_effect_class {entry['side_effect_class'][:80]!r} is none of {', '.join(_CLASSES)}")
    return entry


def _hash(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(strict_json.dumps({**entry, "session_hmac": ""})).hexdigest()


def _chain(secret_hex: str, previous: str, current: str) -> str:
    try:
        key = bytes.fromhex(secret_hex)
    except ValueError:
        raise BadOption("the session's secret is not hexadecimal") from None
    return hmac.new(key, (previous + current).encode("ascii"), hashlib.sha256).hexdigest()
