"""What a registry asks for when it answers 401, and what it may be told: rules without any I/O.

Rules
-----
- Credentials go to the origin (scheme, host and port) of the registry, and to no other: a token service elsewhere gets
  them only if the user named its origin, or it is the known one of a public registry.
- Plain http carries nothing, unless the registry is spoken to over http anyway (loopback, or ``plain_http=True``).
- A token is asked for the scopes of the request at hand, never for what the challenge names: a registry could otherwise
  have us fetch tokens for somebody else's repository.
- Secrets are in no ``repr`` and no error.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pfreg.errors import AccessDenied, TransferError
from pfreg.filesystems.oci_path import is_loopback

__all__ = [
    "BearerToken",
    "Challenge",
    "Credentials",
    "IdentityToken",
    "Login",
    "Token",
    "TokenRequest",
    "may_speak",
    "origin",
    "read_challenge",
    "read_token",
    "token_request",
]

MAX_TOKEN_ANSWER = 1 << 18
"""Bytes of a token service's answer that are read."""

_DEFAULT_LIFE = 60
_LONGEST_LIFE = 24 * 3600
_EARLY = 0.2  # a token is renewed when a fifth of its life is left: an upload must not outlive it
_KNOWN_REALMS = {"https://registry-1.docker.io": "https://auth.docker.io"}
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN_TEXT = re.compile(r"[\x21-\x7e]{1,65536}\Z")


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token that the registry takes as it is."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """A long-lived token that a token service exchanges for others, as ``docker login`` stores it."""

    token: str = field(repr=False)


Credentials = Login | BearerToken | IdentityToken


@dataclass(frozen=True, slots=True)
class Challenge:
    """One ``WWW-Authenticate``: its scheme in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """How a token service is asked: GET with `query`, or POST with `form` if there is one."""

    url: str
    query: tuple[tuple[str, str], ...] = ()
    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A token for one set of scopes.

    Parameters
    ----------
    value : str
        Goes after ``Bearer``.
    renew_at : float
        Seconds on the clock that :func:`read_token` was given.
    """

    value: str = field(repr=False)
    renew_at: float


def origin(url: str) -> str:
    """Return scheme, host and port of `url`, spelled in one way."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    default = (parts.scheme, port) in (("http", 80), ("https", 443))
    return f"{parts.scheme}://{host}" if default else f"{parts.scheme}://{host}:{port}"


def may_speak(url: str, *, registry: str, plain_http: bool) -> bool:
    """Whether a registry may send us to `url`: https always, http only if the registry itself is not better.

    Parameters
    ----------
    url : str
        Target of a redirect, an upload location or a token service.
    registry : str
        Origin of the registry.
    plain_http : bool
        Whether the user allowed http beyond this machine.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and registry.startswith("http:") and (plain_http or is_loopback(parts.hostname))


def read_challenge(headers: Sequence[str]) -> Challenge | None:
    """Return the challenge to answer among the ``WWW-Authenticate`` headers: bearer rather than basic, or None."""
    found: dict[str, Challenge] = {}
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        parameters = {m[1].lower(): m[2] if m[2] is not None else m[3] for m in _PARAMETER.finditer(rest)}
        found.setdefault(scheme.lower(), Challenge(scheme.lower(), parameters))
    return found.get("bearer") or found.get("basic")


def token_request(
    challenge: Challenge,
    scopes: Sequence[str],
    credentials: Login | IdentityToken | None,
    *,
    registry: str,
    trusted_realms: Collection[str],
    plain_http: bool,
) -> TokenRequest:
    """Return how to ask the token service of a challenge for a token.

    Parameters
    ----------
    challenge : Challenge
        A bearer challenge.
    scopes : sequence of str
        Such as ``repository:team/img:pull,push``.
    credentials : Login or IdentityToken or None
        What the user has for this registry.
    registry : str
        Origin of the registry.
    trusted_realms : collection of str
        Origins of other hosts that may see the credentials.
    plain_http : bool
        Whether the user allowed http beyond this machine.

    Raises
    ------
    AccessDenied
        If the service is elsewhere, and the credentials must not go there.
    """
    realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
    if not realm.isprintable() or not may_speak(realm, registry=registry, plain_http=plain_http):
        raise AccessDenied("the registry names a token service that is not reached over https", place=registry)
    known = {registry, _KNOWN_REALMS.get(registry), *(origin(url) for url in trusted_realms)}
    if credentials is not None and origin(realm) not in known:
        raise AccessDenied(
            f"the registry sends us to {origin(realm)}, which may not see the credentials of the registry",
            place=registry,
            hint=f"if that is its token service, pass token_realms=[{origin(realm)!r}]",
        )
    asked = (("service", service), *(("scope", scope) for scope in scopes))
    if isinstance(credentials, IdentityToken):
        # OAuth2 has one scope parameter, with spaces between the scopes.
        form = (("grant_type", "refresh_token"), ("service", service), ("scope", " ".join(scopes)))
        return TokenRequest(realm, form=(*form, ("client_id", "pfreg"), ("refresh_token", credentials.token)))
    return TokenRequest(realm, query=asked, authorization=credentials.basic if credentials else "")


def read_token(raw: bytes, *, now: float, place: str) -> Token:
    """Read a token service's answer.

    Raises
    ------
    TransferError
        If it holds no token.
    """
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    fields = answer if isinstance(answer, dict) else {}
    value = fields.get("token") or fields.get("access_token")
    if not isinstance(value, str) or not _TOKEN_TEXT.match(value):
        raise TransferError("the token service's answer holds no token", operation="authenticate", place=place)
    life = fields.get("expires_in")
    seconds = life if isinstance(life, (int, float)) and 0 < life <= _LONGEST_LIFE else _DEFAULT_LIFE
    return Token(value, now + seconds * (1 - _EARLY))
