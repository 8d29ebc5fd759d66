"""``python -m pfreg`` is the command ``pfreg``."""

import sys

from pfreg.cli import main

sys.exit(main())
