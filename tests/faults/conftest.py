"""Fixtures of the fault tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pfreg
from pfreg import local_files, protocol_table, registry, transfer, world_checkout, world_snapshot

from . import flaky
from .trees import LARGE, make_tree


@pytest.fixture(autouse=True)
def no_secrets_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests does not decide what is signed."""
    for name in [name for name in os.environ if name.startswith("PF_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make thousands of rounds fast: nothing is synced or waited for, and a blob of 4 KiB counts as large."""
    monkeypatch.setattr(local_files, "_SYNCFS", None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(registry, "_PAUSE", 0.0)
    for module in (transfer, world_checkout, world_snapshot):
        monkeypatch.setattr(module, "SMALL", LARGE)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, so that a test can see what is left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[flaky.World]:
    """The files behind the flaky protocols, empty."""
    flaky.register()
    monkeypatch.setitem(protocol_table.WRITES, "flakyfolder", protocol_table._FOLDER)  # type: ignore[arg-type]
    flaky.WORLD.files.clear()
    flaky.WORLD.arm()
    yield flaky.WORLD
    flaky.WORLD.files.clear()
    flaky.WORLD.arm()


@pytest.fixture
def store(tmp_path: Path) -> pfreg.Store:
    """A store."""
    return pfreg.Store(tmp_path / "store")


@pytest.fixture
def old(tmp_path: Path, store: pfreg.Store) -> pfreg.Snapshotted:
    """An image."""
    return pfreg.snapshot(make_tree(tmp_path / "old", seed=1), store=store, jobs=1)


@pytest.fixture
def new(tmp_path: Path, store: pfreg.Store, old: pfreg.Snapshotted) -> pfreg.Snapshotted:
    """Another image, which shares some of its blobs with the old one."""
    return pfreg.snapshot(make_tree(tmp_path / "new", seed=2), store=store, parents=[old], jobs=1)
