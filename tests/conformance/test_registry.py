"""What every registry must do, whatever filesystem is behind it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.callbacks import Callback

import pfreg
from tests.conformance.places import Place, Registry
from tests.conftest import listing, make_tree, stored_blobs
from tests.formats.some_keys import ED25519, P256, spki

NewStore = Callable[[str], pfreg.Store]


def push(image: object, place: Place, store: pfreg.Store, **options: object) -> tuple[pfreg.Pushed, str]:
    """Push, and return the result and where to read from."""
    done = pfreg.push(image, place.url, store=store, storage_options=place.options, **options)  # type: ignore[arg-type]
    return done, place.where(done)


def test_what_is_pulled_is_what_was_pushed(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore
) -> None:
    done, url = push(image, place, store)
    other = new_store("other")
    pulled = pfreg.pull(url, store=other, storage_options=place.options)
    assert pulled.cid == done.cid == image.cid
    assert pulled.manifest.raw == image.manifest.raw
    assert stored_blobs(other) == stored_blobs(store)  # verbatim, down to the frames
    assert pulled.trust.status == "unsigned"
    assert (done.sent, done.skipped) == (pulled.received, pulled.skipped)
    assert done.published


def test_an_empty_folder_travels(store: pfreg.Store, place: Place, new_store: NewStore, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    image = pfreg.snapshot(tmp_path / "nothing", store=store)
    _, url = push(image, place, store)
    pfreg.clone(url, tmp_path / "out", storage_options=place.options)
    assert listing(tmp_path / "out") == {}


def test_many_small_blobs_travel(store: pfreg.Store, place: Place, new_store: NewStore, tmp_path: Path) -> None:
    image = pfreg.snapshot(make_tree(tmp_path / "many", small=300, large=0), store=store)
    done, url = push(image, place, store)
    assert done.sent > 300
    assert pfreg.pull(url, store=new_store("other"), storage_options=place.options).received == done.sent


def test_a_second_push_sends_nothing(image: pfreg.Snapshotted, store: pfreg.Store, place: Place) -> None:
    first, _ = push(image, place, store)
    again, _ = push(image, place, store)
    assert (again.sent, again.copied, again.skipped) == (0, 0, first.sent)
    assert not again.published


def test_a_second_pull_receives_nothing(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore
) -> None:
    _, url = push(image, place, store)
    other = new_store("other")
    first = pfreg.pull(url, store=other, storage_options=place.options)
    again = pfreg.pull(url, store=other, storage_options=place.options)
    assert (again.received, again.skipped) == (0, first.received)


def test_a_clone_is_the_folder(image: pfreg.Snapshotted, store: pfreg.Store, place: Place, tree: Path) -> None:
    _, url = push(image, place, store)
    out = tree.parent / "out"
    done = pfreg.clone(url, out, storage_options=place.options)
    assert listing(out) == listing(tree)
    assert (done.files, done.folders, done.links) == (image.files, image.folders, image.links)


def test_exists_tells(image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, place: Place) -> None:
    if registry.overlays:
        assert not pfreg.exists(place.url, storage_options=place.options)
    _, url = push(image, place, store)
    assert pfreg.exists(url, storage_options=place.options)


def test_nothing_there_is_image_not_found(registry: Registry, place: Place, store: pfreg.Store, tmp_path: Path) -> None:
    if place.fs is None:
        return  # such a place cannot be named before it exists
    for verb in (
        lambda: pfreg.pull(place.url, store=store, storage_options=place.options),
        lambda: pfreg.clone(place.url, tmp_path / "out", storage_options=place.options),
        lambda: pfreg.verify(place.url, storage_options=place.options),
        lambda: pfreg.inspect(place.url, storage_options=place.options),
    ):
        with pytest.raises(pfreg.ImageNotFound):
            verb()
    assert not (tmp_path / "out").exists()


def test_verify_and_inspect_agree(image: pfreg.Snapshotted, store: pfreg.Store, place: Place) -> None:
    done, url = push(image, place, store)
    deep = pfreg.verify(url, storage_options=place.options)
    shallow = pfreg.verify(url, deep=False, storage_options=place.options)
    seen = pfreg.inspect(url, storage_options=place.options)
    assert deep.blobs == shallow.blobs == seen.blobs == done.sent
    assert deep.stored == shallow.stored == seen.stored == done.sent_bytes
    assert seen.missing == ()
    assert {layer.name for layer in seen.layers} == {name for name, _ in image.manifest.layers}
    assert seen.cid == image.cid


def test_the_layout_is_the_originals(image: pfreg.Snapshotted, store: pfreg.Store, place: Place) -> None:
    push(image, place, store)
    if place.fs is None:
        return
    blobs = stored_blobs(store)
    del blobs[f"{image.cid.hex}.zst"]  # the manifest is a blob in a store only
    expected = {f"blobs/sha256/{name[:2]}/{name}" for name in blobs}
    assert place.names() - {"README.md", ".gitattributes"} == {"manifest.json", "manifest.json.sig"} | expected
    assert place.read("manifest.json") == image.manifest.raw
    for name, data in blobs.items():
        assert place.read(f"blobs/sha256/{name[:2]}/{name}") == data


def test_another_image_replaces_the_first(
    image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, place: Place, tmp_path: Path, new_store: NewStore
) -> None:
    push(image, place, store)
    second = pfreg.snapshot(make_tree(tmp_path / "second", seed=1), store=store)
    done, url = push(second, place, store)
    assert done.skipped > 0  # what both share is not sent again
    assert pfreg.pull(url, store=new_store("other"), storage_options=place.options).cid == second.cid


def test_prune_removes_what_the_image_does_not_reach(
    image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, place: Place, tmp_path: Path
) -> None:
    first, _ = push(image, place, store)
    second = pfreg.snapshot(make_tree(tmp_path / "second", seed=1), store=store)
    done, url = push(second, place, store)
    if not registry.overlays:
        with pytest.raises(pfreg.UnsupportedRegistry):
            pfreg.prune(url, storage_options=place.options)
        return
    young = pfreg.prune(url, dry_run=False, storage_options=place.options)
    assert young.removed == ()
    planned = pfreg.prune(url, grace=0, storage_options=place.options)
    assert len(planned.removed) == first.sent - done.skipped
    assert pfreg.verify(url, storage_options=place.options).blobs == planned.kept
    pruned = pfreg.prune(url, grace=0, dry_run=False, storage_options=place.options)
    assert set(pruned.removed) == set(planned.removed)
    assert pfreg.verify(url, storage_options=place.options).blobs == pruned.kept
    assert pfreg.prune(url, grace=0, storage_options=place.options).removed == ()


def test_expect_refuses_another_image(
    image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, place: Place, tmp_path: Path
) -> None:
    if not registry.compares:
        return
    second = pfreg.snapshot(make_tree(tmp_path / "second", seed=1), store=store)
    with pytest.raises(pfreg.Conflict):
        push(image, place, store, expect=second.cid)
    push(image, place, store, expect="absent")
    with pytest.raises(pfreg.Conflict):
        push(second, place, store, expect="absent")
    with pytest.raises(pfreg.Conflict):
        push(second, place, store, expect=str(second.cid))
    assert pfreg.verify(place.url, storage_options=place.options).cid == image.cid
    done, url = push(second, place, store, expect=str(image.cid))
    assert pfreg.verify(url, storage_options=place.options).cid == second.cid == done.cid
    with pytest.raises(pfreg.Conflict):
        pfreg.pull(url, store=store, expect=image.cid, storage_options=place.options)


def test_base_spares_the_upload(
    image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, place: Place, tree: Path
) -> None:
    _, base = push(image, place, store)
    (tree / "README.md").write_text("changed\n")
    fork = pfreg.snapshot(tree, store=store, parents=[image])
    sibling = registry.place()
    done, url = push(fork, sibling, store, base=base)
    assert pfreg.verify(url, storage_options=sibling.options).cid == fork.cid
    if registry.copies:
        assert done.sent == 5  # the file, the tree, environment, messages, and the ledger, whose secret is fresh
        assert done.copied == pfreg.inspect(url, storage_options=sibling.options).blobs - 5
    assert pfreg.verify(base, storage_options=place.options).cid == image.cid


def test_history_takes_the_parents_along(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, tree: Path, new_store: NewStore
) -> None:
    (tree / "README.md").write_text("changed\n")
    child = pfreg.snapshot(tree, store=store, parents=[image])
    done, url = push(child, place, store, history="all")
    assert done.images == 2
    other = new_store("other")
    assert pfreg.pull(url, store=other, storage_options=place.options).images == 1
    assert [m.cid for m in other.images()] == [child.cid]
    assert pfreg.pull(url, store=other, history=1, storage_options=place.options).images == 2
    assert [m.cid for m in other.images()] == [image.cid, child.cid]
    other.verify(image.cid)
    assert pfreg.verify(url, history="all", storage_options=place.options).images == 2


def test_history_survives_a_prune(
    image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, place: Place
) -> None:
    child = pfreg.snapshot(Path(store.path).parent / "tree", store=store, parents=[image])
    _, url = push(child, place, store, history="all")
    if registry.overlays:
        assert pfreg.prune(url, grace=0, dry_run=False, storage_options=place.options).removed == ()
        assert pfreg.verify(url, history="all", storage_options=place.options).images == 2


def test_history_that_was_not_pushed_is_named(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore
) -> None:
    child = pfreg.snapshot(Path(store.path).parent / "tree", store=store, parents=[image])
    _, url = push(child, place, store)
    with pytest.raises(pfreg.ImageNotFound, match=str(image.cid)):
        pfreg.pull(url, store=new_store("other"), history=1, storage_options=place.options)
    assert pfreg.pull(url, store=new_store("other"), history="all", storage_options=place.options).images == 1


def test_copies_in_and_out(image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, tmp_path: Path) -> None:
    place, again = registry.place(), registry.place()
    pfreg.push(image, tmp_path / "from", store=store)
    into = pfreg.copy(tmp_path / "from", place.url, target_options=place.options)
    within = pfreg.copy(place.where(into), again.url, storage_options=place.options, target_options=again.options)
    out = pfreg.copy(again.where(within), tmp_path / "to", storage_options=again.options)
    assert into.cid == within.cid == out.cid == image.cid
    assert listing(tmp_path / "to") == listing(tmp_path / "from")


def test_damage_is_found(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore, tmp_path: Path
) -> None:
    _, url = push(image, place, store)
    if place.fs is None:
        return
    blobs = sorted(
        (name for name in place.names() if name.startswith("blobs/")), key=lambda name: len(place.read(name))
    )
    for name in (blobs[0], blobs[len(blobs) // 2], blobs[-1]):
        whole = place.read(name)
        flipped = bytearray(whole)
        flipped[-1] ^= 0x10  # in the middle of a tiny frame are bits without a meaning
        for damaged in (bytes(flipped), whole[:-1], whole + b"\0", b"", place.read(blobs[1])):
            place.write(name, damaged)
            if name == blobs[1] and damaged == whole:
                continue
            with pytest.raises(pfreg.IntegrityError):
                pfreg.verify(url, storage_options=place.options)
            victim = new_store(f"victim-{uuid.uuid4()}")
            with pytest.raises(pfreg.IntegrityError):
                pfreg.pull(url, store=victim, storage_options=place.options)
            assert victim.images() == []
        place.write(name, whole)
    assert pfreg.verify(url, storage_options=place.options).cid == image.cid


def test_a_missing_blob_is_named(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore
) -> None:
    _, url = push(image, place, store)
    if place.fs is None:
        return
    name = max((name for name in place.names() if name.startswith("blobs/")), key=lambda name: len(place.read(name)))
    place.remove(name)
    digest = name.split("/")[-1].removesuffix(".zst")
    for verb in (
        lambda: pfreg.verify(url, storage_options=place.options),
        lambda: pfreg.verify(url, deep=False, storage_options=place.options),
        lambda: pfreg.pull(url, store=new_store("victim"), storage_options=place.options),
    ):
        with pytest.raises(pfreg.BlobNotFound, match=digest):
            verb()
    assert new_store("victim").images() == []


def test_a_truncated_blob_heals_at_the_next_push(image: pfreg.Snapshotted, store: pfreg.Store, place: Place) -> None:
    _, url = push(image, place, store)
    if place.fs is None:
        return
    name = max((name for name in place.names() if name.startswith("blobs/")), key=lambda name: len(place.read(name)))
    whole = place.read(name)
    place.write(name, whole[: len(whole) // 2])
    done, url = push(image, place, store)
    assert done.sent == 1
    assert place.read(name) == whole
    pfreg.verify(url, storage_options=place.options)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig"])
def test_a_broken_head_is_refused(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore, name: str
) -> None:
    _, url = push(image, place, store)
    if place.fs is None:
        return
    whole = place.read(name)
    for broken in (whole[:-2], whole.replace(b"a", b"b", 1), b"", b"{}"):
        place.write(name, broken)
        with pytest.raises((pfreg.SignatureError, pfreg.IntegrityError)):
            pfreg.pull(url, store=new_store("victim"), storage_options=place.options)
    place.remove(name)
    with pytest.raises((pfreg.SignatureError, pfreg.ImageNotFound)):
        pfreg.pull(url, store=new_store("victim"), storage_options=place.options)
    assert new_store("victim").images() == []
    push(image, place, store)
    assert pfreg.verify(url, storage_options=place.options).cid == image.cid


def test_an_interrupted_push_resumes(image: pfreg.Snapshotted, store: pfreg.Store, place: Place) -> None:
    first, url = push(image, place, store)
    if place.fs is None:
        return
    place.remove("manifest.json")
    lost = next(name for name in sorted(place.names()) if name.startswith("blobs/"))
    place.remove(lost)
    done, url = push(image, place, store)
    assert (done.sent, done.skipped) == (1, first.sent - 1)
    assert done.published
    assert pfreg.verify(url, storage_options=place.options).cid == image.cid


def test_secrets_sign(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FILE", "HF", "S3", "IPFS", "OCI"):
        monkeypatch.setenv(f"PF_{name}_REG_SIGN_KEY", "a shared secret")
    _, url = push(image, place, store)
    pulled = pfreg.pull(url, store=new_store("other"), storage_options=place.options, require_signature=True)
    assert pulled.trust.status == "verified"
    for name in ("FILE", "HF", "S3", "IPFS", "OCI"):
        monkeypatch.setenv(f"PF_{name}_REG_SIGN_KEY", "another secret")
    with pytest.raises(pfreg.SignatureError):
        pfreg.pull(url, store=new_store("other"), storage_options=place.options)


def test_keys_sign(image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore) -> None:
    typed, options = place.url, place.options
    _, url = push(image, place, store, signing_key=P256)
    trust = pfreg.pull(url, store=new_store("to"), storage_options=options, trusted_keys=[spki(P256)]).trust
    assert (trust.status, trust.reference, trust.sequence) == ("verified", pfreg.parse(typed).address, 1)
    assert pfreg.verify(url, storage_options=options).trust == pfreg.Trust("unsigned", "published default key")
    with pytest.raises(pfreg.SignatureError):
        pfreg.verify(url, storage_options=options, trusted_keys=[spki(ED25519)])
    if url == typed:  # where content names the place, there is nothing to come back to
        again, _ = push(image, place, store, signing_key=P256)
        assert (again.published, again.sent) == (False, 0)
        push(image, place, store, signing_key=ED25519, trusted_keys=[spki(P256)])
        assert pfreg.inspect(url, storage_options=options, trusted_keys=[spki(ED25519)]).trust.sequence == 2


def test_the_default_key_is_no_signature(image: pfreg.Snapshotted, store: pfreg.Store, place: Place) -> None:
    _, url = push(image, place, store)
    assert pfreg.verify(url, storage_options=place.options).trust == pfreg.Trust("unsigned", "published default key")
    with pytest.raises(pfreg.SignatureError):
        pfreg.verify(url, storage_options=place.options, require_signature=True)


def test_names_of_all_sorts(image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry) -> None:
    if not registry.any_name:
        return
    for name in ("with space", "ünï-文件", "a+b=c,d", "100%25", "deep/er/and/deeper", "trailing/"):
        place = registry.new(name)
        _, url = push(image, place, store)
        assert pfreg.verify(url.rstrip("/"), storage_options=place.options).cid == image.cid


def test_progress_ends_at_its_size(
    image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore
) -> None:
    seen = Callback()
    done, url = push(image, place, store, callback=seen)
    assert seen.size == seen.value == done.sent_bytes
    again = Callback()
    pulled = pfreg.pull(url, store=new_store("other"), storage_options=place.options, callback=again)
    assert again.size == again.value == pulled.received_bytes + pulled.skipped_bytes


def test_one_job_is_enough(image: pfreg.Snapshotted, store: pfreg.Store, place: Place, new_store: NewStore) -> None:
    _, url = push(image, place, store, jobs=1)
    assert pfreg.pull(url, store=new_store("other"), storage_options=place.options, jobs=1).cid == image.cid


def test_two_pushers_of_one_image(
    image: pfreg.Snapshotted, store: pfreg.Store, registry: Registry, place: Place
) -> None:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(push(image, place, store))
        except pfreg.Conflict as e:
            results.append(e)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    urls = [result[1] for result in results if isinstance(result, tuple)]
    assert len(results) == 2 and urls
    assert pfreg.verify(urls[0], storage_options=place.options).cid == image.cid
