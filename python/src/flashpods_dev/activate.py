"""Hand an inherited listening socket over as systemd does (sd_listen_fds(3)), then exec.

``python -m flashpods_dev.activate DESCRIPTOR COMMAND [ARGUMENT...]``
"""

from __future__ import annotations

import os
import sys

FIRST = 3  # SD_LISTEN_FDS_START


def main() -> None:
    """Become the command; this process keeps its pid, so LISTEN_PID is right."""
    descriptor = int(sys.argv[1])
    os.dup2(descriptor, FIRST, inheritable=True)
    if descriptor != FIRST:
        os.close(descriptor)
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os.execvpe(sys.argv[2], sys.argv[2:], {**os.environ, **variables})


if __name__ == "__main__":
    main()
