"""References: what each means, that every malformed one is a BadReference, and that none touches a network."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfreg
from pfreg import reference
from pfreg.errors import BadOption, BadReference
from pfreg.reference import Reference, locate, parse, register_resolver
from tests.formats.images import says_one_line

V0 = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKc" + "Pbd"
V1 = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
HEX = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a reference touched the network")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


MEANT = {
    "/abs/olute": ("file", "/abs/olute"),
    "/abs/./olute/../x/": ("file", "/abs/x"),
    "file:///abs/x": ("file", "/abs/x"),
    "FILE:///abs/x": ("file", "/abs/x"),
    "local:///abs/x": ("file", "/abs/x"),
    "/with space/☃": ("file", "/with space/☃"),
    "hf://alice/session": ("hf", "datasets/alice/session@main"),
    "hf://alice/session/": ("hf", "datasets/alice/session@main"),
    "hf://alice/session:v1": ("hf", "datasets/alice/session@v1"),
    "hf://a/b:refs/pr/1": ("hf", "datasets/a/b@refs/pr/1"),
    "hf://My-Org/My.Data_set:v1.0-rc": ("hf", "datasets/My-Org/My.Data_set@v1.0-rc"),
    "hf://datasets/alice/session": ("hf", "datasets/alice/session@main"),
    "hf://datasets/alice/session@v1": ("hf", "datasets/alice/session@v1"),
    "hf://datasets/alice/session@v1/sub": ("hf", "datasets/alice/session@v1/sub"),
    "oci://localhost/img": ("oci", "localhost/img:latest"),
    "oci://localhost:5000/team/img:v3": ("oci", "localhost:5000/team/img:v3"),
    "oci://ghcr.io/a/b-c/d__e:V.1_x-2": ("oci", "ghcr.io/a/b-c/d__e:V.1_x-2"),
    f"oci://h/x@sha256:{HEX}": ("oci", f"h/x@sha256:{HEX}"),
    f"oci://h/x:t@sha256:{HEX}": ("oci", f"h/x:t@sha256:{HEX}"),
    "oci://[::1]:5000/x": ("oci", "[::1]:5000/x:latest"),
    "oci://127.0.0.1:65535/x": ("oci", "127.0.0.1:65535/x:latest"),
    "ipfs://": ("ipfs", ""),
    f"ipfs://{V0}": ("ipfs", V0),
    f"ipfs://{V1}": ("ipfs", V1),
    f"ipfs://{V1}/sub/folder/": ("ipfs", f"{V1}/sub/folder"),
    "ipns://docs.example.org": ("ipns", "docs.example.org"),
    "s3://bucket/prefix": ("s3", "s3://bucket/prefix"),
    "S3://bucket/prefix": ("s3", "S3://bucket/prefix"),
    "gs://bucket": ("gs", "gs://bucket"),
    "memory://": ("memory", "memory://"),
    "memory://a/b": ("memory", "memory://a/b"),
    "sftp://host:22/a": ("sftp", "sftp://host:22/a"),
    "abfs://container@account/x": ("abfs", "abfs://container@account/x"),
    "s3://bucket/a@b": ("s3", "s3://bucket/a@b"),
    "simplecache::s3://bucket/x": ("s3", "simplecache::s3://bucket/x"),
    "dir://x::memory://y": ("memory", "dir://x::memory://y"),
}


@pytest.mark.parametrize("text", MEANT)
def test_what_each_reference_means(text: str) -> None:
    found = parse(text)
    assert (found.scheme, found.target) == MEANT[text]
    assert str(found) == found.text == text
    assert pickle.loads(pickle.dumps(found)) == found


def test_relative_paths_are_those_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/homes/tester")
    here = os.getcwd()
    for text, path in {"./a/b": f"{here}/a/b", "a": f"{here}/a", ".": here, "~/x": "/homes/tester/x"}.items():
        assert parse(text) == Reference(text, "file", path)
    assert parse(tmp_path / "a") == Reference(str(tmp_path / "a"), "file", str(tmp_path / "a"))


MALFORMED: list[Any] = [
    # no text, or nothing in it
    None, 7, b"s3://bucket/x", ["s3://bucket"], object, "", " ", "\u00a0",
    # control characters
    "s3://bucket/a\nb", "s3://bucket/\x00", "a\x00b", "/tmp/\x1b[31m", "hf://a/b\r", "x\x7f", "\x85", "a\u2028b",
    "a\u2029",
    "/a\ud800", "oci://h/x\t", "file:///a\n",
    # no place
    "s3://", "s3:///", "gs:////", "sftp://", "http://", "abfs://",
    # files
    "file://", "file://relative/x", "file://host/x", "file://./x", "local://x", "file://localhost/x",
    # Hugging Face
    "hf://", "hf://alice", "hf://alice/", "hf:///session", "hf:////", "hf://a/b/c", "hf://a/b:", "hf://a/b:v:w",
    "hf://a/b:v w",
    "hf://a b/c", "hf://-a/b", "hf://a/-b", "hf://a/.b", "hf://a/b.", "hf://a/b-", "hf://a/b..c", "hf://a/b--c",
    "hf://a/b:../c",
    "hf://a/b:x~1", "hf://a/b:x^", "hf://a/b:x?", "hf://a/b:x*", "hf://a/b:[x", "hf://a/b:x\\y", "hf://a/b:x@{1}",
    "hf://a/é", "hf://a/" + "b" * 97, "hf://datasets", "hf://datasets/a", "hf://datasets/a/b@", "hf://datasets/a/b@x y",
    "hf://datasets/a/b/c", "hf://datasets/a/b@../x", "hf://models/a/b", "hf://models/a", "hf://spaces/a/b",
    "hf://spaces/a",
    "hf://datasets/../a/b", "hf://a/b?x=1", "hf://a/b#c",
    # OCI
    "oci://", "oci://h", "oci://h/", "oci:///x", "oci://HOST/Upper:tag", "oci://h/Upper", "oci://h:99999/x",
    "oci://h:65536/x",
    "oci://h:0/x", "oci://h:/x", "oci://h:port/x", "oci://h:-1/x", "oci://h: 80/x", "oci://h:\u0665\u0660/x",
    "oci://h:80:80/x",
    "oci://h/x:", "oci://h/x:-t", "oci://h/x:.t", "oci://h/x:" + "t" * 129, "oci://h/x:a b", "oci://h/x:a:b",
    "oci://h/x:t/y",
    "oci://h/x:é", "oci://h/x@", "oci://h/x@sha256:", "oci://h/x@sha256:abc",
    "oci://h/x@md5:" + HEX[:32], "oci://h/x@" + HEX,
    "oci://h/x@sha256:" + HEX.upper(), "oci://h/x@sha256:" + HEX + "0", "oci://h/x:t@",
    "oci://h/x@sha256:" + HEX + "@x",
    "oci://h/a//b", "oci://h/a/", "oci://h//a", "oci://h/-a", "oci://h/a-", "oci://h/_a", "oci://h/a_", "oci://h/a___b",
    "oci://h/a..b", "oci://h/../x", "oci://h/./x", "oci://h/a b", "oci://h/é", "oci://h/x?tag=1", "oci://h/x#t",
    "oci://h/%61",
    "oci://h/" + "a" * 256, "oci://-h/x", "oci://h-/x", "oci://h_h/x", "oci://h h/x", "oci://.h/x", "oci://[::1/x",
    "oci://::1/x",
    "oci://bucket@namespace", "oci://bucket@namespace/x",
    # IPFS
    "ipfs://nonsense", "ipfs://Qm", "ipfs://" + V0[:-1], "ipfs://" + V0 + "x", "ipfs://" + V1.upper(), "ipfs://b123",
    "ipfs:///x",
    f"ipfs://{V1}//x", f"ipfs://{V1}/../x", f"ipfs://{V1}/./x", f"ipfs://{V1}/x/..", f"ipfs://{V1}?x",
    f"ipfs://{V0[:-1]}0",
    "ipns://", "ipns:///x", "ipns://a b", "ipns://-a", "ipns://" + "a" * 300, "ipns://a/../b",
    # chains
    "::", "::s3://b/x", "simplecache::", "zip://a::", "zip://a::::s3://b/x",
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: ascii(text)[:60])
def test_a_malformed_reference_says_so_in_one_line(text: Any) -> None:
    with pytest.raises(BadReference) as caught:
        parse(text)
    assert isinstance(caught.value, ValueError)
    assert says_one_line(caught.value)


VERBS = {
    "push": lambda url, store: pfreg.push("sha256:" + HEX, url, store=store),
    "pull": lambda url, store: pfreg.pull(url, store=store),
    "clone": lambda url, store: pfreg.clone(url, Path(store) / "out"),
    "copy from": lambda url, store: pfreg.copy(url, Path(store) / "copy"),
    "copy to": lambda url, store: pfreg.copy(Path(store) / "copy", url),
    "exists": lambda url, store: pfreg.exists(url),
    "inspect": lambda url, store: pfreg.inspect(url),
    "verify": lambda url, store: pfreg.verify(url),
    "prune": lambda url, store: pfreg.prune(url),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "url", ["hf://alice", "oci://HOST/Upper:tag", "oci://h:99999/x", "https://u:p@h/x", "s3://b/\n", ""]
)
def test_every_verb_refuses_it_before_anything_else(verb: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(BadReference) as caught:
        VERBS[verb](url, tmp_path)
    assert says_one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


WITH_PASSWORDS = [
    "https://user:hunter2@host/x", "s3://key:hunter2@bucket/x", "sftp://user:hunter2@host/x", "ftp://hunter2@host/x",
    "hf://user:hunter2@datasets/a", "oci://user:hunter2@host/img", "oci://user:hunter2@host", "ipfs://u:hunter2@" + V1,
    "gs://a:hunter2@b", "HTTPS://user:hunter2@host", "https://a@b:hunter2@host/x", "memory://u:hunter2@x",
    "zip://a.txt::https://user:hunter2@host/a.zip", "simplecache::sftp://u:hunter2@host/x", "file://u:hunter2@host/x",
    "https://user:hunter2@host/\n", "sftp://u:hunter2@host/x\x00",
]  # fmt: skip


@pytest.mark.parametrize("text", WITH_PASSWORDS, ids=ascii)
def test_a_password_in_a_reference_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadReference) as caught:
        parse(text)
    assert "hunter2" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert says_one_line(caught.value)


schemes = st.sampled_from(
    ["", "file", "hf", "oci", "ipfs", "ipns", "s3", "memory", "sftp", "abfs", "x-y", "1s", "HF", "local"]
)
rests = st.text(max_size=40) | st.text("abcXYZ019/:@.-_~%?#[]\\ é\u0661\n\0", max_size=30)


@given(schemes, st.sampled_from(["://", ":/", "::", "", ":///"]), rests)
def test_any_text_is_a_reference_or_a_bad_one(scheme: str, separator: str, rest: str) -> None:
    text = scheme + separator + rest
    try:
        found = parse(text)
    except BadReference as e:
        assert says_one_line(e)
        return
    assert found.text == text and text.isprintable() | all(c.isprintable() or c.isspace() or ord(c) > 160 for c in text)
    assert found.scheme == found.scheme.lower() and found.scheme


@given(st.from_regex(r"oci://[a-z.:0-9]{1,20}(/[a-z0-9._-]{1,9}){1,3}(:[A-Za-z0-9._-]{1,9})?", fullmatch=True))
def test_what_passes_for_oci_is_what_registries_take(text: str) -> None:
    try:
        target = parse(text).target
    except BadReference:
        return
    host, _, rest = target.partition("/")
    assert host.lower() == host and ".." not in rest and "//" not in rest
    assert rest.rpartition(":")[2]


@given(st.from_regex(r"hf://[A-Za-z0-9._-]{1,9}/[A-Za-z0-9._-]{1,9}(:[A-Za-z0-9./_-]{1,9})?", fullmatch=True))
def test_what_passes_for_hugging_face_is_a_dataset_at_a_revision(text: str) -> None:
    try:
        target = parse(text).target
    except BadReference:
        return
    kind, _, name = target.partition("/")
    assert kind == "datasets" and ".." not in name and name.rpartition("@")[2]


def test_an_unknown_scheme_is_a_bad_reference_that_names_known_ones() -> None:
    with pytest.raises(BadReference) as caught:
        locate("nosuch://place/x")
    assert "s3" in caught.value.hint
    assert says_one_line(caught.value)


@pytest.mark.parametrize("text", ["memory://a/b", "s3://bucket/a", "simplecache::memory://a/b"])
def test_a_filesystem_is_made_without_touching_the_network(text: str) -> None:
    found = locate(text, storage_options={})
    assert found.path.strip("/").endswith("a") or found.path.strip("/").endswith("a/b")
    assert isinstance(found.fs, fsspec.AbstractFileSystem)


def test_options_reach_the_filesystem_and_the_callers_are_left_alone() -> None:
    options = {"key": "k" * 20, "secret": "hunter2hunter2", "client_kwargs": {"region_name": "eu-north-1"}}
    before = copy.deepcopy(options)
    found = locate("s3://bucket/a", storage_options=options)
    assert options == before
    assert found.fs.key == options["key"] and found.fs.client_kwargs == before["client_kwargs"]
    assert "hunter2" not in f"{found!r} {found.files!r} {found.fs!r}"


def test_nothing_is_listed_from_a_cache_nor_shared() -> None:
    one, two = locate("s3://bucket/a"), locate("s3://bucket/a")
    assert one.fs is not two.fs
    assert one.fs.dircache.use_listings_cache is False


@pytest.mark.parametrize("options", ["key=value", [("key", "value")], 7])
def test_options_are_a_mapping(options: Any) -> None:
    with pytest.raises(BadOption):
        locate("memory://x", storage_options=options)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("botocore", "s3fs", "obstore"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("s3_s3fs", "s3_obstore"):
        monkeypatch.delitem(sys.modules, f"pfreg.filesystems.{name}", raising=False)
    with pytest.raises(pfreg.MissingDependency) as caught:
        locate("s3://bucket/x")
    assert "pfreg[s3]" in caught.value.hint
    assert "package: s3fs" in caught.value.problem
    assert says_one_line(caught.value)


def test_a_resolver_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shelf:
        def parse(self, text: str) -> Reference:
            return Reference(text, "shelf", text.partition("://")[2])

        def open(self, found: Reference, options: dict[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
            return fsspec.filesystem("memory"), f"/shelf/{found.target}"

    monkeypatch.setattr(reference, "_RESOLVERS", dict(reference._RESOLVERS))
    register_resolver("shelf", Shelf())
    assert parse("SHELF://top") == Reference("SHELF://top", "shelf", "top")
    assert locate("shelf://top").path == "/shelf/top"
    assert pfreg.exists("shelf://top") is False
