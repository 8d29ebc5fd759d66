"""Registries that break, stall, lose and spoil: the right files or a typed error, and a second try that finishes."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import socket
import threading
import time
from pathlib import Path

import aiohttp
import pytest
from fsspec.callbacks import Callback

from pfreg.errors import BlobNotFound, FileChanged, IntegrityError, TransferError
from pfreg.filesystems.oci import OciFileSystem
from pfreg.filesystems.oci_answers import _retry_after, network_failure
from pfreg.filesystems.oci_transfer import FileBody
from tests.filesystems.conftest import Faulty, write
from tests.servers.fault_proxy import Answer, Cut, Meddled, Seen
from tests.servers.oci_registry import DockerRegistry

DATA = os.urandom(3 << 20)
FILES = {f"blobs/{i}.zst": b"%d" % i * 1000 for i in range(12)} | {"manifest.json": b"{}", "manifest.json.sig": b"sig"}


def every(number: int, fault: Answer | Cut, *, method: str, containing: str = "/blobs/"):  # type: ignore[no-untyped-def]
    """Return a rule that meets every `number`-th request of a kind with a fault."""
    count = 0

    def rule(seen: Seen) -> Answer | Cut | None:
        nonlocal count
        if seen.method != method or containing not in seen.path:
            return None
        count += 1
        return fault if count % number == 0 else None

    return rule


def assert_holds(root: str, files: dict[str, bytes]) -> None:
    fs = OciFileSystem()
    assert {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)} == files


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_resets_at_every_third_body(method: str, oci_registry: DockerRegistry, repository: str, faulty: Faulty) -> None:
    root = f"{oci_registry.host}/{repository}:v1"
    cut = Cut(500) if method == "GET" else Cut(0, upward=True)
    proxy = faulty(oci_registry.host, every(3, cut, method=method))
    through = f"{proxy.host}/{repository}:v1"
    write(OciFileSystem(), through, FILES)
    assert_holds(root, FILES)
    fs = OciFileSystem()
    assert {path: fs.cat_file(f"{through}/{path}") for path in FILES} == FILES


def test_an_answer_that_was_lost_is_not_sent_for_twice(
    oci_registry: DockerRegistry, repository: str, faulty: Faulty
) -> None:
    """The registry took the blob, and the connection broke before it could say so."""
    lost = [True]

    def lose(seen: Seen) -> Meddled | None:
        return Meddled(lost=True) if seen.method == "PUT" and "/blobs/" in seen.path and lost and lost.pop() else None

    proxy = faulty(oci_registry.host, lose)
    write(OciFileSystem(), f"{proxy.host}/{repository}:v1", {"a": b"1" * 100, "manifest.json": b"{}"})
    assert_holds(f"{oci_registry.host}/{repository}:v1", {"a": b"1" * 100, "manifest.json": b"{}"})


@pytest.mark.parametrize(("status", "code"), [(404, "BLOB_UPLOAD_UNKNOWN"), (416, ""), (400, "BLOB_UPLOAD_INVALID")])
def test_a_burnt_session_is_left_for_another(
    status: int, code: str, oci_registry: DockerRegistry, repository: str, faulty: Faulty
) -> None:
    answer = Answer(status, {}, json.dumps({"errors": [{"code": code}] if code else []}).encode())
    burnt: list[str] = []

    def burn(seen: Seen) -> Answer | None:
        session = seen.path.partition("?")[0]
        if seen.method == "PUT" and "/blobs/" in seen.path and not burnt:
            burnt.append(session)
        return answer if session in burnt else None

    proxy = faulty(oci_registry.host, burn)
    write(OciFileSystem(), f"{proxy.host}/{repository}:v1", {"a": b"1" * 100, "manifest.json": b"{}"})
    assert len(proxy.requests("POST")) == 3
    assert_holds(f"{oci_registry.host}/{repository}:v1", {"a": b"1" * 100, "manifest.json": b"{}"})


def test_other_bytes_than_were_hashed(oci_registry: DockerRegistry, repository: str, tmp_path: Path) -> None:
    """The file changes, at the same size, after it was hashed: the real registry notices, and nothing is published."""
    (tmp_path / "x").write_bytes(b"x" * (2 << 20))

    class Changing(Callback):
        def set_size(self, size: int) -> None:
            (tmp_path / "x").write_bytes(b"y" * size)

    root = f"{oci_registry.host}/{repository}:v1"
    fs = OciFileSystem()
    with pytest.raises(IntegrityError, match="other bytes"), fs.transaction:
        fs.put_file(str(tmp_path / "x"), f"{root}/x", callback=Changing())
    assert not OciFileSystem().exists(root)


def test_a_broken_download_goes_on_where_it_was(
    oci_registry: DockerRegistry, repository: str, faulty: Faulty, tmp_path: Path
) -> None:
    write(OciFileSystem(), f"{oci_registry.host}/{repository}:v1", {"big": DATA})
    cuts = [1 << 20, 1 << 19]
    proxy = faulty(oci_registry.host, lambda seen: Cut(cuts.pop()) if "/blobs/" in seen.path and cuts else None)
    callback = Callback()
    OciFileSystem().get_file(f"{proxy.host}/{repository}:v1/big", str(tmp_path / "big"), callback=callback)
    assert (tmp_path / "big").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["big"]
    assert callback.value == len(DATA)
    ranges = [seen.headers.get("Range", "") for seen in proxy.requests("GET", "/blobs/")]
    assert ranges[0] == ""
    starts = [int(text.removeprefix("bytes=").partition("-")[0]) for text in ranges[1:]]
    assert 0 < starts[0] <= 1 << 19
    assert starts[0] < starts[1] <= (1 << 19) + (1 << 20)


def test_a_registry_that_ignores_ranges(oci_registry: DockerRegistry, repository: str, faulty: Faulty) -> None:
    write(OciFileSystem(), f"{oci_registry.host}/{repository}:v1", {"big": DATA})
    cuts = [1 << 19]

    def rule(seen: Seen) -> Answer | Cut | None:
        if "/blobs/" not in seen.path:
            return None
        return Cut(cuts.pop()) if cuts else Answer(200, {}, DATA)

    proxy = faulty(oci_registry.host, rule)
    fs = OciFileSystem()
    assert fs.cat_file(f"{proxy.host}/{repository}:v1/big") == DATA
    assert fs.cat_file(f"{proxy.host}/{repository}:v1/big", start=10, end=20) == DATA[10:20]


def test_a_registry_that_answers_with_another_range(
    oci_registry: DockerRegistry, repository: str, faulty: Faulty
) -> None:
    write(OciFileSystem(), f"{oci_registry.host}/{repository}:v1", {"big": DATA})

    def rule(seen: Seen) -> Answer | None:
        headers = {"Content-Range": f"bytes 0-9/{len(DATA)}"}
        return Answer(206, headers, DATA[:10]) if "/blobs/" in seen.path else None

    proxy = faulty(oci_registry.host, rule)
    with pytest.raises(TransferError, match="another range"):
        OciFileSystem().cat_file(f"{proxy.host}/{repository}:v1/big", start=10, end=20)


@pytest.mark.parametrize("wait", ["0", "1", "date", "soon"])
def test_a_storm_of_429(wait: str, oci_registry: DockerRegistry, repository: str, faulty: Faulty) -> None:
    storm = [0]

    def rule(seen: Seen) -> Answer | None:
        storm[0] += 1
        if storm[0] % 4 or storm[0] > 16:
            return None
        after = email.utils.formatdate(time.time() + 1, usegmt=True) if wait == "date" else wait
        return Answer(429, {"Retry-After": after}, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}')

    proxy = faulty(oci_registry.host, rule)
    write(OciFileSystem(), f"{proxy.host}/{repository}:v1", FILES)
    assert_holds(f"{oci_registry.host}/{repository}:v1", FILES)
    assert storm[0] > 16


def test_a_storm_without_end_is_an_error(faulty: Faulty) -> None:
    proxy = faulty("", lambda seen: Answer(429, {"Retry-After": "3600"}))
    with pytest.raises(TransferError, match="429"):
        OciFileSystem(deadline=2).find(f"{proxy.host}/a:v1")
    assert len(proxy.seen) == 1


def test_429_holds_back_every_request_to_the_registry(faulty: Faulty) -> None:
    arrived: list[float] = []

    def refuse_the_first(seen: Seen) -> Answer:
        arrived.append(time.monotonic())
        return Answer(429, {"Retry-After": "1"}) if len(arrived) == 1 else Answer(404)

    proxy = faulty("", refuse_the_first)
    fs = OciFileSystem()
    first = threading.Thread(target=fs.exists, args=(f"{proxy.host}/a:v1",))
    first.start()
    deadline = time.monotonic() + 5
    while not any(client._resume_at for client in fs._clients.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(FileNotFoundError):
        fs.tags(f"{proxy.host}/b")
    first.join()
    assert len(arrived) == 3
    assert min(arrived[1:]) - arrived[0] >= 0.9


def test_retry_after_is_seconds_or_a_date() -> None:
    assert _retry_after("7") == 7
    assert 50 < _retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert [_retry_after(text) for text in ("", "soon", "-1", "Mon, 99 Foo", "٣", email.utils.formatdate(0))] == [0] * 6


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_servers_that_fail_for_a_while(
    status: int, oci_registry: DockerRegistry, repository: str, faulty: Faulty
) -> None:
    proxy = faulty(oci_registry.host, every(3, Answer(status, {}, b"<html>"), method="PUT", containing="/"))
    write(OciFileSystem(), f"{proxy.host}/{repository}:v1", FILES)
    assert_holds(f"{oci_registry.host}/{repository}:v1", FILES)


def test_a_registry_that_is_not_there() -> None:
    fs = OciFileSystem(deadline=0.3)
    with pytest.raises(TransferError, match="connection failed"):
        fs.find("127.0.0.1:1/a:v1")
    with pytest.raises(TransferError, match="connection failed"):
        fs.exists("127.0.0.1:1/a:v1")


def test_a_host_without_a_name_is_an_error_at_once() -> None:
    error = aiohttp.ClientConnectorError(
        aiohttp.client_reqrep.ConnectionKey("h.invalid", 443, True, True, None, None, None),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    )
    failure = network_failure(error, operation="read", place="h.invalid/a:v1")
    assert type(failure) is TransferError
    assert "no such host" in str(failure)


def test_a_registry_that_is_killed_in_the_middle_of_a_push(
    own_registry: DockerRegistry, repository: str, faulty: Faulty
) -> None:
    root = f"{own_registry.host}/{repository}:v1"
    fs = OciFileSystem(deadline=0.5)
    with pytest.raises(TransferError), fs.transaction:
        for i, (path, data) in enumerate(FILES.items()):
            if i == 6:
                own_registry.kill()
            fs.pipe_file(f"{root}/{path}", data)
    own_registry.start()
    assert not OciFileSystem().exists(root)
    proxy = faulty(own_registry.host, lambda seen: None)
    write(OciFileSystem(), f"{proxy.host}/{repository}:v1", FILES)
    assert len(proxy.requests("PUT", "/blobs/")) == len(FILES) - 6
    assert_holds(root, FILES)


def test_a_registry_that_comes_back_finishes_the_push(own_registry: DockerRegistry, repository: str) -> None:
    root = f"{own_registry.host}/{repository}:v1"
    fs = OciFileSystem(deadline=60)
    with fs.transaction:
        fs.pipe_file(f"{root}/a", b"1" * 100)
        own_registry.kill()
        restart = threading.Timer(0.5, own_registry.start)
        restart.start()
        fs.pipe_file(f"{root}/b", b"2" * 100)
        restart.join()
    assert_holds(root, {"a": b"1" * 100, "b": b"2" * 100})


def spoil(registry: DockerRegistry, digest: str, *, size: int) -> None:
    path = registry.blob(digest)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data[:size])


@pytest.mark.parametrize("size", [500, 1000])
def test_a_spoilt_blob_is_not_read(size: int, own_registry: DockerRegistry, repository: str, tmp_path: Path) -> None:
    """Flipped at full size, truncated at half; neither leaves a file behind."""
    root = f"{own_registry.host}/{repository}:v1"
    data = os.urandom(1000)
    write(OciFileSystem(), root, {"x": data})
    fs = OciFileSystem()
    spoil(own_registry, fs.info(f"{root}/x")["digest"], size=size)
    with pytest.raises(IntegrityError):
        fs.cat_file(f"{root}/x")
    with pytest.raises(IntegrityError):
        fs.open(f"{root}/x")
    with pytest.raises(IntegrityError):
        fs.get_file(f"{root}/x", str(tmp_path / "out" / "x"))
    assert os.listdir(tmp_path / "out") == []


def test_a_truncated_blob_is_not_taken_for_present(own_registry: DockerRegistry, repository: str) -> None:
    """docker-registry never overwrites a blob, so that nothing but its operator can heal it: the push must say so."""
    data = os.urandom(1000)
    first = f"{own_registry.host}/{repository}:v1"
    write(OciFileSystem(), first, {"x": data})
    spoil(own_registry, OciFileSystem().info(f"{first}/x")["digest"], size=500)
    with pytest.raises(IntegrityError, match="spoilt"):
        write(OciFileSystem(), first.replace(":v1", ":v2"), {"x": data})


def test_a_tag_that_moves_is_resolved_once(oci_registry: DockerRegistry, repository: str) -> None:
    root = f"{oci_registry.host}/{repository}:v1"
    write(OciFileSystem(), root, {"a": b"1", "b": b"1"})
    fs = OciFileSystem()
    assert fs.cat_file(f"{root}/a") == b"1"
    write(OciFileSystem(), root, {"a": b"2", "b": b"2", "c": b"2"})
    assert fs.cat_file(f"{root}/b") == b"1"
    assert fs.find(root) == [f"{root}/a", f"{root}/b"]
    fs.invalidate_cache()
    assert fs.cat_file(f"{root}/b") == b"1"
    fs.refresh()
    assert fs.cat_file(f"{root}/b") == b"2"


def test_a_blob_that_is_collected_before_the_commit_is_sent_again(
    own_registry: DockerRegistry, repository: str, tmp_path: Path
) -> None:
    root = f"{own_registry.host}/{repository}:v1"
    for name in ("x", "y"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    fs = OciFileSystem()
    with fs.transaction:
        for name in ("x", "y"):
            fs.put_file(str(tmp_path / name), f"{root}/{name}")
        for file in fs._transaction.staged.values():
            own_registry.blob(file.descriptor.digest).unlink()
    assert_holds(root, {"x": b"x" * 1000, "y": b"y" * 1000})


def test_a_blob_that_is_collected_and_cannot_be_sent_again(own_registry: DockerRegistry, repository: str) -> None:
    root = f"{own_registry.host}/{repository}:v1"
    write(OciFileSystem(), root, {"x": b"x" * 1000})
    fs = OciFileSystem()
    own_registry.blob(fs.info(f"{root}/x")["digest"]).unlink()
    with pytest.raises(TransferError, match="lost"), fs.transaction:
        fs.keep([f"{root}/x"])
        fs.pipe_file(f"{root}/y", b"y")
    with pytest.raises(BlobNotFound):
        OciFileSystem().cat_file(f"{root}/x")
    write(OciFileSystem(), root.replace(":v1", ":v2"), {"x": b"x" * 1000})
    assert_holds(root, {"x": b"x" * 1000})


def test_a_blob_that_is_hidden_for_a_moment(oci_registry: DockerRegistry, repository: str, faulty: Faulty) -> None:
    """docker-registry does not see a blob while another writer links it: it is asked again, and nothing is sent."""
    hidden = [True, True]

    def hide(seen: Seen) -> Answer | None:
        if seen.method != "PUT" or "/manifests/" not in seen.path or not hidden:
            return None
        hidden.pop()
        digest = "sha256:" + hashlib.sha256(b"x" * 1000).hexdigest()
        return Answer(400, {}, json.dumps({"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "detail": digest}]}).encode())

    proxy = faulty(oci_registry.host, hide)
    write(OciFileSystem(), f"{proxy.host}/{repository}:v1", {"x": b"x" * 1000, "manifest.json": b"{}"})
    assert len(proxy.requests("PUT", "/manifests/")) == 3
    assert len(proxy.requests("PUT", "/blobs/")) == 2
    assert_holds(f"{oci_registry.host}/{repository}:v1", {"x": b"x" * 1000, "manifest.json": b"{}"})


def test_another_manifest_than_was_sent(oci_registry: DockerRegistry, repository: str, faulty: Faulty) -> None:
    proxy = faulty(
        oci_registry.host,
        lambda seen: (
            Answer(201, {"Docker-Content-Digest": "sha256:" + "0" * 64})
            if seen.method == "PUT" and "/manifests/" in seen.path
            else None
        ),
    )
    with pytest.raises(IntegrityError):
        write(OciFileSystem(), f"{proxy.host}/{repository}:v1", {"a": b"1"})


def test_a_manifest_that_is_not_its_digest(oci_registry: DockerRegistry, repository: str, faulty: Faulty) -> None:
    root = f"{oci_registry.host}/{repository}"
    first = write(OciFileSystem(), f"{root}:v1", {"a": b"1"})
    second = write(OciFileSystem(), f"{root}:v2", {"a": b"2"})
    proxy = faulty(oci_registry.host)
    proxy.target = f"http://{oci_registry.host}"

    class Swap:
        def __call__(self, seen: Seen) -> Answer | None:
            return Answer(307, {"Location": seen.path.replace(first, second)}) if first in seen.path else None

    proxy.rule = Swap()
    with pytest.raises(IntegrityError):
        OciFileSystem().find(f"{proxy.host}/{repository}@{first}")


def test_a_file_that_shrinks_while_it_is_sent(oci_registry: DockerRegistry, repository: str, tmp_path: Path) -> None:
    import asyncio

    (tmp_path / "x").write_bytes(b"x" * 1000)

    async def send() -> None:
        async for _ in FileBody(str(tmp_path / "x")).part(0, 2000):
            pass

    with pytest.raises(FileChanged):
        asyncio.run(send())


def test_mounts_that_are_refused_cost_nothing_but_a_request(
    oci_registry: DockerRegistry, repository: str, faulty: Faulty
) -> None:
    proxy = faulty(oci_registry.host, lambda seen: Answer(405) if "mount=" in seen.path else None)
    write(OciFileSystem(), f"{proxy.host}/{repository}:v1", {"a": b"1" * 100, "manifest.json": b"{}"})
    assert_holds(f"{oci_registry.host}/{repository}:v1", {"a": b"1" * 100, "manifest.json": b"{}"})


def test_memory_does_not_grow_with_a_blob(oci_registry: DockerRegistry, repository: str, tmp_path: Path) -> None:
    import tracemalloc

    size = 64 << 20
    with open(tmp_path / "big", "wb") as file:
        file.truncate(size)
    root = f"{oci_registry.host}/{repository}:v1"
    tracemalloc.start()
    fs = OciFileSystem()
    with fs.transaction:
        fs.put_file(str(tmp_path / "big"), f"{root}/big")
    fs.get_file(f"{root}/big", str(tmp_path / "back"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert os.path.getsize(tmp_path / "back") == size
    assert peak < size // 4
