"""A real IPFS node (js-ipfs) for tests: installed once from npm, run offline on free ports of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.servers.running import free_port, missing, program, start, stop

PACKAGE = "ipfs@0.66.1"
_SHIM = Path(__file__).with_name("promise_with_resolvers.cjs")


def installed() -> Path:
    """Return a folder with js-ipfs in it: ``PFREG_IPFS_NODE``, else what :func:`install` put into the user's cache."""
    program("node", install="Node.js 18 or later, with npm")
    given = os.environ.get("PFREG_IPFS_NODE")
    if given and not (Path(given) / "node_modules" / "ipfs").is_dir():
        missing(f"no js-ipfs in PFREG_IPFS_NODE: npm install --prefix {given} {PACKAGE}")
    if not given and not (_cache() / "complete").exists():
        missing("js-ipfs is not installed: python -m tests.servers.ipfs_node (290 MB, from npm)")
    return Path(given) if given else _cache()


def install(*, timeout: float = 900.0) -> None:
    """Install js-ipfs into the user's cache, unless it is there."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # several test runs share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", PACKAGE]
            subprocess.run(command, timeout=timeout, check=True, stdout=subprocess.DEVNULL)
            (folder / "complete").touch()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pfreg-tests" / PACKAGE


class IpfsNode:
    """One node.

    Parameters
    ----------
    folder : Path
        Where js-ipfs is; see :func:`installed`.
    home : Path
        An empty folder for its repository and log.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._cli = folder / "node_modules" / "ipfs" / "src" / "cli.js"
        self._home = home
        self._variables = (f"NODE_OPTIONS=--require {_SHIM}", f"IPFS_PATH={home / 'repo'}")
        self._process: subprocess.Popen[bytes] | None = None
        self._command("init", "--emptyRepo", "--profile", "test")
        port = self._configure()
        self.rpc = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        shutil.rmtree(self._home / "repo" / "repo.lock", ignore_errors=True)  # what a killed daemon leaves
        command = ["env", *self._variables, "node", str(self._cli), "daemon", "--offline", "--enable-preload=false"]
        self._process = start(command, log=self._home / "daemon.log", ready=self._answers, seconds=120)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._process:
            stop(self._process)
            self._process = None

    def _answers(self) -> bool:
        try:
            return bool(self.call("version", timeout=2.0))
        except OSError:
            return False

    def call(self, command: str, *, timeout: float = 30.0, **params: str) -> list[dict[str, Any]]:
        """POST a command without a body and return its rows."""
        query = urllib.parse.urlencode(params)
        request = urllib.request.Request(f"{self.rpc}/api/v0/{command}?{query}", method="POST")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return [json.loads(line) for line in answer.read().splitlines() if line]

    def content(self, path: str, *, timeout: float = 30.0) -> bytes:
        """Return a file as the node itself reads it."""
        query = urllib.parse.urlencode({"arg": path, "timeout": f"{timeout:g}s"})
        request = urllib.request.Request(f"{self.rpc}/api/v0/cat?{query}", method="POST")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return bytes(answer.read())

    def add(self, folder: Path, *flags: str) -> str:
        """Add a folder with the node's own command and return the CID that it prints."""
        flags = ("--api", self.rpc, "add", "-r", "-Q", *flags)
        return self._command(*flags, str(folder)).split()[-1]

    def get(self, cid: str, folder: Path) -> None:
        """Fetch a folder with the node's own command."""
        self._command("--api", self.rpc, "get", "--output", str(folder), cid)

    def pinned(self, cid: str) -> bool:
        """Say whether the node pins `cid` with everything below it."""
        try:
            return bool(self.call("pin/ls", arg=cid, type="recursive"))
        except urllib.error.HTTPError:
            return False

    def lose(self, cid: str) -> None:
        """Make the node lose a block, pinned or not."""
        self.call("block/rm", arg=cid, force="true")

    def _command(self, *arguments: str) -> str:
        command = ["env", *self._variables, "node", str(self._cli), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout

    def _configure(self) -> int:
        api, gateway, rpc = free_port(), free_port(), free_port()
        path = self._home / "repo" / "config"
        config = json.loads(path.read_text())
        config["Addresses"] |= {
            "Swarm": [],
            "API": f"/ip4/127.0.0.1/tcp/{api}",
            "Gateway": f"/ip4/127.0.0.1/tcp/{gateway}",
            "RPC": f"/ip4/127.0.0.1/tcp/{rpc}",
        }
        config |= {"Routing": {"Type": "none"}, "Bootstrap": [], "Pubsub": {"Enabled": False}}
        path.write_text(json.dumps(config))
        return api


if __name__ == "__main__":
    install()
