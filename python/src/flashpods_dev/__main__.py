"""Called by ./dev, once the machine is prepared: ``python -m flashpods_dev CHECKOUT COMMAND …``."""

from __future__ import annotations

import sys
from pathlib import Path

from flashpods_dev import outside

if __name__ == "__main__":
    sys.exit(outside.run(Path(sys.argv[1]), sys.argv[2:]))
