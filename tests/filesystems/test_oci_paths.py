"""Names and manifests of bad faith: refused, and refused whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pfreg.errors import BadReference, IntegrityError, LimitExceeded, ManifestError, TransferError
from pfreg.filesystems import oci_manifest
from pfreg.filesystems.oci import OciFileSystem
from pfreg.filesystems.oci_manifest import INDEX, MANIFEST, Descriptor, Index, build_manifest, read_manifest
from pfreg.filesystems.oci_path import ArtifactName, is_loopback, parse_path
from tests.filesystems.conftest import Faulty
from tests.servers.fault_proxy import Answer

DIGEST = "sha256:" + "ab" * 32
IMAGE = "application/vnd.processfork.image.v1+json"


@pytest.mark.parametrize(
    ("path", "name", "inner"),
    [
        ("localhost:5000/team/img:v1", ArtifactName("localhost:5000", "team/img", "v1"), ""),
        ("localhost/a:v1/x/y.zst", ArtifactName("localhost", "a", "v1"), "x/y.zst"),
        (f"ghcr.io/a/b@{DIGEST}/x", ArtifactName("ghcr.io", "a/b", None, DIGEST), "x"),
        (f"H.example/a:t@{DIGEST}", ArtifactName("h.example", "a", "t", DIGEST), ""),
        ("[::1]:5000/a__b/c-d.e:T_1.2-3", ArtifactName("[::1]:5000", "a__b/c-d.e", "T_1.2-3"), ""),
        ("h/a:v/mail@home", ArtifactName("h", "a", "v"), "mail@home"),
        ("h/a/b", ArtifactName("h", "a/b"), ""),
        ("h/a:" + "t" * 128, ArtifactName("h", "a", "t" * 128), ""),
    ],
)
def test_a_path_is_taken_apart(path: str, name: ArtifactName, inner: str) -> None:
    assert parse_path(path) == (name, inner)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "host",
        "host/",
        "/repo:v1",
        "host/Upper:v1",
        "host/a//b:v1",
        "host/-a:v1",
        "host/a:",
        "host/a:" + "t" * 129,
        "host/a:-t",
        "host/a:t\n",
        "host/a:v1\r\nX-Header: 1/f",
        "host/a\r\n:v1",
        "ho\nst/a:v1",
        "host:0/a:v1",
        "host:99999/a:v1",
        "host:5000:1/a:v1",
        "ho..st/a:v1",
        "-host/a:v1",
        "[::g]/a:v1",
        "[:::::]/a:v1",
        "host/" + "a" * 256 + ":v1",
        f"host/a@{DIGEST.upper()}",
        "host/a@sha512:" + "ab" * 64,
        "host/a@sha256:abc",
        f"host/a@{DIGEST}{DIGEST}",
        "host/a:v1/../x",
        "host/a:v1//x",
        "host/a:v1/./x",
        "host/a:v1/x\\y",
        "host/a:v1/C:/x",
        "host/a:v1/x\0",
        "host/a:v1/x\u202ey",
        "host/a:v1/" + "x" * 1025,
    ],
)
def test_a_malformed_path_is_refused(path: str) -> None:
    with pytest.raises(BadReference):
        parse_path(path)


@pytest.mark.parametrize(
    "path", ["alice:hunter2@host/a:v1", "alice:hun/ter2@host/a:v1", "alice:hunter2@host/a:v1@host"]
)
def test_a_password_in_a_path_is_refused_and_not_repeated(path: str) -> None:
    with pytest.raises(BadReference) as caught:
        parse_path(path)
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("127.evil.com", False),
        ("localhost.evil.com", False),
        ("128.0.0.1", False),
        (None, False),
    ],
)
def test_loopback_is_an_address_not_a_prefix(host: str | None, expected: bool) -> None:
    assert is_loopback(host) is expected


def manifest(**changes: Any) -> dict[str, Any]:
    layer = {"mediaType": "x/y", "size": 3, "digest": DIGEST, "annotations": {"org.processfork.path": "blobs/x.zst"}}
    config = {"mediaType": IMAGE, "size": 2, "digest": DIGEST}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    return {key: value for key, value in {**document, **changes}.items() if value is not ...}


def layer(path: object = "blobs/y.zst", **changes: Any) -> dict[str, Any]:
    return {"mediaType": "x/y", "size": 3, "digest": DIGEST, "annotations": {"org.processfork.path": path}, **changes}


def text(document: object) -> bytes:
    return json.dumps(document).encode()


BAD_PATHS = [
    "..",
    "../x",
    "a/../../x",
    "/abs",
    "C:/x",
    "a\\b",
    "a\0b",
    "",
    ".",
    "a//b",
    "a/",
    "a\nb",
    "manifest.json",
    7,
    [],
]
HOSTILE: dict[str, tuple[bytes, str]] = {
    **{f"path {path!r}": (text(manifest(layers=[layer(path)])), MANIFEST) for path in BAD_PATHS},
    "one path twice": (text(manifest(layers=[layer(), layer()])), MANIFEST),
    "a file that is a folder": (text(manifest(layers=[layer("a/b"), layer("a")])), MANIFEST),
    "negative size": (text(manifest(layers=[layer(size=-1)])), MANIFEST),
    "huge size": (text(manifest(layers=[layer(size=2**63)])), MANIFEST),
    "endless number": (b'{"schemaVersion":2,"x":' + b"9" * 5000 + b"}", MANIFEST),
    "size as text": (text(manifest(layers=[layer(size="3")])), MANIFEST),
    "size as truth": (text(manifest(layers=[layer(size=True)])), MANIFEST),
    "size as fraction": (text(manifest(layers=[layer(size=3.0)])), MANIFEST),
    "no size": (text(manifest(layers=[layer(size=None)])), MANIFEST),
    "sha512": (text(manifest(layers=[layer(digest="sha512:" + "ab" * 64)])), MANIFEST),
    "upper-case digest": (text(manifest(layers=[layer(digest=DIGEST.upper())])), MANIFEST),
    "digest as a path": (text(manifest(layers=[layer(digest="sha256:../../" + "a" * 58)])), MANIFEST),
    "no digest": (text(manifest(layers=[layer(digest=None)])), MANIFEST),
    "no layers": (text(manifest(layers=...)), MANIFEST),
    "layers of another kind": (text(manifest(layers={})), MANIFEST),
    "a layer of another kind": (text(manifest(layers=["x"])), MANIFEST),
    "no config": (text(manifest(config=...)), MANIFEST),
    "annotations of another kind": (text(manifest(layers=[layer(annotations=[1])])), MANIFEST),
    "schema 1": (text(manifest(schemaVersion=1)), MANIFEST),
    "container image": (text(manifest(config={"mediaType": "c/d"}, layers=[layer(annotations={})])), MANIFEST),
    "docker manifest": (
        text(manifest(mediaType="application/vnd.docker.distribution.manifest.v2+json")),
        "application/vnd.docker.distribution.manifest.v2+json",
    ),
    "index of platforms": (text({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}), INDEX),
    "two types": (text(manifest(mediaType=INDEX)), MANIFEST),
    "manifest and index": (text(manifest(manifests=[])), MANIFEST),
    "index with a shard of no type": (
        text({"schemaVersion": 2, "annotations": {"org.processfork.shards": "1"}, "manifests": [{"size": 1}]}),
        INDEX,
    ),
    "index with a huge shard": (
        text(
            {
                "schemaVersion": 2,
                "annotations": {"org.processfork.shards": "1"},
                "manifests": [{"mediaType": MANIFEST, "size": 1 << 30, "digest": DIGEST}],
            }
        ),
        INDEX,
    ),
    "list": (b"[]", MANIFEST),
    "nothing": (b"", MANIFEST),
    "no UTF-8": (b'{"a":"\xff"}', MANIFEST),
    "the same key twice": (b'{"schemaVersion":2,"schemaVersion":2}', MANIFEST),
    "NaN": (b'{"schemaVersion":NaN}', MANIFEST),
    "deep": (b"[" * 200_000, MANIFEST),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_refused(case: str) -> None:
    raw, media_type = HOSTILE[case]
    with pytest.raises(ManifestError):
        read_manifest(raw, media_type=media_type, place="here")


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_spoils_every_way_of_reading(case: str, faulty: Faulty) -> None:
    raw, media_type = HOSTILE[case]
    liar = faulty("", lambda seen: Answer(200, {"Content-Type": media_type}, raw))
    root = f"{liar.host}/a:v1"
    for read in (lambda fs: fs.find(root), lambda fs: fs.ls(root), lambda fs: fs.cat_file(f"{root}/blobs/x.zst")):
        with pytest.raises(IntegrityError):
            read(OciFileSystem(deadline=0))


def test_a_manifest_of_good_faith_passes() -> None:
    """What the hostile ones differ from in one place each."""
    files = read_manifest(text(manifest()), media_type=MANIFEST, place="here")
    assert files == {"manifest.json": Descriptor(DIGEST, 2), "blobs/x.zst": Descriptor(DIGEST, 3)}


def test_layers_without_a_path_are_no_files() -> None:
    mixed = text(manifest(layers=[layer(), layer(annotations={}, digest="sha512:" + "a" * 128)]))
    files = read_manifest(mixed, media_type=MANIFEST, place="here")
    assert not isinstance(files, Index)
    assert sorted(files) == ["blobs/y.zst", "manifest.json"]


def test_a_manifest_is_larger_than_allowed() -> None:
    with pytest.raises(LimitExceeded):
        read_manifest(b" " * (oci_manifest.MAX_MANIFEST + 1), media_type=MANIFEST, place="here")


def test_what_is_built_is_read_back() -> None:
    files = {
        "manifest.json": Descriptor(DIGEST, 9),
        "manifest.json.sig": Descriptor(DIGEST, 8),
        "b/ü": Descriptor(DIGEST, 0),
    }
    assert read_manifest(build_manifest(files), media_type=MANIFEST, place="here") == files


def test_an_endless_manifest_ends(faulty: Faulty) -> None:
    liar = faulty("", lambda seen: Answer(200, {"Content-Type": MANIFEST}, b" " * (1 << 16), endless=True))
    with pytest.raises(LimitExceeded):
        OciFileSystem(deadline=0).find(f"{liar.host}/a:v1")


def test_an_endless_error_ends(faulty: Faulty) -> None:
    liar = faulty("", lambda seen: Answer(418, {}, b"x" * (1 << 16), endless=True))
    with pytest.raises(TransferError, match="418"):
        OciFileSystem(deadline=0).find(f"{liar.host}/a:v1")


def test_an_endless_blob_ends(faulty: Faulty) -> None:
    raw = text(manifest(layers=[layer(size=1000)]))

    def lie(seen: object) -> Answer:
        if "/manifests/" in str(seen):
            return Answer(200, {"Content-Type": MANIFEST}, raw)
        return Answer(200, {}, b"x" * 4096, endless=True)

    liar = faulty("", lie)
    with pytest.raises(IntegrityError, match="longer"):
        OciFileSystem(deadline=0).cat_file(f"{liar.host}/a:v1/blobs/y.zst")


def test_a_list_of_tags_that_goes_in_a_circle_ends(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfreg.filesystems.oci_artifact._MAX_TAG_PAGES", 20)
    liar = faulty("", lambda seen: Answer(200, {"Link": f'<{seen.path}>; rel="next"'}, b'{"tags":["a"]}'))
    with pytest.raises(TransferError, match="pages"):
        OciFileSystem(deadline=0).tags(f"{liar.host}/a")
    assert len(liar.seen) == 20


@pytest.mark.parametrize("tags", [["a", 7], ["../x"], {"a": 1}, ["a\n"]])
def test_a_list_of_what_are_no_tags_is_refused(tags: object, faulty: Faulty) -> None:
    liar = faulty("", lambda seen: Answer(200, {}, json.dumps({"tags": tags}).encode()))
    with pytest.raises(ManifestError):
        OciFileSystem(deadline=0).tags(f"{liar.host}/a")
