"""Compare two forks of an agent where they lie: files, environment, and where their conversations part.

::

    python examples/compare_forks.py s3://bucket/agents/fork-a s3://bucket/agents/fork-b
"""

from __future__ import annotations

import difflib
import sys

import pfreg


def main(first: str, second: str) -> None:
    """Print what differs, and how, for every text that both have."""
    a, b = pfreg.open_image(first), pfreg.open_image(second)
    found = pfreg.diff(a, b)
    print(f"{a}\n{b}\n{found.common_messages} messages in common")
    for side, messages in ((first, found.first_messages), (second, found.second_messages)):
        print(f"then, in {side}:", *(f"  {message['role']}: {message['content']}" for message in messages), sep="\n")
    print("only in the first:", *found.files.removed, "only in the second:", *found.files.added, sep="\n  ")
    files = {entry.path for entry in a.files() if entry.kind == "file"}
    for path in found.files.changed:
        if path in files:
            old, new = (image.open(path).read().decode("utf-8", "replace").splitlines() for image in (a, b))
            print(*difflib.unified_diff(old, new, path, path, lineterm=""), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
