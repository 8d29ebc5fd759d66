"""A real OpenSSH server with SFTP, for the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.running import answers, free_port, program, start, stop


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server: its port, and what fsspec's sftp needs to log in."""

    port: int
    storage_options: dict[str, Any]


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Run a server whose keys and configuration are in `folder`."""
    binary = program("sshd", install="apt-get install openssh-server, or your system's package")
    keygen = program("ssh-keygen", install="apt-get install openssh-client, or your system's package")
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.getuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # where sshd, as root, drops its privileges
    port = free_port()
    lines = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "PidFile": folder / "pid",
        "AuthorizedKeysFile": folder / "user.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "MaxStartups": 100,
        "MaxSessions": 100,
        "Subsystem": "sftp internal-sftp",
    }
    config = folder / "config"
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    server = start([binary, "-D", "-e", "-f", str(config)], log=folder / "log", ready=lambda: answers(port))
    try:
        yield Sshd(
            port,
            {
                "username": getpass.getuser(),
                "key_filename": str(folder / "user"),
                "look_for_keys": False,
                "allow_agent": False,
            },
        )
    finally:
        stop(server)
