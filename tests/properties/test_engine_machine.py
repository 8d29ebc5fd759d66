"""The engine as a state machine: two stores, three roots, and every verb in any order.

Whatever came before: a root with a manifest verifies and is the image that was brought there last, an image in a store
has its whole closure, and a checkout gives the files that were snapshotted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import pfreg
from pfreg import local_files, registry
from pfreg.closure import closure
from pfreg.digest import Digest
from pfreg.layout import digest_of_blob
from pfreg.registry import Registry
from tests.conftest import listing

NAMES = st.sampled_from(["a", "b", "c.txt", "sub/a", "sub/b", "sub/deep/a"])
CONTENTS = st.sampled_from([b"", b"one", b"two", b"one" * 3000])
TREES = st.dictionaries(NAMES, CONTENTS, max_size=4)
STORES = st.sampled_from(["A", "B"])
ROOTS = st.sampled_from(["memory 1", "memory 2", "folder"])
HISTORY = st.sampled_from([0, "all"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is synced or waited for, and nobody's environment signs."""
    monkeypatch.setattr(local_files, "_SYNCFS", None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(registry, "_PAUSE", 0.0)
    for name in [name for name in os.environ if name.startswith("PF_")]:
        monkeypatch.delenv(name)
    yield


class Engine(RuleBasedStateMachine):
    """Verbs, and what must hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pfreg-machine-"))
        self.stores = {name: pfreg.Store(self.folder / name) for name in "AB"}
        self.urls = {
            "memory 1": f"memory://{self.folder.name}/1",
            "memory 2": f"memory://{self.folder.name}/2",
            "folder": str(self.folder / "root"),
        }
        self.trees: dict[Digest, dict[str, Any]] = {}
        self.parents: dict[Digest, list[Digest]] = {}
        self.held: dict[str, set[Digest]] = {"A": set(), "B": set()}
        self.roots: dict[str, Digest] = {}
        self.born: list[Digest] = []  # a CID holds a time: only by age are images in the same order in every run
        self.count = 0

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder)
        memory = fsspec.filesystem("memory")
        if memory.exists(f"/{self.folder.name}"):
            memory.rm(f"/{self.folder.name}", recursive=True)

    def fresh(self) -> Path:
        self.count += 1
        return self.folder / f"tree {self.count}"

    # -- verbs -------------------------------------------------------------------------------------------------------

    @initialize(files=TREES)
    def first(self, files: dict[str, bytes]) -> None:
        """Begin with an image at every root."""
        self.snapshot("A", files, 0)
        for name in self.urls:
            self.push("A", 0, name, 0, None)

    @rule(store=STORES, files=TREES, parents=st.integers(0, 2))
    def snapshot(self, store: str, files: dict[str, bytes], parents: int) -> None:
        """Take a new tree, with images of the store as its parents."""
        folder = self.fresh()
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        chosen = self.oldest_first(store)[:parents]
        image = pfreg.snapshot(folder, store=self.stores[store], parents=chosen, jobs=1)
        self.trees[image.cid], self.parents[image.cid] = listing(folder), chosen
        self.held[store].add(image.cid)
        self.born.append(image.cid)

    def oldest_first(self, store: str) -> list[Digest]:
        return [cid for cid in self.born if cid in self.held[store]]

    def chosen(self, store: str, pick: int) -> Digest:
        assume(self.held[store])
        images = self.oldest_first(store)
        return images[pick % len(images)]

    @rule(store=STORES, pick=st.integers(0, 9), root=ROOTS, history=HISTORY, base=st.none() | ROOTS)
    def push(self, store: str, pick: int, root: str, history: Any, base: str | None) -> None:
        """Push an image; a second time nothing is sent."""
        cid = self.chosen(store, pick)
        same = base is not None and base.split()[0] == root.split()[0]
        where = self.urls[base] if same and base is not None else None
        options: dict[str, Any] = {"store": self.stores[store], "history": history, "jobs": 1}
        pfreg.push(cid, self.urls[root], base=where, **options)
        again = pfreg.push(cid, self.urls[root], **options)
        assert (again.sent, again.copied, again.published) == (0, 0, False)
        self.roots[root] = cid

    @rule(root=ROOTS, store=STORES, history=HISTORY)
    def pull(self, root: str, store: str, history: Any) -> None:
        """Pull an image; a second time nothing is received."""
        assume(root in self.roots)
        target = self.stores[store]
        pulled = pfreg.pull(self.urls[root], store=target, history=history, jobs=1)
        assert pulled.cid == self.roots[root]
        assert pfreg.pull(self.urls[root], store=target, history=history, jobs=1).received == 0
        came = {manifest.cid for manifest in target.images()} - self.held[store]
        assert came <= self.ancestors(pulled.cid) | {pulled.cid}
        assert history or came <= {pulled.cid}
        self.held[store] |= came

    @rule(source=ROOTS, place=ROOTS, history=HISTORY)
    def copy(self, source: str, place: str, history: Any) -> None:
        """Copy an image from root to root."""
        assume(source in self.roots and source != place)
        pfreg.copy(self.urls[source], self.urls[place], history=history, jobs=1)
        self.roots[place] = self.roots[source]

    @rule(root=ROOTS, store=STORES, pick=st.integers(0, 9))
    def conflict(self, root: str, store: str, pick: int) -> None:
        """Expect an image that is not there: nothing changes."""
        cid = self.chosen(store, pick)
        assume(self.roots.get(root) != cid)
        with pytest.raises(pfreg.Conflict):
            pfreg.push(cid, self.urls[root], store=self.stores[store], expect=cid, jobs=1)

    @rule(root=ROOTS)
    def prune(self, root: str) -> None:
        """Prune: what is left is what the image, and the ancestors that are there, reach."""
        assume(root in self.roots)
        pfreg.prune(self.urls[root], grace=0, dry_run=False)
        opened = Registry.open(self.urls[root])
        reached = set(closure(opened.image(verifier=pfreg.HmacVerifier()).manifest, opened.content))
        left = {digest_of_blob(path) for path in opened.files.find(opened.path_in("blobs"))}
        assert reached <= left
        if not self.parents[self.roots[root]]:
            assert left == reached
        assert not pfreg.prune(self.urls[root], grace=0, dry_run=False).removed

    @rule(store=STORES)
    def collect(self, store: str) -> None:
        """Collect garbage: what is left is what the images reach."""
        here = self.stores[store]
        here.gc(grace=0)
        reached = {digest for manifest in here.images() for digest in closure(manifest, here.content)}
        assert set(here.listing()) == reached | self.held[store]

    @rule(store=STORES, pick=st.integers(0, 9))
    def remove(self, store: str, pick: int) -> None:
        """Forget an image."""
        cid = self.chosen(store, pick)
        self.stores[store].remove(cid)
        self.held[store].discard(cid)

    @rule(root=ROOTS)
    def clone(self, root: str) -> None:
        """Clone: the files are those that were snapshotted."""
        assume(root in self.roots)
        out = self.fresh()
        pfreg.clone(self.urls[root], out, jobs=1)
        assert listing(out) == self.trees[self.roots[root]]

    @rule(store=STORES, pick=st.integers(0, 9))
    def checkout(self, store: str, pick: int) -> None:
        """Check out: likewise."""
        cid, out = self.chosen(store, pick), self.fresh()
        pfreg.checkout(cid, out, store=self.stores[store], jobs=1)
        assert listing(out) == self.trees[cid]

    def ancestors(self, cid: Digest) -> set[Digest]:
        found: set[Digest] = set()
        pending = list(self.parents[cid])
        while pending:
            parent = pending.pop()
            if parent not in found:
                found.add(parent)
                pending += self.parents[parent]
        return found

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def roots_verify(self) -> None:
        """Every root holds what was brought there last, whole."""
        for name, url in self.urls.items():
            if name in self.roots:
                assert pfreg.verify(url, jobs=1).cid == self.roots[name]
            else:
                assert not pfreg.exists(url)

    @invariant()
    def stores_are_closed(self) -> None:
        """Every image in a store has its closure."""
        for name, store in self.stores.items():
            images = store.images()
            assert {manifest.cid for manifest in images} == self.held[name]
            for manifest in images:
                store.verify(manifest.cid)

    @invariant()
    def nothing_is_left_over(self) -> None:
        """No temporary file stays."""
        assert not [name for _, _, names in os.walk(self.folder) for name in names if name.endswith(".part")]


TestEngine = Engine.TestCase
TestEngine.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
