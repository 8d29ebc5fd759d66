"""``--sign-key`` and ``--trust``: every command that reads a registry takes them, and mistakes are one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pfreg.reference import parse
from tests.cli.test_cli import Run, cid, mistake, ok, run  # noqa: F401 - fixtures
from tests.conftest import make_tree
from tests.formats.some_keys import ED25519, P256, UNUSABLE, innards, line, openssh, pkcs8, spki, write


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PFREG_TRUSTED_KEYS", "PFREG_KEY_PASSWORD", "PF_FILE_REG_SIGN_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(run: Run, cid: str, tmp_path: Path) -> Path:  # noqa: F811
    ok(run("push", cid, tmp_path / "root", "--sign-key", write(tmp_path / "me.pem", pkcs8(ED25519))))
    return tmp_path / "root"


def commands(root: Path, tmp_path: Path) -> dict[str, list[object]]:
    return {
        "pull": ["pull", root],
        "clone": ["clone", root, tmp_path / "clone"],
        "copy": ["copy", root, tmp_path / "copy"],
        "inspect": ["inspect", root],
        "verify": ["verify", root],
        "ls": ["ls", root],
        "cat": ["cat", root, "trace/messages.jsonl"],
        "diff": ["diff", root, root],
        "prune": ["prune", root],
    }


NAMES = list(commands(Path(), Path()))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_trusts_the_keys_it_is_told(name: str, run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    command = commands(root, tmp_path)[name]
    right, wrong = write(tmp_path / "right.pub", line(ED25519)), write(tmp_path / "wrong.pub", spki(P256))
    assert "trusted" in mistake(run(*command, "--trust", wrong), 4)
    assert "expected one public key" in mistake(run(*command, "--trust", tmp_path / "missing"))
    ok(run(*command, "--trust", wrong, "--trust", right))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_trusts_the_keys_of_the_environment(
    name: str,
    run: Run,  # noqa: F811
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = commands(root, tmp_path)[name]
    right, wrong = write(tmp_path / "right.pub", line(ED25519)), write(tmp_path / "wrong.pub", spki(P256))
    monkeypatch.setenv("PFREG_TRUSTED_KEYS", str(wrong))
    mistake(run(*command), 4)
    monkeypatch.setenv("PFREG_TRUSTED_KEYS", f"{wrong}{os.pathsep}{right}")
    ok(run(*command))


def test_it_says_who_signed_and_where(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    key = write(tmp_path / "alice.pub", spki(ED25519))
    for command in (["verify", root], ["inspect", root], ["pull", root]):
        text = ok(run(*command, "--trust", key))
        assert "verified" in text and ", alice.pub" in text and "published here, as number 1, 20" in text
    assert f"published at {parse(str(root)).address}, as number 1" in ok(
        run("clone", root, tmp_path / "c", "--trust", key)
    )
    assert "source published here, as number 1" in ok(run("copy", root, tmp_path / "copy", "--trust", key))
    text = ok(run("verify", tmp_path / "copy", "--trust", key))
    assert f"published at another reference, {parse(str(root)).address}, as number 1" in text
    trust = json.loads(ok(run("verify", root, "--trust", key, "--json")))["trust"]
    assert (trust["status"], trust["reference"], trust["sequence"]) == ("verified", parse(str(root)).address, 1)
    assert "as number" not in ok(run("verify", root))


def test_pushing_again_goes_on(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    ours, theirs = tmp_path / "me.pem", write(tmp_path / "they.pem", openssh(P256))
    public = write(tmp_path / "me.pub", spki(ED25519))
    cid = json.loads(ok(run("snapshot", make_tree(tmp_path / "more", seed=3, large=0), "--json")))["cid"]  # noqa: F811
    ok(run("push", cid, root, "--sign-key", ours))
    assert "as number 2" in ok(run("verify", root, "--trust", public))
    ok(run("push", cid, root, "--sign-key", theirs, "--trust", public))
    trusted = write(tmp_path / "they.pub", spki(P256))
    assert "as number 3" in ok(run("verify", root, "--trust", trusted))


def test_mistakes_are_one_line(
    run: Run,  # noqa: F811
    cid: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encrypted = write(tmp_path / "encrypted", openssh(ED25519, b"correct horse"))
    files = {
        "expected a private key": [
            tmp_path / "missing",
            tmp_path,
            write(tmp_path / "rsa", pkcs8(UNUSABLE["RSA"])),
            write(tmp_path / "p384", pkcs8(UNUSABLE["P-384"])),
            write(tmp_path / "public", spki(ED25519)),
            write(tmp_path / "damaged", pkcs8(ED25519)[:-50]),
        ],
        "PFREG_KEY_PASSWORD": [encrypted],
    }
    for hint, paths in files.items():
        for path in paths:
            text = mistake(run("push", cid, tmp_path / "root", "--sign-key", path))
            assert hint in text and str(path) in text
            assert not any(secret in text.encode() for secret in innards(ED25519))
    monkeypatch.setenv("PFREG_KEY_PASSWORD", "wrong horse")
    text = mistake(run("push", cid, tmp_path / "root", "--sign-key", encrypted))
    assert "password" in text and "wrong horse" not in text
    monkeypatch.setenv("PFREG_KEY_PASSWORD", "correct horse")
    ok(run("push", cid, tmp_path / "root", "--sign-key", encrypted))
    assert "signing_key" in mistake(run("push", cid, tmp_path / "root", "--trust", tmp_path / "public"))


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_an_exposed_key_is_a_warning_in_one_line(run: Run, cid: str, tmp_path: Path) -> None:  # noqa: F811
    code, _, err = run("push", cid, tmp_path / "root", "--sign-key", write(tmp_path / "k", pkcs8(P256), 0o644))
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("pfreg: warning: others may read")
