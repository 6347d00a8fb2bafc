"""Socket activation without systemd: how a stack keeps a service's socket while it restarts.

The listening socket is the stack's, as it would be a socket unit's (sd_listen_fds(3)): whoever
connects while the service is away waits in it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

# A process's own pid is known only in it, so this sets LISTEN_PID, and becomes the service.
_SCRIPT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def listen(path: Path, *, mode: int = 0o660, uid: int = -1, gid: int = -1) -> socket.socket:
    """Listen on a path, as ``ListenStream=``, ``SocketMode=`` and ``SocketUser=`` would."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(mode)
    os.chown(path, uid, gid)
    sock.listen(1024)
    return sock


def command(sock: socket.socket, argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` with the socket as its descriptor 3.

    Start it with ``pass_fds=[sock.fileno()]``.
    """
    return [sys.executable, "-I", "-S", "-c", _SCRIPT, str(sock.fileno()), *argv]
