"""A double of the Hugging Face Hub that can be written to, for tests of clients: see :mod:`.hub`.

Needs git, and ``hf_xet`` for Xet. ``python -m tests.servers.hf_hub FOLDER --port 8090`` serves it to any client.
"""

from .faults import Fault
from .git import Moved, Repository
from .hub import Hub, HubRepository, Settings
from .web import Call

__all__ = ["Call", "Fault", "Hub", "HubRepository", "Moved", "Repository", "Settings"]
