"""Google Cloud Storage and Azure, through gcsfs and adlfs: what the conformance suite does not ask."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.callbacks import Callback

import pfreg
from pfreg.blobs import ListingRefused
from pfreg.reference import locate
from tests.servers.azurite import KEY, BlobServer, azurite
from tests.servers.fault_proxy import Answer, Cut, FaultProxy, Seen
from tests.servers.gcs_emulator import gcs_emulator

PROJECT = Path(__file__).parents[2]
FORBIDDEN = {"gs": pfreg.TransferError, "abfs": pfreg.AccessDenied}
"""gcsfs raises a bare OSError for 403, which says nothing but text."""


@dataclass(frozen=True)
class Cloud:
    """A server, and a proxy before it."""

    scheme: str
    options: Mapping[str, Any]
    proxy: FaultProxy

    def new(self) -> str:
        return f"{self.scheme}://images/{uuid.uuid4().hex[:12]}"

    def names(self, url: str) -> list[str]:
        fs = fsspec.filesystem(self.scheme, **self.options, use_listings_cache=False)
        return list(fs.find(url))


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlobServer]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="module", params=["gs", "abfs"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    proxy = FaultProxy()
    through = f"http://{proxy.host}"
    with ExitStack() as stack:
        if request.param == "gs":
            options = stack.enter_context(gcs_emulator(tmp_path_factory.mktemp("gcs"), seen_as=through))
            proxy.target = options["endpoint_url"]
            yield Cloud("gs", options | {"endpoint_url": through}, proxy)
        else:
            server = request.getfixturevalue("azure")
            proxy.target = server.url.rsplit("/", 1)[0]
            # A token, for the proxy adds headers that a key would have to sign.
            string = server.token("racwdl")["connection_string"]
            yield Cloud("abfs", {"connection_string": string.replace(proxy.target, through)}, proxy)
    proxy.stop()


@pytest.fixture
def cloud(servers: Cloud) -> Iterator[Cloud]:
    servers.proxy.seen.clear()
    yield servers
    servers.proxy.rule = lambda seen: None


def noise(folder: Path, size: int, *, name: str = "weights") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(random.Random(size).randbytes(size))
    return folder


def test_a_push_asks_nothing_for_each_blob(cloud: Cloud, image: pfreg.Snapshotted, store: pfreg.Store) -> None:
    url = cloud.new()
    done = pfreg.push(image, url, store=store, storage_options=cloud.options)
    assert done.sent < len(cloud.proxy.seen) <= done.sent + 16
    cloud.proxy.seen.clear()
    pfreg.push(image, url, store=store, storage_options=cloud.options)
    assert len(cloud.proxy.seen) <= 4


def test_forbidden_is_not_absent(cloud: Cloud, store: pfreg.Store) -> None:
    url = cloud.new()
    assert not pfreg.exists(url, storage_options=cloud.options)
    cloud.proxy.rule = lambda seen: Answer(403)
    for verb in (
        lambda: pfreg.exists(url, storage_options=cloud.options),
        lambda: pfreg.pull(url, store=store, storage_options=cloud.options),
    ):
        with pytest.raises(FORBIDDEN[cloud.scheme]):
            verb()


def test_no_such_bucket(cloud: Cloud, azure: BlobServer, image: pfreg.Snapshotted, store: pfreg.Store) -> None:
    options = azure.options() if cloud.scheme == "abfs" else cloud.options  # the token is for one container
    with pytest.raises(pfreg.FolderNotFound):
        pfreg.push(image, f"{cloud.scheme}://no-such-bucket/x", store=store, storage_options=options)


def test_a_download_that_is_cut_begins_again(cloud: Cloud, store: pfreg.Store, tmp_path: Path) -> None:
    image = pfreg.snapshot(noise(tmp_path / "tree", 3 << 20), store=store)
    url = cloud.new()
    pfreg.push(image, url, store=store, storage_options=cloud.options)
    cuts: list[Seen] = []

    def once(seen: Seen) -> Cut | None:
        if seen.method != "GET" or "blobs" not in seen.path or "list" in seen.path or "prefix" in seen.path or cuts:
            return None
        cuts.append(seen)
        return Cut(1 << 20)

    other = pfreg.Store(tmp_path / "other")
    cloud.proxy.rule = lambda seen: once(seen) if "Range" not in seen.headers or cloud.scheme == "abfs" else None
    told = Callback()
    pulled = pfreg.pull(url, store=other, storage_options=cloud.options, callback=told, jobs=1)
    assert cuts and pulled.cid == image.cid
    assert told.value == told.size == pulled.received_bytes
    other.verify(image.cid)


def test_a_pusher_who_is_killed_leaves_no_part_of_a_blob(cloud: Cloud, store: pfreg.Store, tmp_path: Path) -> None:
    """It is killed between the parts of a large one; Azure's library makes parts beyond 64 MiB."""
    size = {"gs": 24 << 20, "abfs": 66 << 20}[cloud.scheme]
    image = pfreg.snapshot(noise(tmp_path / "tree", size), store=store)
    url = cloud.new()
    code = "import json, pfreg, sys; cid, url, store, o = sys.argv[1:]; "
    code += "pfreg.push(cid, url, store=store, storage_options=json.loads(o))"
    command = [sys.executable, "-c", code, str(image.cid), url, str(store.path), json.dumps(dict(cloud.options))]
    parts: list[Seen] = []
    pusher: list[subprocess.Popen[bytes]] = []

    def kill(seen: Seen) -> Cut | None:
        if "upload_id" in seen.path or "comp=block&" in seen.path:
            parts.append(seen)
            if len(parts) == 3:
                pusher[0].kill()
        return Cut(1, upward=True) if len(parts) >= 3 else None

    cloud.proxy.rule = kill
    pusher.append(subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.DEVNULL))
    assert pusher[0].wait(60) < 0
    cloud.proxy.rule = lambda seen: None
    assert not pfreg.exists(url, storage_options=cloud.options)
    left = cloud.names(url)
    done = pfreg.push(image, url, store=store, storage_options=cloud.options)
    assert (done.skipped, done.sent > 0) == (len(left), True)
    assert pfreg.verify(url, storage_options=cloud.options).cid == image.cid


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures with VmHWM")
def test_a_large_file_is_not_held_in_memory(cloud: Cloud, tmp_path: Path) -> None:
    """One of 112 MiB; Azure's library gets the first 32 MiB in one piece."""
    noise(tmp_path, 112 << 20, name="file")
    url, options = cloud.new(), json.dumps(dict(cloud.options))
    taken = {}
    for verb in ("put", "get"):
        command = [sys.executable, "-m", "tests.filesystems.measured_file", verb, url, options, str(tmp_path / "file")]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        taken[verb] = int(done.stdout)
    assert (tmp_path / "file.got").read_bytes() == (tmp_path / "file").read_bytes()
    assert max(taken.values()) < 72 << 10, f"KiB: {taken}"


def test_nothing_is_said_at_exit(cloud: Cloud, image: pfreg.Snapshotted, store: pfreg.Store) -> None:
    """No "Unclosed client session", and nothing else."""
    url = cloud.new()
    pfreg.push(image, url, store=store, storage_options=cloud.options)
    settings = [f"-o{name}={value}" for name, value in cloud.options.items()]
    command = [sys.executable, "-m", "pfreg", "verify", url, *settings]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_upload_that_gcsfs_cuts_short_is_not_published(cloud: Cloud, store: pfreg.Store, tmp_path: Path) -> None:
    """For it separates a small object from its description by a line that is always the same."""
    if cloud.scheme != "gs":
        return
    content = random.Random(1).randbytes(2000)
    noise(tmp_path / "tree", 0).joinpath("file").write_bytes(content + b"\n--==0==--\n" + content[::-1])
    image = pfreg.snapshot(tmp_path / "tree", store=store)
    url = cloud.new()
    with pytest.raises(pfreg.TransferError, match="was written, but"):
        pfreg.push(image, url, store=store, storage_options=cloud.options)
    assert not pfreg.exists(url, storage_options=cloud.options)


def test_a_reader_may_not_write(azure: BlobServer, image: pfreg.Snapshotted, store: pfreg.Store) -> None:
    url = f"abfs://images/{uuid.uuid4().hex}"
    reader = azure.token("rl")
    with pytest.raises(pfreg.AccessDenied):
        pfreg.push(image, url, store=store, storage_options=reader)
    pfreg.push(image, url, store=store, storage_options=azure.options())
    assert pfreg.verify(url, storage_options=reader).cid == image.cid


def test_who_may_not_list_can_push_and_pull(azure: BlobServer, image: pfreg.Snapshotted, store: pfreg.Store) -> None:
    url = f"abfs://images/{uuid.uuid4().hex}"
    blind = azure.token("rcw")
    with pytest.warns(ListingRefused):
        pfreg.push(image, url, store=store, storage_options=blind)
    with pytest.warns(ListingRefused):
        assert pfreg.verify(url, storage_options=blind).cid == image.cid


@pytest.mark.filterwarnings("ignore::pfreg.blobs.ListingRefused")
def test_no_secret_of_azure_is_shown(azure: BlobServer, image: pfreg.Snapshotted, store: pfreg.Store) -> None:
    wrong = "A" + KEY[1:]
    key = {"connection_string": azure.options()["connection_string"].replace(KEY, wrong)}
    token = azure.token("r")
    signature = token["connection_string"].partition("sig=")[2].rstrip(";")
    for options, secret in ((key, wrong), (token, signature)):
        assert secret in locate("abfs://images/x", storage_options=options).secrets
        with pytest.raises(pfreg.AccessDenied) as caught:
            pfreg.push(image, "abfs://images/x", store=store, storage_options=options)
        assert secret not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


@pytest.mark.parametrize("scheme, extra", [("gs", "gs"), ("gcs", "gs"), ("abfs", "abfs"), ("az", "abfs")])
def test_without_its_package_the_error_names_the_extra(scheme: str, extra: str) -> None:
    code = f"import sys; sys.modules |= dict.fromkeys(('gcsfs', 'adlfs')); import pfreg; pfreg.exists('{scheme}://b/x')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert done.stderr.splitlines()[-1].startswith("pfreg.errors.MissingDependency")
    assert f"pip install 'pfreg[{extra}]'" in done.stderr
