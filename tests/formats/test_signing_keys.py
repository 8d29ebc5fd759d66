"""Signatures by keys: the format byte for byte, and everything that is not exactly it, which never counts."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg.bundle import Statement, pae, seal, unseal
from pfreg.digest import Digest
from pfreg.errors import SignatureError
from pfreg.key_signatures import KeySigner, KeyVerifier, next_sequence, verifier_for
from pfreg.keys import PrivateKey
from pfreg.reference import parse
from pfreg.signing import HmacSigner, HmacVerifier, Signature, Trust, bridge, check_signature, signature_of
from tests.formats.images import compact, says_one_line
from tests.formats.some_keys import ED25519, OTHER, P256, USABLE, line, spki

MANIFEST = b'{"any":"bytes, for the signature comes before parsing"}'
HEX = hashlib.sha256(MANIFEST).hexdigest()
REFERENCE = "s3://bucket/agents/a"
TIME = "2026-01-02T03:04:05Z"
WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"

every_kind = pytest.mark.parametrize("kind", USABLE)


def signer(key: Any = ED25519, **options: Any) -> KeySigner:
    return KeySigner(key, **{"reference": REFERENCE, "time": WHEN, **options})


def judged(signature: bytes, *keys: Any, manifest: bytes = MANIFEST, **options: Any) -> Trust:
    verifier = KeyVerifier([key.public_key() for key in keys or (ED25519,)], **options)
    return check_signature(manifest, signature, verifier=verifier)


def refused(signature: bytes, *keys: Any, **options: Any) -> SignatureError:
    with pytest.raises(SignatureError) as caught:
        judged(signature, *keys, **options)
    assert says_one_line(caught.value)
    return caught.value


def statement(**fields: Any) -> dict[str, Any]:
    made = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "manifest.json", "digest": {"sha256": HEX}}],
        "predicateType": "urn:x-pfreg:publication:v1",
        "predicate": {"reference": REFERENCE, "sequence": 1, "time": TIME},
    }
    made.update(fields)
    return {name: value for name, value in made.items() if value is not ...}


def sealed(payload: bytes, key: Any = ED25519, *, kind: str = PAYLOAD, signed: bytes | None = None) -> dict[str, Any]:
    """Return a bundle in which everything is right, except perhaps what was signed."""
    private = PrivateKey.load(key)
    signature = private.sign(pae(payload, kind) if signed is None else signed)
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": private.public.hint}},
        "dsseEnvelope": {"payload": b64(payload), "payloadType": kind, "signatures": [{"sig": b64(signature)}]},
    }


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def good() -> dict[str, Any]:
    return sealed(compact(statement()))


def with_field(field: Any) -> bytes:
    value = json.loads(HmacSigner().sign(MANIFEST))
    return compact(value if field is ... else {**value, "bundle": field})


def with_bundles(*bundles: Any) -> bytes:
    return with_field(compact(list(bundles)).decode())


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    bundle = good()
    change(bundle)
    return with_bundles(bundle)


# -- the format --------------------------------------------------------------------------------------------------


@every_kind
def test_the_file_is_this_byte_for_byte(kind: str) -> None:
    file = signer(USABLE[kind], sequence=7).sign(MANIFEST)
    value = json.loads(file)
    assert file.startswith(HmacSigner().sign(MANIFEST)[:-1] + b',"bundle":"')
    assert list(value) == ["algorithm", "manifest_digest", "signature", "bundle"]
    payload = compact(statement(predicate={"reference": REFERENCE, "sequence": 7, "time": TIME}))
    (bundle,) = json.loads(value["bundle"])
    sig = bundle["dsseEnvelope"]["signatures"][0].pop("sig")
    assert bundle == {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": PrivateKey.load(USABLE[kind]).public.hint}},
        "dsseEnvelope": {"payload": b64(payload), "payloadType": PAYLOAD, "signatures": [{}]},
    }
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    assert PrivateKey.load(USABLE[kind]).public.verifies(base64.b64decode(sig), signed)
    assert value["bundle"].encode() == compact(
        [{**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "signatures": [{"sig": sig}]}}]
    )


def test_dsses_own_example_of_what_is_signed() -> None:
    assert pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_ed25519_signs_the_same_alike() -> None:
    assert signer().sign(MANIFEST) == signer().sign(MANIFEST) == with_bundles(good())


@every_kind
@pytest.mark.parametrize("secret", [None, "shared"])
def test_what_a_key_signed_is_verified_and_told(kind: str, secret: str | None) -> None:
    file = signer(USABLE[kind], sequence=3, hmac=HmacSigner(secret)).sign(MANIFEST)
    key = PrivateKey.load(USABLE[kind]).public
    assert judged(file, USABLE[kind]) == Trust("verified", str(key), REFERENCE, 3, TIME)
    assert judged(file, OTHER, USABLE[kind]) == judged(file, USABLE[kind], OTHER)
    assert check_signature(MANIFEST, file, verifier=KeyVerifier(line(USABLE[kind])), require_signature=True)
    status = check_signature(MANIFEST, file, verifier=HmacVerifier(secret, name="s")).status
    assert status == ("unsigned" if secret is None else "verified")


def test_the_time_is_now_in_utc() -> None:
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    trust = judged(KeySigner(ED25519, reference=REFERENCE).sign(MANIFEST))
    assert trust.time is not None and trust.time.endswith("Z")
    assert before <= datetime.datetime.fromisoformat(trust.time.replace("Z", "+00:00"))
    eastern = WHEN.astimezone(datetime.timezone(datetime.timedelta(hours=-5)))
    assert judged(signer(time=eastern).sign(MANIFEST)).time == TIME


@given(
    reference=st.text(min_size=1, max_size=200),
    sequence=st.integers(1, 2**53 - 1),
    time=st.datetimes(min_value=datetime.datetime(1, 1, 1), timezones=st.just(datetime.timezone.utc)),
    manifest=st.binary(max_size=300),
    kind=st.sampled_from(list(USABLE)),
)
def test_whatever_is_signed_is_told(reference: str, sequence: int, time: Any, manifest: bytes, kind: str) -> None:
    made = signer(USABLE[kind], reference=reference, sequence=sequence, time=time)
    try:
        file = made.sign(manifest)
    except SignatureError:
        assert any("\ud800" <= c <= "\udfff" for c in reference)
        return
    trust = judged(file, USABLE[kind], manifest=manifest)
    told = f"{time.year:04}-{time:%m-%dT%H:%M:%S}Z"
    assert (trust.status, trust.reference, trust.sequence, trust.time) == ("verified", reference, sequence, told)
    assert Signature.from_bytes(file).manifest_digest == Digest.of(manifest)


@pytest.mark.parametrize(
    "options",
    [
        {"reference": ""}, {"reference": "x" * 8193}, {"reference": "\udc80"}, {"reference": None},
        {"sequence": 0}, {"sequence": -1}, {"sequence": 2**53}, {"sequence": True}, {"sequence": 1.0},
    ],
)  # fmt: skip
def test_what_cannot_be_bound_is_not_signed(options: dict[str, Any]) -> None:
    with pytest.raises(SignatureError) as caught:
        signer(**options).sign(MANIFEST)
    assert says_one_line(caught.value)


# -- what does not count -----------------------------------------------------------------------------------------


def extra_signature(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] *= 2


def other_signature(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] += sealed(compact(statement()), OTHER)["dsseEnvelope"]["signatures"]


def envelope(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda bundle: bundle["dsseEnvelope"].update(fields)


def respelled(change: Callable[[str], str], *, sig: bool) -> Callable[[dict[str, Any]], object]:
    def apply(bundle: dict[str, Any]) -> None:
        place, name = (bundle["dsseEnvelope"]["signatures"][0], "sig") if sig else (bundle["dsseEnvelope"], "payload")
        place[name] = change(place[name])

    return apply


def loose_bits(text: str) -> str:
    """Set bits of the last character that stand for nothing."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    body = text.rstrip("=")
    assert body != text
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + text[len(body) :]


RESPELLED: dict[str, Callable[[str], str]] = {
    "loose bits": loose_bits,
    "no padding": lambda text: text.rstrip("="),
    "more padding": lambda text: text + "=",
    "a newline": lambda text: text + "\n",
    "a newline inside": lambda text: text[:8] + "\n" + text[8:],
    "a blank": lambda text: " " + text,
    "a character of no alphabet": lambda text: text[:8] + "!" + text[8:],
    "beyond ASCII": lambda text: text + "é",
    "nothing": lambda text: "",
    "other letters for the same": lambda text: text.replace("+", "-").replace("/", "_") + "-",
}
BY_OTHER = sealed(compact(statement()), OTHER)
HINT = PrivateKey.load(ED25519).public.hint


def loosened() -> dict[str, Any]:
    """Return a bundle whose payload ends in a character with bits to spare."""
    payload = compact(statement())
    bundle = sealed(payload if len(payload) % 3 else payload + b" ")
    respelled(loose_bits, sig=False)(bundle)
    return bundle


def forged_hint() -> dict[str, Any]:
    return {**BY_OTHER, "verificationMaterial": {"publicKey": {"hint": HINT}}}


HOSTILE: dict[str, bytes] = {
    "stripped": HmacSigner().sign(MANIFEST),
    "stripped, with a secret's HMAC": HmacSigner("secret").sign(MANIFEST),
    "null": with_field(None),
    "no JSON": with_field("bundle"),
    "empty": with_field(""),
    "no array": with_field(compact(good()).decode()),
    "an empty array": with_field("[]"),
    "more bundles than anybody needs": with_bundles(*[good()] * 17),
    "JSON twice": with_field(compact([good()]).decode() * 2),
    "JSON cut off": with_field(compact([good()]).decode()[:-1]),
    "absurd depth": with_field("[" * 50_000),
    "NaN": with_field(compact([good()]).decode()[:-2] + ',"x":NaN}]'),
    "a lone surrogate": with_field(compact([good()]).decode()[:-2] + ',"x":"\\ud800"}]'),
    "duplicate envelope": with_field(
        compact([good()]).decode()[:-2] + ',"dsseEnvelope":' + compact(good()["dsseEnvelope"]).decode() + "}]"
    ),
    "an unknown key": with_bundles(BY_OTHER),
    "an unknown key under a trusted hint": with_bundles(forged_hint()),
    "another algorithm under a trusted hint": with_bundles(
        {**sealed(compact(statement()), P256), "verificationMaterial": {"publicKey": {"hint": HINT}}}
    ),
    "no hint": changed(lambda b: b["verificationMaterial"]["publicKey"].clear()),
    "a hint that is none": changed(lambda b: b["verificationMaterial"]["publicKey"].update(hint=[HINT])),
    "a hint and a key": changed(lambda b: b["verificationMaterial"]["publicKey"].update(rawBytes=HINT)),
    "a certificate": changed(lambda b: b["verificationMaterial"].update(certificate={"rawBytes": ""})),
    "certificates": changed(lambda b: b["verificationMaterial"].update(x509CertificateChain={"certificates": []})),
    "no material": changed(lambda b: b.pop("verificationMaterial")),
    "material of another type": changed(lambda b: b.update(verificationMaterial=[])),
    "a message signature beside": changed(lambda b: b.update(messageSignature={})),
    "no envelope": changed(lambda b: b.pop("dsseEnvelope")),
    "an envelope of another type": changed(lambda b: b.update(dsseEnvelope="x")),
    "an envelope with an algorithm": changed(envelope(algorithm="none")),
    **{
        f"media type {kind!r}": changed(lambda b, kind=kind: b.update(mediaType=kind))  # type: ignore[misc]
        for kind in (
            None, "", "application/json", BUNDLE.replace("0.3", "0.2"), BUNDLE.upper(), BUNDLE + " ",
            "application/vnd.dev.sigstore.bundle+json;version=0.3",
        )
    },
    "no bundle but a string": with_bundles("bundle"),
    "no bundle but a list": with_bundles([good()]),
    "no bundle but null": with_bundles(None),
    "no signatures": changed(envelope(signatures=[])),
    "signatures of another type": changed(envelope(signatures={"sig": "x"})),
    "the same signature twice": changed(extra_signature),
    "another's signature beside": changed(other_signature),
    "a signature of another type": changed(envelope(signatures=["sig"])),
    "a signature with an algorithm": changed(lambda b: b["dsseEnvelope"]["signatures"][0].update(alg="none")),
    "a signature of zeros": changed(respelled(lambda text: b64(bytes(64)), sig=True)),
    "a signature of a bit less": changed(respelled(lambda text: b64(base64.b64decode(text)[:-1]), sig=True)),
    "a signature of a bit more": changed(respelled(lambda text: b64(base64.b64decode(text) + b"\0"), sig=True)),
    "a payload of another type": changed(envelope(payload={})),
    **{f"signature: {name}": changed(respelled(change, sig=True)) for name, change in RESPELLED.items()},
    **{f"payload: {name}": changed(respelled(change, sig=False)) for name, change in RESPELLED.items() if name != "loose bits"},
    "payload: loose bits": with_bundles(loosened()),
    "another payload type": changed(envelope(payloadType="application/json")),
    "another payload type, signed": with_bundles(sealed(compact(statement()), kind="application/json")),
    "the payload signed without its type": with_bundles(
        sealed(compact(statement()), signed=compact(statement()))
    ),
    "the manifest signed itself": with_bundles(sealed(compact(statement()), signed=MANIFEST)),
    "the digest signed": with_bundles(sealed(compact(statement()), signed=hashlib.sha256(MANIFEST).digest())),
    "a payload that was not signed": changed(envelope(payload=b64(compact(statement(predicate={}))))),
    **{
        f"signed: {name}": with_bundles(sealed(payload))
        for name, payload in {
            "no JSON": b"statement",
            "no UTF-8": b'"\xff"',
            "byte order mark": b"\xef\xbb\xbf" + compact(statement()),
            "no object": b"[]",
            "absurd depth": b"[" * 5000,
            "more than a statement needs": compact(statement()) + b" " * (64 << 10),
            "duplicate subject": compact(statement())[:-1] + b',"subject":' + compact(statement()["subject"]) + b"}",
            "no type": compact(statement(_type=...)),
            "another type": compact(statement(_type="https://in-toto.io/Statement/v0.1")),
            "another predicate type": compact(statement(predicateType="https://slsa.dev/provenance/v1")),
            "no predicate type": compact(statement(predicateType=...)),
            "no subject": compact(statement(subject=[])),
            "subject of another type": compact(statement(subject={"name": "manifest.json", "digest": {"sha256": HEX}})),
            "two subjects": compact(statement(subject=statement()["subject"] * 2)),
            "another name": compact(statement(subject=[{"name": "manifest.jsоn", "digest": {"sha256": HEX}}])),
            "no name": compact(statement(subject=[{"digest": {"sha256": HEX}}])),
            "another manifest": compact(statement(subject=[{"name": "manifest.json", "digest": {"sha256": "0" * 64}}])),
            "upper case": compact(statement(subject=[{"name": "manifest.json", "digest": {"sha256": HEX.upper()}}])),
            "another digest": compact(statement(subject=[{"name": "manifest.json", "digest": {"sha1": HEX[:40]}}])),
            "two digests": compact(
                statement(subject=[{"name": "manifest.json", "digest": {"sha256": HEX, "sha512": HEX * 2}}])
            ),
            "a digest that is none": compact(statement(subject=[{"name": "manifest.json", "digest": {"sha256": 1}}])),
            "digest of another type": compact(statement(subject=[{"name": "manifest.json", "digest": HEX}])),
            "no predicate": compact(statement(predicate=...)),
            "predicate of another type": compact(statement(predicate=[])),
            **{
                f"{name} {value!r}"[:60]: compact(
                    statement(predicate={**statement()["predicate"], name: value})
                )
                for name, values in {
                    "reference": (None, "", 1, ["s3://a/b"], "x" * 8193),
                    "sequence": (None, 0, -1, 1.0, 1.5, True, "1", 2**53, 10**19),
                    "time": (
                        None, 0, "", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00",
                        "2026-13-02T03:04:05Z", "2026-02-30T03:04:05Z", TIME + "\n", "２０26-01-02T03:04:05Z",
                    ),
                }.items()
                for value in values
            },
        }.items()
    },
}  # fmt: skip


def test_the_vectors_differ_from_what_counts() -> None:
    assert judged(with_bundles(good())).status == "verified"
    assert with_bundles(good()) not in HOSTILE.values()


@pytest.mark.parametrize("name", HOSTILE)
def test_it_does_not_count(name: str) -> None:
    refused(HOSTILE[name])
    refused(HOSTILE[name], ED25519, reference=REFERENCE)


@pytest.mark.parametrize("name", HOSTILE)
def test_beside_one_that_counts_it_does_no_harm_or_spoils_the_file(name: str) -> None:
    """Whoever can add to the file can take from it, too; he gets the same image verified, or an error."""
    field = json.loads(HOSTILE[name]).get("bundle")
    try:
        bundles = json.loads(field)
    except (TypeError, ValueError, RecursionError):
        return
    if isinstance(bundles, list):
        for both in ([*bundles, good()], [good(), *bundles]):
            try:
                assert judged(with_bundles(*both)).reference == REFERENCE
            except SignatureError:
                assert len(both) > 16 or name in ("NaN", "a lone surrogate")


@every_kind
def test_one_of_several_suffices(kind: str) -> None:
    key = USABLE[kind]
    file = with_bundles(BY_OTHER, {"mediaType": "application/x-newer"}, sealed(compact(statement()), key))
    assert judged(file, key).by == str(PrivateKey.load(key).public)
    assert judged(file, OTHER).by == str(PrivateKey.load(OTHER).public)
    assert judged(file, OTHER, key).status == "verified"


def test_a_bundle_about_another_manifest_does_not_hide_the_one_that_counts() -> None:
    other = sealed(compact(statement(subject=[{"name": "manifest.json", "digest": {"sha256": "0" * 64}}])))
    assert judged(with_bundles(other, good())).status == "verified"
    assert "another manifest" in refused(with_bundles(other)).problem


def test_more_in_a_signed_statement_is_left_alone() -> None:
    """In-toto demands it; and it was signed."""
    payload = compact(statement(x=[1], predicate={**statement()["predicate"], "y": {}}))
    assert judged(with_bundles(sealed(payload))).reference == REFERENCE


def test_more_of_sigstores_material_is_left_alone() -> None:
    assert judged(changed(lambda b: b["verificationMaterial"].update(tlogEntries=[], timestampVerificationData={})))
    assert judged(changed(lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="")))


@every_kind
@pytest.mark.parametrize("part", ["file", "payload", "sig"])
def test_every_flipped_bit_fails_or_leaves_what_was_verified(kind: str, part: str) -> None:
    key = USABLE[kind]
    bundle = sealed(compact(statement()), key)
    if part == "file":
        raw = with_bundles(bundle)
        flipped = [raw[:i] + bytes([raw[i] ^ 1 << bit]) + raw[i + 1 :] for i in range(len(raw)) for bit in range(8)]
    else:
        place = bundle["dsseEnvelope"] if part == "payload" else bundle["dsseEnvelope"]["signatures"][0]
        raw, flipped = base64.b64decode(place[part]), []
        for i in range(len(raw)):
            for bit in range(8):
                place[part] = b64(raw[:i] + bytes([raw[i] ^ 1 << bit]) + raw[i + 1 :])
                flipped.append(with_bundles(bundle))
    whole = judged(with_bundles(sealed(compact(statement()), key)), key)
    verifier = KeyVerifier(key.public_key())
    verified = 0
    for file in flipped:
        try:
            assert check_signature(MANIFEST, file, verifier=verifier) == whole
            verified += 1
        except SignatureError:
            pass
    assert verified == 0 if part != "file" else verified < len(flipped) / 4  # the HMAC's digits do not count here


@given(st.data())
def test_one_changed_byte_of_the_manifest_is_noticed(data: st.DataObject) -> None:
    changed = bytearray(MANIFEST)
    changed[data.draw(st.integers(0, len(MANIFEST) - 1))] ^= data.draw(st.integers(1, 255))
    refused(with_bundles(good()), manifest=bytes(changed))
    lying = with_bundles(good()).replace(HEX.encode(), Digest.of(changed).hex.encode())
    refused(lying, manifest=bytes(changed))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.one_of(st.text(), JSON.map(lambda value: json.dumps(value)), st.lists(JSON).map(lambda v: json.dumps(v))))
def test_no_text_is_a_bundle_by_chance(field: str) -> None:
    with pytest.raises(SignatureError):
        unseal(field, [PrivateKey.load(ED25519).public])


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_payload_is_a_statement_by_chance(payload: bytes) -> None:
    with pytest.raises(SignatureError):
        unseal(compact([sealed(payload or b" ")]).decode(), [PrivateKey.load(ED25519).public])


def test_nothing_is_parsed_before_it_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def note(payload: bytes) -> Statement:
        parsed.append(payload)
        raise SignatureError("noted")

    monkeypatch.setattr(Statement, "from_bytes", note)
    refused(with_bundles(forged_hint(), BY_OTHER))
    refused(changed(envelope(payload=b64(b"{}"))))
    assert parsed == []
    refused(with_bundles(good()))
    assert parsed == [compact(statement())]


# -- reference and sequence --------------------------------------------------------------------------------------


def test_a_verifier_may_know_its_reference_and_the_least_sequence() -> None:
    file = signer(sequence=4).sign(MANIFEST)
    assert judged(file, ED25519, reference=REFERENCE, min_sequence=4).sequence == 4
    assert "another reference" in refused(file, ED25519, reference="s3://bucket/agents/b").problem
    assert "older" in refused(file, ED25519, min_sequence=5).problem
    two = with_bundles(*(sealed(Statement(Digest(HEX), r, s, TIME).to_bytes()) for r, s in (("a", 9), ("b", 2))))
    assert judged(two, ED25519, reference="b").sequence == 2
    assert judged(two, ED25519, min_sequence=3).reference == "a"
    refused(two, ED25519, reference="b", min_sequence=3)


def field_of(reference: str, sequence: int, key: Any = ED25519) -> bytes:
    said = Statement(Digest(HEX), reference, sequence, TIME)
    return with_field(seal(said, PrivateKey.load(key)))


def test_sequences_go_on_from_what_trusted_keys_say() -> None:
    mine = [PrivateKey.load(ED25519).public]
    both = [*mine, PrivateKey.load(OTHER).public]
    assert next_sequence(None, REFERENCE, mine) == 1
    assert next_sequence(b"garbage", REFERENCE, mine) == 1
    assert next_sequence(HmacSigner().sign(MANIFEST), REFERENCE, mine) == 1
    assert next_sequence(field_of(REFERENCE, 5), REFERENCE, mine) == 6
    assert next_sequence(field_of("s3://bucket/b", 5), REFERENCE, mine) == 1  # a copy's sequence is another place's
    assert next_sequence(field_of(REFERENCE, 5, OTHER), REFERENCE, mine) == 1  # whoever it was could say anything
    assert next_sequence(field_of(REFERENCE, 5, OTHER), REFERENCE, both) == 6
    for name in HOSTILE:
        assert next_sequence(HOSTILE[name], REFERENCE, mine) in (1, 2)


def test_a_sequence_goes_on_from_a_push_that_broke_off() -> None:
    begun = bridge(field_of(REFERENCE, 6), field_of(REFERENCE, 5))
    assert next_sequence(begun, REFERENCE, [PrivateKey.load(ED25519).public]) == 7
    undone = bridge(HmacSigner().sign(b"other"), field_of(REFERENCE, 5))
    assert next_sequence(undone, REFERENCE, [PrivateKey.load(ED25519).public]) == 6


def test_the_last_sequence_is_an_error_not_a_smaller_one() -> None:
    sequence = next_sequence(field_of(REFERENCE, 2**53 - 1), REFERENCE, [PrivateKey.load(ED25519).public])
    with pytest.raises(SignatureError):
        signer(sequence=sequence).sign(MANIFEST)


@every_kind
def test_a_bridge_carries_both_bundles(kind: str) -> None:
    key = USABLE[kind]
    old, new = b'{"old":1}', b'{"new":1}'
    before, after = signer(key).sign(old), signer(key, sequence=2).sign(new)
    both = bridge(after, before)
    assert both != after
    for manifest, alone, sequence in ((old, before, 1), (new, after, 2)):
        found = signature_of(manifest, both)
        assert found == alone
        assert judged(found, key, manifest=manifest).sequence == sequence
    refused(signature_of(b"{}", both), key, manifest=b"{}")


@pytest.mark.parametrize(
    "typed, address",
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("hf://alice/session", "hf://datasets/alice/session@main"),
        ("hf://alice/session:v1", "hf://datasets/alice/session@v1"),
        ("hf://datasets/alice/session", "hf://datasets/alice/session@main"),
        ("oci://host:5000/team/img", "oci://host:5000/team/img:latest"),
        ("ipfs://", "ipfs://"),
        ("memory://a/b", "memory://a/b"),
        ("file:///a//b/../c", "file:///a/c"),
        ("/a/c/", "file:///a/c"),
        ("/a b/é", "file:///a%20b/%C3%A9"),
        ("simplecache::s3://bucket/a", "simplecache::s3://bucket/a"),
    ],
)
def test_a_reference_is_bound_in_one_spelling(typed: str, address: str) -> None:
    assert parse(typed).address == address


# -- who judges --------------------------------------------------------------------------------------------------


def test_who_judges(tmp_path: Any) -> None:
    (tmp_path / "a.pub").write_bytes(spki(ED25519))
    environ = {"PFREG_TRUSTED_KEYS": str(tmp_path / "a.pub"), "PF_S3_REG_SIGN_KEY": "secret"}
    given = HmacVerifier()
    assert verifier_for("s3", verifier=given, environ=environ) is given
    assert repr(verifier_for("s3", trusted_keys=[spki(P256)], environ=environ)).startswith("KeyVerifier(ecdsa-p256 ")
    assert "a.pub" in repr(verifier_for("s3", environ=environ))
    assert repr(verifier_for("s3", environ={"PF_S3_REG_SIGN_KEY": "s"})) == "HmacVerifier(PF_S3_REG_SIGN_KEY)"
    with pytest.raises(pfreg.BadOption):
        verifier_for("s3", verifier=given, trusted_keys=[spki(P256)])
    for wrong in ((), [], "", b"no key"):
        with pytest.raises(pfreg.BadKey):
            KeyVerifier(wrong)  # type: ignore[arg-type]
