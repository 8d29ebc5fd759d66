"""Signing and trusting with keys, verb by verb: what was signed is verified everywhere, and nothing else passes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

import pfreg
from pfreg.errors import BadKey, BadOption, IntegrityError, SignatureError
from pfreg.reference import locate, parse
from pfreg.signing import HmacSigner, HmacVerifier
from tests.conftest import make_tree
from tests.formats.images import says_one_line
from tests.formats.some_keys import ED25519, OTHER, P256, USABLE, innards, openssh, pkcs8, spki, write

SIGNATURE = "manifest.json.sig"

every_kind = pytest.mark.parametrize("kind", USABLE)


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PFREG_TRUSTED_KEYS", "PFREG_KEY_PASSWORD", "PF_FILE_REG_SIGN_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield str(tmp_path / "registry")
        return
    url = f"memory://signed/{abs(hash(request.node.nodeid))}"
    yield url
    fs = locate(url).fs
    if fs.exists(url):
        fs.rm(url, recursive=True)


@pytest.fixture
def store(tmp_path: Path) -> pfreg.Store:
    return pfreg.Store(tmp_path / "store")


@pytest.fixture
def image(store: pfreg.Store, tmp_path: Path) -> pfreg.Snapshotted:
    return pfreg.snapshot(make_tree(tmp_path / "tree", large=0), store=store)


@pytest.fixture
def other(store: pfreg.Store, tmp_path: Path) -> pfreg.Snapshotted:
    return pfreg.snapshot(make_tree(tmp_path / "other tree", seed=1, large=0), store=store)


def read(place: str, name: str = SIGNATURE) -> bytes:
    location = locate(place)
    return bytes(location.fs.cat_file(f"{location.path}/{name}"))


def put(place: str, content: bytes, name: str = SIGNATURE) -> None:
    location = locate(place)
    location.fs.pipe_file(f"{location.path}/{name}", content)


def verbs(place: str, tmp_path: Path, **asked: Any) -> dict[str, Callable[[], Any]]:
    """Return every verb that reads a registry, with what it is asked."""
    away = tmp_path / "away"
    return {
        "pull": lambda: pfreg.pull(place, store=away / "store", **asked),
        "clone": lambda: pfreg.clone(place, away / "clone", **asked),
        "copy": lambda: pfreg.copy(place, away / "copy", **asked),
        "verify": lambda: pfreg.verify(place, **asked),
        "inspect": lambda: pfreg.inspect(place, **asked),
        "prune": lambda: pfreg.prune(place, grace=0, dry_run=False, **asked),
        "open_image": lambda: pfreg.open_image(place, **asked),
        "pfimg": lambda: pfreg.PfimgFileSystem(fo=place, skip_instance_cache=True, **asked).ls(""),
    }


# -- the whole way -----------------------------------------------------------------------------------------------


@every_kind
def test_what_a_key_signed_passes_everywhere(
    kind: str, place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    private = write(tmp_path / "me.pem", pkcs8(USABLE[kind]))
    public = write(tmp_path / "me.pub", spki(USABLE[kind]))
    assert pfreg.push(image, place, store=store, signing_key=private).published
    for name, verb in verbs(place, tmp_path, trusted_keys=[public]).items():
        result = verb()
        trust = getattr(result, "trust", None)
        if name not in ("prune", "pfimg"):
            assert (trust.status, trust.reference, trust.sequence) == ("verified", parse(place).address, 1)
            assert ", me.pub" in trust.by
    assert pfreg.pull(place, store=tmp_path / "s", trusted_keys=public, require_signature=True).trust.sequence == 1
    assert pfreg.verify(place).trust == pfreg.Trust("unsigned", "published default key")  # as the original reads it


CHANGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "default key": lambda file, manifest: HmacSigner().sign(manifest),
    "secret": lambda file, manifest: HmacSigner("secret").sign(manifest),
    "stripped": lambda file, manifest: json.dumps({**json.loads(file), "bundle": None}).encode(),
    "unknown key": lambda file, manifest: pfreg.KeySigner(OTHER, reference="memory://x").sign(manifest),
    "another algorithm": lambda file, manifest: pfreg.KeySigner(P256, reference="memory://x").sign(manifest),
    "another manifest": lambda file, manifest: pfreg.KeySigner(ED25519, reference="memory://x").sign(b"{}"),
    "another bundle": lambda file, manifest: json.dumps(
        {
            **json.loads(file),
            "bundle": json.loads(pfreg.KeySigner(ED25519, reference="memory://x").sign(b"{}"))["bundle"],
        }
    ).encode(),
    "malformed bundle": lambda file, manifest: file.replace(b"mediaType", b"mediatype"),
    "another payload": lambda file, manifest: file.replace(b"eyJ", b"eyK"),
    "no signature": lambda file, manifest: b"{}",
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_else_passes_anywhere(
    change: str, place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, place, store=store, signing_key=ED25519)
    pfreg.verify(place, trusted_keys=[spki(ED25519)])
    file = CHANGES[change](read(place), image.manifest.raw)
    assert file != read(place)
    put(place, file)
    for verb in verbs(place, tmp_path, trusted_keys=[spki(ED25519)]).values():
        with pytest.raises(SignatureError) as caught:
            verb()
        assert says_one_line(caught.value)
    away = tmp_path / "away"
    assert not (away / "clone").exists() and not (away / "copy").exists()
    assert pfreg.Store(away / "store").images() == []


def test_the_environment_decides_where_nothing_else_does(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write(tmp_path / "a.pub", spki(ED25519))
    pfreg.push(image, place, store=store)
    monkeypatch.setenv("PFREG_TRUSTED_KEYS", str(key))
    for verb in verbs(place, tmp_path).values():
        with pytest.raises(SignatureError):
            verb()
    assert pfreg.verify(place, verifier=HmacVerifier()).trust.status == "unsigned"
    assert pfreg.open_image(place, verify=False).cid == image.cid
    with pytest.raises(SignatureError):
        pfreg.verify(place, trusted_keys=[spki(P256)])
    pfreg.push(image, place, store=store, signing_key=ED25519)
    for verb in verbs(place, tmp_path).values():
        verb()
    monkeypatch.setenv("PFREG_TRUSTED_KEYS", str(tmp_path / "missing"))
    for verb in verbs(place, tmp_path / "again").values():
        with pytest.raises(BadKey):
            verb()
    assert not (tmp_path / "again" / "away").exists()


def test_contradictions_are_mistakes(place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path) -> None:
    pfreg.push(image, place, store=store, signing_key=ED25519)
    before = read(place)
    both = {"verifier": HmacVerifier(), "trusted_keys": [spki(ED25519)]}
    mistakes = [
        *verbs(place, tmp_path, **both).values(),
        lambda: pfreg.push(image, place, store=store, signing_key=ED25519, signer=HmacSigner()),
        lambda: pfreg.push(image, place, store=store, trusted_keys=[spki(ED25519)]),
        lambda: pfreg.open_image(place, secret="s", trusted_keys=[spki(ED25519)]),
        lambda: pfreg.open_image(place, verify=False, trusted_keys=[spki(ED25519)]),
    ]
    for mistake in mistakes:
        with pytest.raises(BadOption) as caught:
            mistake()
        assert says_one_line(caught.value)
    assert not (tmp_path / "away").exists()
    assert read(place) == before


def test_bad_keys_are_mistakes_before_anything_is_touched(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    for wrong in (tmp_path / "missing", b"no key", [], spki(P256)[:-40], pkcs8(P256), ED25519):
        for verb in verbs(place, tmp_path, trusted_keys=wrong).values():
            with pytest.raises(BadKey):
                verb()
    for wrong in (tmp_path / "missing", b"no key", spki(P256), P256.public_key()):
        with pytest.raises(BadKey):
            pfreg.push(image, place, store=store, signing_key=wrong)
    assert not (tmp_path / "away").exists()
    assert not pfreg.exists(place)


# -- pushing -----------------------------------------------------------------------------------------------------


@every_kind
def test_pushing_again_with_the_same_key_publishes_nothing(
    kind: str, place: str, store: pfreg.Store, image: pfreg.Snapshotted
) -> None:
    key = USABLE[kind]
    assert pfreg.push(image, place, store=store, signing_key=key).published
    before = read(place)
    again = pfreg.push(image, place, store=store, signing_key=pkcs8(key))
    assert (again.published, again.sent, read(place)) == (False, 0, before)
    plain = pfreg.push(image, place, store=store)  # nor does one without a key take the key's signature away
    assert (plain.published, read(place)) == (False, before)


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "another manifest"])
def test_pushing_again_mends_whatever_else_is_there(
    change: str, place: str, store: pfreg.Store, image: pfreg.Snapshotted
) -> None:
    pfreg.push(image, place, store=store, signing_key=ED25519)
    put(place, CHANGES[change](read(place), image.manifest.raw))
    done = pfreg.push(image, place, store=store, signing_key=ED25519)
    assert (done.published, done.sent) == (True, 0)
    assert pfreg.verify(place, trusted_keys=[spki(ED25519)]).trust.status == "verified"
    assert not pfreg.push(image, place, store=store, signing_key=ED25519).published


def test_a_signature_for_another_reference_is_made_anew(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, tmp_path / "first", store=store, signing_key=ED25519)
    pfreg.copy(tmp_path / "first", place)
    assert pfreg.verify(place, trusted_keys=[spki(ED25519)]).trust.reference == parse(str(tmp_path / "first")).address
    assert pfreg.push(image, place, store=store, signing_key=ED25519).published
    trust = pfreg.verify(place, trusted_keys=[spki(ED25519)]).trust
    assert (trust.reference, trust.sequence) == (parse(place).address, 1)


def test_sequences_grow_at_a_reference(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, other: pfreg.Snapshotted
) -> None:
    def sequence() -> int | None:
        return pfreg.inspect(place, trusted_keys=[spki(ED25519), spki(P256)]).trust.sequence

    for number, pushed in enumerate([image, other, image, other], 1):
        assert pfreg.push(pushed, place, store=store, signing_key=ED25519).published
        assert sequence() == number
    pfreg.push(image, place, store=store, signing_key=P256, trusted_keys=[spki(ED25519)])
    assert sequence() == 5
    pfreg.push(other, place, store=store, signing_key=ED25519)  # which knows nothing of the other key
    assert sequence() == 1


def test_the_environment_says_whose_sequences_count(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pfreg.push(image, place, store=store, signing_key=ED25519)
    monkeypatch.setenv("PFREG_TRUSTED_KEYS", str(write(tmp_path / "a.pub", spki(ED25519))))
    pfreg.push(image, place, store=store, signing_key=P256)
    assert pfreg.inspect(place, trusted_keys=[spki(P256)]).trust.sequence == 2


def test_a_secret_and_a_key_sign_side_by_side(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", "secret")
    pfreg.push(image, place, store=store, signing_key=ED25519)
    assert pfreg.verify(place).trust == pfreg.Trust("verified", "PF_FILE_REG_SIGN_KEY")
    assert not pfreg.push(image, place, store=store, signing_key=ED25519).published
    monkeypatch.setenv("PF_FILE_REG_SIGN_KEY", "another")
    assert pfreg.verify(place, trusted_keys=[spki(ED25519)]).trust.status == "verified"
    assert pfreg.push(image, place, store=store, signing_key=ED25519).published


def test_an_encrypted_key_signs(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write(tmp_path / "id_ed25519", openssh(ED25519, b"correct horse"))
    with pytest.raises(BadKey):
        pfreg.push(image, place, store=store, signing_key=key)
    monkeypatch.setenv("PFREG_KEY_PASSWORD", "correct horse")
    pfreg.push(image, place, store=store, signing_key=key)
    assert pfreg.verify(place, trusted_keys=[spki(ED25519)]).trust.status == "verified"


def test_a_dry_run_signs_nothing(place: str, store: pfreg.Store, image: pfreg.Snapshotted) -> None:
    assert not pfreg.push(image, place, store=store, signing_key=ED25519, dry_run=True).published
    assert not pfreg.exists(place)


def test_while_one_image_replaces_another_both_are_verified(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, other: pfreg.Snapshotted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before the manifest is written: the old image, with its key's signature, is what is there."""
    pfreg.push(image, place, store=store, signing_key=ED25519)
    write_one = pfreg.registry.Registry._write

    def stop(self: Any, name: str, data: bytes) -> None:
        if name == "manifest.json":
            raise KeyboardInterrupt
        write_one(self, name, data)

    monkeypatch.setattr(pfreg.registry.Registry, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        pfreg.push(other, place, store=store, signing_key=ED25519)
    monkeypatch.undo()
    assert b"previous" in read(place)
    found = pfreg.verify(place, trusted_keys=[spki(ED25519)])
    assert (found.cid, found.trust.sequence) == (image.cid, 1)
    pfreg.push(other, place, store=store, signing_key=ED25519)
    found = pfreg.verify(place, trusted_keys=[spki(ED25519)])
    assert (found.cid, found.trust.sequence) == (other.cid, 3)  # 2 was signed, if never published


# -- copying -----------------------------------------------------------------------------------------------------


def test_a_copy_keeps_the_signature_and_its_reference(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, place, store=store, signing_key=P256)
    copied = pfreg.copy(place, tmp_path / "copy", trusted_keys=[spki(P256)])
    assert copied.trust.reference == parse(place).address
    assert (tmp_path / "copy" / SIGNATURE).read_bytes() == read(place)
    trust = pfreg.verify(tmp_path / "copy", trusted_keys=[spki(P256)]).trust
    assert trust.status == "verified" and trust.reference == parse(place).address
    strict = pfreg.KeyVerifier([spki(P256)], reference=parse(str(tmp_path / "copy")).address)
    with pytest.raises(SignatureError):
        pfreg.verify(tmp_path / "copy", verifier=strict)
    assert pfreg.verify(place, verifier=pfreg.KeyVerifier([spki(P256)], reference=parse(place).address)).trust == trust


@pytest.mark.parametrize("asked", [{}, {"trusted_keys": [spki(P256)]}], ids=["nobody judges", "keys judge"])
def test_a_copy_brings_the_signature_of_a_key_over_one_without(
    asked: Any, place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, tmp_path / "copy", store=store)
    pfreg.push(image, place, store=store, signing_key=P256)
    assert pfreg.copy(place, tmp_path / "copy", **asked).published
    assert (tmp_path / "copy" / SIGNATURE).read_bytes() == read(place)
    assert not pfreg.copy(place, tmp_path / "copy", **asked).published


def test_a_copy_of_what_the_same_key_signed_again_publishes_nothing(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    pfreg.push(image, place, store=store, signing_key=P256)
    pfreg.copy(place, tmp_path / "copy")
    before = (tmp_path / "copy" / SIGNATURE).read_bytes()
    put(place, pfreg.KeySigner(P256, reference=parse(place).address, sequence=2).sign(image.manifest.raw))
    assert not pfreg.copy(place, tmp_path / "copy", trusted_keys=[spki(P256)]).published
    assert (tmp_path / "copy" / SIGNATURE).read_bytes() == before
    assert pfreg.copy(place, tmp_path / "copy").published  # nobody here can tell that both are worth the same


# -- pfimg and stores --------------------------------------------------------------------------------------------


def mapped(fs: AbstractFileSystem) -> list[str]:
    return sorted(fs.ls("", detail=False))


def test_pfimg_urls_take_trusted_keys(place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path) -> None:
    pfreg.push(image, place, store=store, signing_key=ED25519)
    key = str(write(tmp_path / "a.pub", spki(ED25519)))
    url = f"pfimg://world/fs/README.md::{place if '://' in place else 'file://' + place}"
    with fsspec.open(url, pfimg={"trusted_keys": [key]}) as stream:
        assert stream.read() == b"# tree 0\n"
    with pytest.raises(SignatureError):
        fsspec.open(url, pfimg={"trusted_keys": [spki(P256).decode()]}).open()


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_pickle_and_json_take_the_keys_along(
    how: str, place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pfreg.push(image, place, store=store, signing_key=ED25519)
    right, wrong = write(tmp_path / "right.pub", spki(ED25519)), write(tmp_path / "wrong.pub", spki(P256))
    made = []
    for path in (right, wrong):
        if how == "environment":
            monkeypatch.setenv("PFREG_TRUSTED_KEYS", str(path))
            fs = pfreg.PfimgFileSystem(fo=place, skip_instance_cache=True)
        else:
            fs = pfreg.PfimgFileSystem(fo=place, trusted_keys=[str(path)], skip_instance_cache=True)
        made.append((pickle.dumps(fs), fs.to_json(), fs.to_json(include_password=False)))
        assert json.loads(made[-1][2])["trusted_keys"] == [path.read_text()]
    monkeypatch.delenv("PFREG_TRUSTED_KEYS", raising=False)
    right.unlink(), wrong.unlink()
    good, bad = made
    assert "manifest.json" in mapped(pickle.loads(good[0]))
    for text in good[1:]:
        assert "manifest.json" in mapped(AbstractFileSystem.from_json(text))
    with pytest.raises(SignatureError):
        mapped(pickle.loads(bad[0]))
    for text in bad[1:]:
        with pytest.raises(SignatureError):
            mapped(AbstractFileSystem.from_json(text))


def test_another_process_trusts_the_same_keys(store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path) -> None:
    pfreg.push(image, tmp_path / "root", store=store, signing_key=ED25519)
    program = "import pickle, sys; fs = pickle.load(sys.stdin.buffer); print(fs.image.trust.status)"
    for key, code in ((ED25519, 0), (P256, 1)):
        path = write(tmp_path / "k.pub", spki(key))
        fs = pfreg.PfimgFileSystem(fo=str(tmp_path / "root"), trusted_keys=[path], skip_instance_cache=True)
        pickled = pickle.dumps(fs)
        path.unlink()
        done = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True)
        assert done.returncode == code, done.stderr
        assert (b"verified" in done.stdout, b"SignatureError" in done.stderr) == (code == 0, code == 1)


def test_key_objects_are_pickled_as_what_they_are(place: str, store: pfreg.Store, image: pfreg.Snapshotted) -> None:
    pfreg.push(image, place, store=store, signing_key=P256)
    fs = pfreg.PfimgFileSystem(fo=place, trusted_keys=[P256.public_key()], skip_instance_cache=True)
    for taken in (pickle.loads(pickle.dumps(fs)), AbstractFileSystem.from_json(fs.to_json())):
        assert "manifest.json" in mapped(taken)


def test_an_image_in_a_store_is_known_by_its_cid_or_not_trusted(
    store: pfreg.Store, image: pfreg.Snapshotted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = f"{store.path}/images/{image.cid.hex}.json"
    monkeypatch.setenv("PFREG_TRUSTED_KEYS", str(write(tmp_path / "a.pub", spki(ED25519))))
    for asked in ({}, {"trusted_keys": [spki(P256)]}):
        with pytest.raises(IntegrityError) as caught:
            pfreg.open_image(path, **asked)
        assert says_one_line(caught.value)
        assert pfreg.open_image(path, expected_digest=image.cid, **asked).cid == image.cid
        assert pfreg.open_image(image.cid, store=store, **asked).trust is None
        assert pfreg.verify(image.cid, store=store, **asked).trust is None
        with pytest.raises(IntegrityError):
            pfreg.open_image(image.cid, store=store, expected_digest="sha256:" + "0" * 64, **asked)


# -- secrets -----------------------------------------------------------------------------------------------------


@every_kind
def test_a_private_key_is_in_no_file_result_or_error(
    kind: str, place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    key = USABLE[kind]
    shown: list[object] = [pfreg.push(image, place, store=store, signing_key=pkcs8(key))]
    shown += [verb() for verb in verbs(place, tmp_path, trusted_keys=[spki(key)]).values()]
    for verb in verbs(place, tmp_path / "more", trusted_keys=[pkcs8(key)]).values():
        with pytest.raises(BadKey) as caught:
            verb()
        shown += [caught.value, vars(caught.value), pickle.dumps(caught.value)]
    texts = [f"{thing} {thing!r}".encode() for thing in shown]
    texts += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    texts.append(read(place))
    assert not any(secret in text for secret in innards(key) for text in texts)


def test_threads_share_a_verifier(place: str, store: pfreg.Store, image: pfreg.Snapshotted) -> None:
    pfreg.push(image, place, store=store, signing_key=P256)
    verifier = pfreg.KeyVerifier([spki(P256)])
    found: list[str] = []

    def work() -> None:
        for _ in range(5):
            found.append(pfreg.inspect(place, verifier=verifier).trust.status)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["verified"] * 20


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_a_key_that_others_may_read_signs_with_a_warning(
    place: str, store: pfreg.Store, image: pfreg.Snapshotted, tmp_path: Path
) -> None:
    key = write(tmp_path / "key.pem", pkcs8(ED25519), 0o644)
    with pytest.warns(pfreg.ExposedKey):
        pfreg.push(image, place, store=store, signing_key=key)
    assert pfreg.exists(place)
