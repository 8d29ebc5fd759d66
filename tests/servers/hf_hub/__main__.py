"""Serve the double until interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import Hub, Settings


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser(description="A writable double of the Hugging Face Hub")
    parser.add_argument("folder", type=Path, help="where repositories are kept")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", action="append", default=[], help="whose token is hf_<user>; may be repeated")
    parser.add_argument("--no-xet", action="store_true", help="offer LFS only; needed for clients in several processes")
    arguments = parser.parse_args()
    hub = Hub(arguments.folder.absolute(), Settings(xet=not arguments.no_xet), arguments.port)
    for user in arguments.user or ["alice"]:
        hub.add_user(user)
    print(hub.url, flush=True)
    hub.server.serve()


if __name__ == "__main__":
    main()
