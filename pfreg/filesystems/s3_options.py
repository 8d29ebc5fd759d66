"""The options of s3fs, in obstore's words.

Rules
-----
- ``storage_options`` are written as pandas and dask users write them for s3fs, whichever library carries the bytes.
- What obstore would do differently, or not at all, is refused with the reason: a wrong guess would reach another
  server, or act as somebody else. That goes for credentials above all: only those are taken that are given here or in
  the environment, never a part of each.
- Options that only tune s3fs are left aside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

__all__ = ["Credentials", "Translation", "Untranslatable", "translate"]

Options = Mapping[str, Any]

_TUNING = frozenset(
    {
        "asynchronous", "cache_regions", "default_block_size", "default_cache_type", "default_fill_cache",
        "fixed_upload_size", "library", "listings_expiry_time", "local_expiry_check", "loop", "max_concurrency",
        "max_paths", "skip_instance_cache", "use_listings_cache",
    }
)  # fmt: skip
_NAMES = {"username": "key", "password": "secret"}
_UNDERSTOOD = frozenset(
    {"anon", "client_kwargs", "config_kwargs", "endpoint_url", "key", "requester_pays", "secret", "token", "use_ssl"}
)
_OFF: tuple[object, ...] = (None, False, "", {}, ())
_CLIENT = {
    "aws_access_key_id": "key",
    "aws_secret_access_key": "secret",
    "aws_session_token": "token",
    "endpoint_url": "endpoint_url",
    "region_name": "region",
    "use_ssl": "use_ssl",
}
_CONFIG = frozenset({"connect_timeout", "max_pool_connections", "read_timeout", "region_name", "retries", "s3"})
_QUIET_SECONDS = 60.0  # botocore's own bounds for connecting, and for an answer that stands still


class Untranslatable(ValueError):
    """These options mean something that obstore cannot do; the text says what."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What obstore asks for before it signs a request.

    Parameters
    ----------
    key, secret : str
        The two halves.
    token : str or None
        The session token of temporary ones.
    """

    key: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(repr=False, default=None)

    def __call__(self) -> dict[str, Any]:
        """Return them in obstore's form; they are never refreshed."""
        return {
            "access_key_id": self.key,
            "secret_access_key": self.secret,
            "token": self.token,
            "expires_at": None,
        }


@dataclass(frozen=True, slots=True)
class Translation:
    """How to make obstore's ``S3Store`` for any bucket.

    Parameters
    ----------
    credentials : Credentials or None
        None for anonymous requests.
    config, client, retry : mapping
        The arguments ``config``, ``client_options`` and ``retry_config`` of ``S3Store``.
    """

    credentials: Credentials | None
    config: Options
    client: Options
    retry: Options


def translate(options: Options, *, environ: Mapping[str, str] | None = None) -> Translation:
    """Say what `options`, meant for s3fs, mean to obstore.

    Parameters
    ----------
    options : mapping
        The ``storage_options``.
    environ : mapping, optional
        The environment; the process's own by default.

    Raises
    ------
    Untranslatable
        If they mean something that obstore does otherwise.
    """
    env = os.environ if environ is None else environ
    plain = _flattened(options)
    endpoint = plain.get("endpoint_url") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    region = plain.get("region") or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    credentials = None if plain.get("anon") else _credentials(plain, env)
    _check_files(env, known=bool(endpoint and region))
    if not endpoint and not region:
        raise Untranslatable("no region is given, and only s3fs asks a bucket for its own")
    config: dict[str, Any] = {
        "region": region or "us-east-1",
        "skip_signature": credentials is None,
        "checksum_algorithm": "SHA256",  # without one, a byte that changes on its way up is stored as it arrives
    }
    if endpoint:
        config["endpoint"] = _with_scheme(endpoint, plain)
    plaintext = str(config.get("endpoint", "")).startswith("http://")
    if env.get("AWS_CA_BUNDLE") and not plaintext:
        raise Untranslatable("AWS_CA_BUNDLE is set, and only s3fs reads it")
    config["virtual_hosted_style_request"] = _virtual(plain, endpoint)
    if plain.get("requester_pays"):
        config["request_payer"] = True
    client = {
        "allow_http": plaintext,
        "connect_timeout": _seconds(plain, "connect_timeout"),
        "read_timeout": _seconds(plain, "read_timeout"),
        "timeout": timedelta(days=1),  # of a whole body, however large; standing still is what is bounded
    }
    return Translation(credentials, config, client, _retry(plain))


def _flattened(options: Options) -> dict[str, Any]:
    """Return one level of names, after refusing what nobody here understands."""
    plain: dict[str, Any] = {}
    for name, value in options.items():
        name = _NAMES.get(name, name)
        if name in _TUNING or value in _OFF:
            continue
        if name not in _UNDERSTOOD:
            raise Untranslatable(f"obstore has nothing like the option {name}")
        if name not in ("client_kwargs", "config_kwargs"):
            plain[name] = value
    for name, value in dict(options.get("client_kwargs") or {}).items():
        if value in _OFF and name != "use_ssl":
            continue
        if name not in _CLIENT:
            raise Untranslatable(f"obstore has nothing like {name} in client_kwargs")
        plain.setdefault(_CLIENT[name], value)
    for name, value in dict(options.get("config_kwargs") or {}).items():
        if name not in _CONFIG:
            raise Untranslatable(f"obstore has nothing like {name} in config_kwargs")
        plain.setdefault("region" if name == "region_name" else name, value)
    if options.get("use_ssl") is False:
        plain["use_ssl"] = False
    return plain


def _credentials(plain: Options, env: Mapping[str, str]) -> Credentials:
    if plain.get("key") or plain.get("secret"):
        if not (plain.get("key") and plain.get("secret")):
            raise Untranslatable("only a part of the credentials is given")
        return Credentials(plain["key"], plain["secret"], plain.get("token"))
    if env.get("AWS_PROFILE") or env.get("AWS_DEFAULT_PROFILE"):
        raise Untranslatable("AWS_PROFILE is set, and only s3fs reads profiles")
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        token = env.get("AWS_SESSION_TOKEN") or env.get("AWS_SECURITY_TOKEN")
        return Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], token or None)
    raise Untranslatable("no credentials are given, and only s3fs looks for them in files and on the machine")


def _check_files(env: Mapping[str, str], *, known: bool) -> None:
    """Refuse where a file of settings may say something about endpoint or region, which only botocore reads."""
    path = os.path.expanduser(env.get("AWS_CONFIG_FILE") or "~/.aws/config")
    if not known and os.path.exists(path):
        raise Untranslatable("endpoint or region may be in a file of AWS settings, which only s3fs reads")


def _with_scheme(endpoint: str, plain: Options) -> str:
    endpoint = endpoint.rstrip("/")
    if "://" in endpoint:
        return endpoint
    return f"{'http' if plain.get('use_ssl') is False else 'https'}://{endpoint}"


def _virtual(plain: Options, endpoint: str | None) -> bool:
    """Tell whether the bucket goes into the host's name, as botocore decides it."""
    settings = dict(plain.get("s3") or {})
    style = settings.pop("addressing_style", None)
    if settings:
        raise Untranslatable(f"obstore has nothing like {min(settings)} in config_kwargs['s3']")
    if endpoint and style == "virtual":
        raise Untranslatable("obstore does not put a bucket before an endpoint's name by itself")
    return not endpoint and style != "path"


def _seconds(plain: Options, name: str) -> timedelta:
    return timedelta(seconds=float(plain.get(name, _QUIET_SECONDS)))


def _retry(plain: Options) -> dict[str, Any]:
    settings = dict(plain.get("retries") or {})
    settings.pop("mode", None)
    attempts = settings.pop("total_max_attempts", None)
    retries = settings.pop("max_attempts", 5 if attempts is None else int(attempts) - 1)
    if settings:
        raise Untranslatable(f"obstore has nothing like {min(settings)} in config_kwargs['retries']")
    return {
        "max_retries": int(retries),
        "retry_timeout": timedelta(minutes=3),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
    }
