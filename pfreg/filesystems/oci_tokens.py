"""Proving to one registry who we are: credentials when it asks for them, tokens per scope, renewed in time.

Rules
-----
- Nothing is sent before the registry asked with a 401; then the header is sent with each request.
- A token is renewed before it ends, and when it is refused, also in the middle of a push. Many requests that need the
  same token wait for one to fetch it.
- A token service's answer is bounded, and its redirects are not followed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from pfreg.filesystems.oci_answers import answer_failure, read_bounded
from pfreg.filesystems.oci_auth import (
    MAX_TOKEN_ANSWER,
    BearerToken,
    Challenge,
    Credentials,
    Login,
    Token,
    read_challenge,
    read_token,
    token_request,
)
from pfreg.filesystems.oci_credentials import find_credentials

__all__ = ["Authorizer", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user chooses about registries.

    Parameters
    ----------
    credentials : Credentials or None
        Given as options; None to look in the environment and docker's configuration.
    plain_http : bool or None
        True: http. False: https. None: http for loopback, else https.
    token_realms : tuple of str
        Origins of token services, on other hosts than the registry, that may see the credentials.
    helper_timeout : float
        Seconds for a docker credential helper.
    deadline : float
        Seconds for which a failing request is tried again.
    chunk_bytes : int
        Bytes per PATCH of a chunked upload; 0 to send each blob in one PUT unless the registry refuses that.
    """

    credentials: Credentials | None = field(default=None, repr=False)
    plain_http: bool | None = None
    token_realms: tuple[str, ...] = ()
    helper_timeout: float = 30.0
    deadline: float = 120.0
    chunk_bytes: int = 0


class Authorizer:
    """What one registry accepts as proof.

    Parameters
    ----------
    host, origin : str
        The registry as in a reference, and as in its URLs.
    session : aiohttp.ClientSession
        For token services.
    settings : Settings
        The user's choices.
    """

    def __init__(self, host: str, origin: str, *, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._host = host
        self._origin = origin
        self._session = session
        self._settings = settings
        self._credentials = settings.credentials
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], Token] = {}
        self._lock = asyncio.Lock()

    async def header(self, scopes: tuple[str, ...]) -> str:
        """Return the header for the next request; empty before the registry asked, or when there is nothing to say."""
        challenge, credentials = self._challenge, self._credentials
        if challenge is None:
            return ""
        if isinstance(credentials, BearerToken):
            return f"Bearer {credentials.token}"
        if challenge.scheme == "basic":
            return credentials.basic if isinstance(credentials, Login) else ""
        token = self._tokens.get(scopes)
        if token is None or time.monotonic() >= token.renew_at:
            async with self._lock:
                token = self._tokens.get(scopes)
                if token is None or time.monotonic() >= token.renew_at:
                    token = self._tokens[scopes] = await self._fetch_token(challenge, scopes, credentials)
        return f"Bearer {token.value}"

    async def learn(self, response: aiohttp.ClientResponse, scopes: tuple[str, ...], used: str) -> None:
        """Take the challenge of a 401, find credentials for it, and forget a token that was refused."""
        challenge = read_challenge(response.headers.getall("WWW-Authenticate", []))
        if challenge is None:
            return
        async with self._lock:
            if self._challenge is None and self._credentials is None:
                seconds = self._settings.helper_timeout
                self._credentials = await asyncio.to_thread(
                    find_credentials, self._host, os.environ, helper_timeout=seconds
                )
            self._challenge = challenge
            token = self._tokens.get(scopes)
            if token and used == f"Bearer {token.value}":
                del self._tokens[scopes]

    async def _fetch_token(self, challenge: Challenge, scopes: Sequence[str], credentials: Credentials | None) -> Token:
        asked = token_request(
            challenge,
            scopes,
            credentials if not isinstance(credentials, BearerToken) else None,
            registry=self._origin,
            trusted_realms=self._settings.token_realms,
            plain_http=bool(self._settings.plain_http),
        )
        async with self._session.request(
            "POST" if asked.form else "GET",
            asked.url,
            params=asked.query,
            data=asked.form or None,
            headers={"Authorization": asked.authorization} if asked.authorization else None,
            allow_redirects=False,
        ) as response:
            where = f"{self._host} (token service)"
            if response.status != 200:
                raise await answer_failure(response, operation="authenticate", place=where)
            raw = await read_bounded(response, MAX_TOKEN_ANSWER)
            return read_token(raw, now=time.monotonic(), place=where)
