"""The socket that systemd's socket unit listens on for us (sd_listen_fds(3)).

It belongs to the unit: we never unlink its path, and while we restart the kernel keeps the callers
that connect waiting in it.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from flashpods.config_base import ConfigError

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START


def unix_listener(unit: str) -> socket.socket:
    """Return the one listening Unix stream socket that we were started with.

    The variables are removed, so that no child takes them for its own.

    Args:
        unit: the socket unit's name, for the message.

    Raises:
        ConfigError: there is none, there are more, or it is another kind of socket.
    """
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count or pid != str(os.getpid()):
        raise ConfigError(f"there is no socket to serve on: start it through {unit}")
    if count != "1":
        raise ConfigError(f"LISTEN_FDS is {count[:20]!r}: {unit} must have one ListenStream")
    try:
        sock = socket.socket(fileno=FIRST_FD)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as e:
        raise ConfigError(f"descriptor {FIRST_FD} of {unit} is not a socket: {e.strerror}") from e
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listening:
        sock.detach()
        raise ConfigError(
            f"descriptor {FIRST_FD} is not a listening Unix stream socket: "
            f"{unit} needs ListenStream=PATH and Accept=no"
        )
    sock.set_inheritable(False)
    return sock
