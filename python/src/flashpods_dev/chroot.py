"""Commands in a root directory, with this machine's network: how roots of machines are made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from flashpods_dev.machine import StackError

__all__ = ["environment", "run", "run_in"]

SECONDS: Final = 900
SCRIPT: Final = """set -e
    mount -t proc proc "$0/proc"
    mount --rbind /dev "$0/dev"
    for f in /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
      if [ -e "$f" ]; then [ -e "$0$f" ] || : >"$0$f"; mount --bind "$f" "$0$f"; fi
    done
    exec chroot "$0" "$@"
    """


def run_in(root: Path, command: Sequence[str]) -> str:
    """Run a command in a root and return what it printed.

    Raises:
        StackError: it failed; with the end of what it said.
    """
    private = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", SCRIPT]
    return run([*private, str(root), *command], env=environment())


def environment() -> Mapping[str, str]:
    """Return what a command in the root gets: the way to the package index, little else."""
    taken = ("PIP_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")
    proxies = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    kept = {name: os.environ[name] for name in (*taken, *proxies) if name in os.environ}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": "/root", "LC_ALL": "C.UTF-8", **kept}


def run(
    command: Sequence[str], *, cwd: Path = Path("/"), env: Mapping[str, str] | None = None
) -> str:
    """Run a command and return what it printed.

    Raises:
        StackError: it failed or is not there; with the end of what it said.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise StackError(f"{command[0]}: {e}") from e
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise StackError(f"{command[0]} failed ({done.returncode}):\n{said}")
    return done.stdout
