"""The environment layer (``env.v1``), without secrets.

Rules
-----
- Only what the caller gives is written; nothing is taken from the process.
- A variable whose name looks like a secret's, or whose value is a URL with a password, is written as ``<redacted>``.
  The original redacts fewer names; these are its own and what it overlooks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pfreg import strict_json
from pfreg.errors import BadOption

__all__ = ["KIND", "REDACTED", "build_environment"]

KIND = "env.v1"
REDACTED = "<redacted>"

_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:token|secret|pass|password|passwd|passphrase|pwd|pat|api_?key|access_?key|key|private|credential|auth"
    r"|bearer|cookie|jwt|dsn|salt|signature|session)s?(?:[_.-]|$)|(?:apikey|password|secret|token|passwd)$",
    re.IGNORECASE,
)
_URL_WITH_PASSWORD = re.compile(r"[A-Za-z0-9+.-]://[^/\s@:]*:[^/\s@]+@")  # linear, however long the value is


def build_environment(
    variables: Mapping[str, str] | None, *, cwd: str, redact: Sequence[str] = (), redact_secrets: bool = True
) -> bytes:
    """Return an environment layer.

    Parameters
    ----------
    variables : mapping of str to str, optional
        The variables.
    cwd : str
        The working directory to state.
    redact : sequence of str
        More names to redact, as regular expressions that are searched for.
    redact_secrets : bool
        Whether names that look like a secret's are redacted.

    Raises
    ------
    BadOption
        If a variable is not text, or a pattern is malformed.
    """
    try:
        patterns = [re.compile(pattern) for pattern in redact]
    except (re.error, TypeError) as e:
        raise BadOption(f"a pattern to redact is malformed: {e}") from None
    kept: dict[str, str] = {}
    for name, value in (variables or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise BadOption("environment variables are text")
        secret = redact_secrets and (_SECRET_NAME.search(name) or _URL_WITH_PASSWORD.search(value))
        kept[name] = REDACTED if secret or any(p.search(name) for p in patterns) else value
    return strict_json.dumps({"cwd": cwd, "kind": KIND, "vars": dict(sorted(kept.items()))})
