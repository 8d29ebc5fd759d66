"""Images in OCI registries, through the verbs: what the engine and this filesystem make together."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import pfreg
from pfreg.filesystems.oci import OciFileSystem
from tests.conftest import listing, make_tree, stored_blobs
from tests.filesystems.conftest import Faulty
from tests.servers.fault_proxy import Answer, Seen
from tests.servers.oci_registry import DockerRegistry
from tests.servers.running import program


def test_an_image_survives_a_copy_by_skopeo(
    oci_registry: DockerRegistry,
    repository: str,
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    tree: Path,
    tmp_path: Path,
) -> None:
    done = pfreg.push(image, f"oci://{oci_registry.host}/{repository}:v1", store=store)
    command = ["copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    places = [f"docker://{oci_registry.host}/{repository}:v1", f"docker://{oci_registry.host}/{repository}/copy:v2"]
    subprocess.run([program("skopeo", install="apt-get install skopeo"), *command, *places], check=True, timeout=120)
    other = pfreg.Store(tmp_path / "other")
    copy = f"oci://{oci_registry.host}/{repository}/copy"
    assert pfreg.pull(f"{copy}:v2", store=other).cid == image.cid
    assert stored_blobs(other) == stored_blobs(store)
    pfreg.clone(f"{copy}@{done.committed}", tmp_path / "out")
    assert listing(tmp_path / "out") == listing(tree)


def test_tags(oci_registry: DockerRegistry, repository: str, image: pfreg.Snapshotted, store: pfreg.Store) -> None:
    url = f"oci://{oci_registry.host}/{repository}"
    pfreg.push(image, url, store=store)
    pfreg.push(image, f"{url}:v2", store=store)
    assert list(pfreg.tags(url)) == ["latest", "v2"]


def test_a_tag_that_moves_in_the_middle_of_a_pull(
    oci_registry: DockerRegistry,
    repository: str,
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    tmp_path: Path,
    faulty: Faulty,
) -> None:
    """The pull brings the image that the tag named when it began, whole."""
    url = f"oci://{oci_registry.host}/{repository}:v1"
    pfreg.push(image, url, store=store)
    second = pfreg.snapshot(make_tree(tmp_path / "second", seed=5), store=store)
    moved: list[pfreg.Pushed] = []

    def move(seen: Seen) -> None:
        if "/blobs/" in seen.path and not moved:
            moved.append(pfreg.push(second, url, store=store))

    # On a thread of its own: the push answers while the proxy waits.
    proxy = faulty(oci_registry.host, move)
    pulled = pfreg.pull(f"oci://{proxy.host}/{repository}:v1", store=tmp_path / "other")
    assert moved
    assert pulled.cid == image.cid
    assert pfreg.pull(url, store=tmp_path / "other").cid == second.cid


def test_a_push_that_expects_sees_who_came_in_between(
    oci_registry: DockerRegistry,
    repository: str,
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    tmp_path: Path,
    faulty: Faulty,
) -> None:
    url = f"oci://{oci_registry.host}/{repository}:v1"
    second = pfreg.snapshot(make_tree(tmp_path / "second", seed=5), store=store)
    between: list[pfreg.Pushed] = []

    def come(seen: Seen) -> None:
        if seen.method == "POST" and not between:
            between.append(pfreg.push(second, url, store=store))

    proxy = faulty(oci_registry.host, come)
    with pytest.raises(pfreg.Conflict):
        pfreg.push(image, f"oci://{proxy.host}/{repository}:v1", store=store, expect="absent")
    assert between
    assert pfreg.pull(url, store=tmp_path / "other").cid == second.cid


def test_too_large_an_image_is_refused_before_anything_is_sent(
    oci_registry: DockerRegistry,
    repository: str,
    image: pfreg.Snapshotted,
    store: pfreg.Store,
    faulty: Faulty,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pfreg.filesystems.oci.MAX_MANIFEST", 2000)
    proxy = faulty(oci_registry.host, lambda seen: None)
    url = f"oci://{proxy.host}/{repository}:v1"
    with pytest.raises(pfreg.LimitExceeded, match="oci_shard"):
        pfreg.push(image, url, store=store)
    assert {seen.method for seen in proxy.seen} == {"GET"}
    pfreg.push(image, url, store=store, storage_options={"oci_shard": 5})
    assert pfreg.verify(url).cid == image.cid


def test_a_push_to_a_digest_and_bad_options_are_refused(
    oci_registry: DockerRegistry, repository: str, image: pfreg.Snapshotted, store: pfreg.Store
) -> None:
    url = f"oci://{oci_registry.host}/{repository}"
    done = pfreg.push(image, f"{url}:v1", store=store)
    options: dict[str, Any] = {"pasword": "hunter2-the-secret"}
    with pytest.raises(pfreg.BadOption, match="pasword") as caught:
        pfreg.pull(f"{url}:v1", store=store, storage_options=options)
    assert "hunter2" not in str(caught.value)
    second = pfreg.snapshot(make_tree(Path(store.path).parent / "second", seed=5), store=store)
    with pytest.raises(pfreg.BadReference):
        pfreg.push(second, f"{url}@{done.committed}", store=store)
    with pytest.raises(pfreg.IntegrityError):
        moved = pfreg.push(second, f"{url}:v1", store=store)
        assert moved.committed != done.committed
        pfreg.pull(f"{url}:v1@{done.committed}", store=store)


def test_a_container_image_is_no_image(faulty: Faulty, tmp_path: Path) -> None:
    raw = b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]}'
    kind = {"Content-Type": "application/vnd.docker.distribution.manifest.v2+json"}
    liar = faulty("", lambda seen: Answer(200, kind, raw))
    with pytest.raises(pfreg.ManifestError):
        pfreg.pull(f"oci://{liar.host}/a:v1", store=tmp_path / "store")


def test_oracles_references_get_a_hint() -> None:
    with pytest.raises(pfreg.BadReference, match="Oracle"):
        pfreg.exists("oci://bucket@namespace/prefix")


def test_the_filesystem_is_known_to_fsspec_by_its_own_name() -> None:
    import fsspec

    assert fsspec.get_filesystem_class("ocireg") is OciFileSystem
