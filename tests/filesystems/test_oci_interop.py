"""What others make of our artifacts, and we of theirs: the format's own bytes, skopeo, and fsspec's suite."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fsspec.asyn import sync
from fsspec.tests import abstract

from pfreg.filesystems.oci import OciFileSystem
from pfreg.filesystems.oci_client import Request
from tests.filesystems.conftest import write
from tests.servers.oci_registry import DockerRegistry
from tests.servers.running import program

GOLDEN = Path(__file__).parent.parent / "vectors" / "registry-small"


def golden_files() -> dict[str, bytes]:
    """Return the image that the original pushed to a folder."""
    files = {path.relative_to(GOLDEN).as_posix(): path.read_bytes() for path in GOLDEN.rglob("*") if path.is_file()}
    assert len(files) == 25
    return files


def raw_manifest(host: str, repository: str, tag: str) -> tuple[bytes, str]:
    async def get(fs: OciFileSystem) -> tuple[bytes, str]:
        client = fs._client(host)
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        url = client.url(repository, f"manifests/{tag}")
        async with await client.send(Request("GET", url, "test", host, (), (200,), accept)) as response:
            return await response.read(), response.headers["Content-Type"]

    fs = OciFileSystem()
    found: tuple[bytes, str] = sync(fs.loop, get, fs)
    return found


def test_the_golden_image_has_the_manifest_of_the_format(oci_registry: DockerRegistry, repository: str) -> None:
    files = golden_files()
    digest = write(OciFileSystem(), f"{oci_registry.host}/{repository}:v1", files)

    def entry(media_type: str, path: str) -> str:
        hexadecimal = hashlib.sha256(files[path]).hexdigest()
        kind = f"application/vnd.processfork.{media_type}"
        return f'"mediaType":"{kind}","size":{len(files[path])},"digest":"sha256:{hexadecimal}"'

    def layer(media_type: str, path: str) -> str:
        return f'{{{entry(media_type, path)},"annotations":{{"org.processfork.path":"{path}"}}}}'

    blobs = sorted(path for path in files if path.startswith("blobs/"))
    layers = [layer("signature.v1+json", "manifest.json.sig"), *(layer("layer.v1+zstd", path) for path in blobs)]
    expected = (
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        f'"config":{{{entry("image.v1+json", "manifest.json")}}},"layers":[{",".join(layers)}]}}'
    )
    raw, content_type = raw_manifest(oci_registry.host, repository, "v1")
    assert raw.decode() == expected
    assert content_type == "application/vnd.oci.image.manifest.v1+json"
    assert digest == f"sha256:{hashlib.sha256(raw).hexdigest()}"


def test_the_order_of_writing_does_not_matter(oci_registry: DockerRegistry, repository: str) -> None:
    files = golden_files()
    first = write(OciFileSystem(), f"{oci_registry.host}/{repository}:v1", files)
    second = write(OciFileSystem(), f"{oci_registry.host}/{repository}:v2", dict(reversed(files.items())))
    assert first == second


# -- skopeo


def skopeo(*arguments: str) -> str:
    done = subprocess.run(
        [program("skopeo", install="apt-get install skopeo"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_lists_inspects_and_copies(oci_registry: DockerRegistry, repository: str, tmp_path: Path) -> None:
    files = golden_files()
    place = f"{oci_registry.host}/{repository}"
    digest = write(OciFileSystem(), f"{place}:v1", files)
    assert json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{place}"))["Tags"] == ["v1"]
    # Without --raw it looks for a container's configuration, which an artifact does not have.
    inspected = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{place}:v1")
    assert inspected.encode() == raw_manifest(oci_registry.host, repository, "v1")[0]
    assert len(json.loads(inspected)["layers"]) == 24
    (tmp_path / "manifest").write_text(inspected)
    assert skopeo("manifest-digest", str(tmp_path / "manifest")).strip() == digest

    copied = ("copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo(*copied, f"docker://{place}:v1", f"docker://{place}/copy:v2")
    assert_same(f"{place}/copy:v2", files, digest)
    # Through a folder and back, where nothing of the first registry is left.
    skopeo(*copied, f"docker://{place}:v1", f"oci:{tmp_path / 'layout'}:v1")
    skopeo(*copied, f"oci:{tmp_path / 'layout'}:v1", f"docker://{place}/back:v3")
    assert_same(f"{place}/back:v3", files, digest)


def assert_same(root: str, files: dict[str, bytes], digest: str) -> None:
    fs = OciFileSystem()
    assert {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)} == files
    assert fs.info(root)["digest"] == digest


def test_skopeo_copies_shards(oci_registry: DockerRegistry, repository: str) -> None:
    files = golden_files()
    place = f"{oci_registry.host}/{repository}"
    digest = write(OciFileSystem(oci_shard=10), f"{place}:v1", files)
    everything = ("copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo(*everything, f"docker://{place}:v1", f"docker://{place}/copy:v1")
    assert_same(f"{place}/copy:v1", files, digest)


# -- fsspec's own suite, where it applies: an artifact is read like any tree


class TouchCommits(OciFileSystem):
    """One test of the suite touches a file outside of any transaction."""

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        with self.transaction:
            self.pipe_file(path, b"")


class PrebuiltTrees(abstract.AbstractFixtures):
    """The suite's trees, each written in one transaction: it would write and remove them file by file."""

    @pytest.fixture
    def fs(self) -> OciFileSystem:
        return TouchCommits()

    @pytest.fixture
    def fs_path(self, oci_registry: DockerRegistry, repository: str) -> str:
        return f"{oci_registry.host}/{repository}:v1"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, fs: OciFileSystem, fs_path: str) -> str:
        return build(fs, fs_path, self._bulk_operations_scenario_0)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, fs: OciFileSystem, fs_path: str) -> str:
        return build(fs, fs_path, self._glob_edge_cases_files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, fs: OciFileSystem, fs_path: str) -> str:
        return build(fs, fs_path, self._dir_and_file_with_same_name_prefix)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, fs: OciFileSystem, fs_path: str) -> str:
        return build(fs, fs_path, self._10_files_with_hashed_names)


def build(fs: OciFileSystem, root: str, scenario: Any) -> str:
    class Staged:
        """What the suite needs of a filesystem to write its trees, inside a transaction."""

        def touch(self, path: str) -> None:
            fs.pipe_file(path, b"")

        def __getattr__(self, name: str) -> Any:
            return getattr(fs, name)

    with fs.transaction:
        source: str = scenario(Staged(), lambda *parts: "/".join(parts), root)
    return source


class TestGet(abstract.AbstractGetTests, PrebuiltTrees):
    pass


def test_recursive_put_and_get(oci_registry: DockerRegistry, repository: str, tmp_path: Path) -> None:
    root = f"{oci_registry.host}/{repository}:v1"
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "a").write_bytes(b"1")
    (tmp_path / "tree" / "sub" / "b").write_bytes(os.urandom(100))
    fs = OciFileSystem()
    with fs.transaction:
        fs.put(f"{tmp_path}/tree/", f"{root}/", recursive=True)
    fs.get(f"{root}/", f"{tmp_path}/back/", recursive=True)
    for path in ("a", "sub/b"):
        assert (tmp_path / "back" / path).read_bytes() == (tmp_path / "tree" / path).read_bytes()
    assert fs.du(root) == 101


def test_many_at_once_share_the_connections(oci_registry: DockerRegistry, repository: str) -> None:
    root = f"{oci_registry.host}/{repository}:v1"
    files = {f"{i:03}": b"%d" % i for i in range(300)}
    fs = OciFileSystem(concurrency=4)

    async def put_all() -> None:
        await asyncio.gather(*[fs._pipe_file(f"{root}/{path}", data) for path, data in files.items()])

    with fs.transaction:
        sync(fs.loop, put_all)
    fs = OciFileSystem(concurrency=4)
    assert fs.cat(fs.find(root)) == {f"{root}/{path}": data for path, data in files.items()}
