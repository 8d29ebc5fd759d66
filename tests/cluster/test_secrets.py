"""Nothing secret is to be seen of what travels through a cluster."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "a-token-of-the-cluster-0123456789"


def test_no_log_no_key_no_page(root: Path, leaf: str) -> None:
    """Everything that client, scheduler, workers and nannies print, keep or show, while tasks fail and workers die."""
    command = [sys.executable, "-m", "tests.cluster.failing", str(root.parent), leaf, SECRET]
    environ = os.environ | {"DASK_LOGGING__DISTRIBUTED": "debug"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown[-3000:]
    for expected in ("a failing copy fails: TransferError", "a dying copy ends well", "a verify fails", "Compute Failed",
                     "refused for ***", "'check', 'check', ", "marked as failed because 1 workers died", "info/task/check-", leaf):  # fmt: skip
        assert expected in shown
    assert SECRET not in shown
    for name in ("md5", "sha1", "sha256", "blake2b"):
        assert hashlib.new(name, SECRET.encode()).hexdigest() not in shown


@pytest.mark.parametrize("verb", ["move", "check"])
def test_a_key_says_nothing_about_the_options(verb: str) -> None:
    from dask.tokenize import tokenize

    from pfreg.distribution import Address, Batch
    from pfreg.limits import DEFAULT_LIMITS

    def token(options: dict[str, str], key: str) -> str:
        address = Address("s3://images/a", None, options, DEFAULT_LIMITS, None, ())
        return str(tokenize(*([address] * (2 if verb == "move" else 1)), Batch({}, {}, None, key)))

    assert token({"secret": SECRET}, "k") == token({"secret": "another"}, "k")
    assert token({}, "k") != token({}, "l")
