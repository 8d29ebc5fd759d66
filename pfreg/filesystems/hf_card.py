"""The dataset card: what somebody reads who opens the repository's page.

Rules
-----
- It is written with the first commit into a repository that has none, and never again: after that it is the owner's.
- It says what the files are and how to get them, and nothing that could be secret or become wrong.
"""

from __future__ import annotations

from pfreg.filesystems.hf_place import Branch

__all__ = ["CARD", "dataset_card"]

CARD = "README.md"
"""Where the Hub looks for the card."""

_TEXT = """\
---
tags:
- processfork
- agent-snapshot
---

# {name}

A [ProcessFork](https://pypi.org/project/processfork/) image: the frozen state of an AI agent, that is its working
files, conversation, model and cache references, and tool calls. `manifest.json` names every part by its sha256 digest,
`manifest.json.sig` signs the manifest, and `blobs/` holds the parts, compressed with zstd. Every push is one commit.

Look at it, check it, and get its files:

```
pip install 'pfreg[hf]'
pfreg inspect {reference}
pfreg verify {reference}
pfreg clone {reference} out/
```

An image can contain private data and instructions to an agent: look at what you pull before you run it.
"""


def dataset_card(branch: Branch) -> bytes:
    """Return the text of a new card for the repository of `branch`."""
    revision = "" if branch.name == "main" else f":{branch.name}"
    reference = f"hf://{branch.repo_id}{revision}"
    return _TEXT.format(name=branch.repo_id.partition("/")[2], reference=reference).encode()
