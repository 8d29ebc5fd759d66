"""A second client: what we push, Hugging Face's JavaScript library reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import pfreg
from tests.conftest import make_tree
from tests.servers.hf_hub import Hub
from tests.servers.running import missing, program

from .conftest import content

READER = """
const { createHash } = require("node:crypto");
const { listFiles, downloadFile } = require(process.env.LIBRARY);
const [hubUrl, accessToken, name] = process.argv.slice(1);
const repo = { type: "dataset", name };

(async () => {
  const found = {};
  for await (const file of listFiles({ repo, recursive: true, hubUrl, accessToken })) {
    if (file.type !== "file") continue;
    const blob = await downloadFile({ repo, path: file.path, hubUrl, accessToken });
    found[file.path] = createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
  }
  console.log(JSON.stringify(found));
})();
"""


@pytest.fixture
def library() -> str:
    """The folder of the library: below ``NODE_PATH``, ``node_modules`` here, or where npm installs globally."""
    program("node", install="apt install nodejs npm")
    places = [*os.environ.get("NODE_PATH", "").split(os.pathsep), "node_modules"]
    if npm := shutil.which("npm"):
        done = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, timeout=60)
        places.append(done.stdout.strip())
    for place in filter(None, places):
        folder = Path(place).absolute() / "@huggingface" / "hub"
        if folder.is_dir():
            return str(folder)
    missing("@huggingface/hub is not installed: npm install --global @huggingface/hub")
    return ""


def test_javascript_reads_what_we_pushed(hub: Hub, library: str, tmp_path: Path) -> None:
    store = pfreg.Store(tmp_path / "store")
    image = pfreg.snapshot(make_tree(tmp_path / "tree"), store=store)
    options = {"endpoint": hub.url, "token": "hf_alice"}
    pfreg.push(image, "hf://alice/image", store=store, storage_options=options)
    command = ["node", "-e", READER, hub.url, "hf_alice", "alice/image"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"LIBRARY": library}, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    del found[".gitattributes"]
    assert found == {path: hashlib.sha256(data).hexdigest() for path, data in content(hub).items()}
