"""The host's systemd units, as far as this machine has them; every call has a deadline."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from flashpods.admin.command import AdminError

__all__ = ["API", "BOOTED", "CLEANUP", "UNITS", "Units"]

API: Final = "flashpods-api.service"
CLEANUP: Final = "flashpods-cleanup.service"
PODMAN: Final = "podman-socket-flashpods.service"
TOKENS: Final = "flashpods-token-service.service"
SPIRE_SERVER: Final = "spire-server.service"
SPIRE_AGENT: Final = "spire-agent.service"
UNITS: Final = (API, CLEANUP, PODMAN, TOKENS, SPIRE_SERVER, SPIRE_AGENT)
# Whose end is a trouble too, and easily overlooked.
OTHERS: Final = (
    "flashpods-rsyncd.socket",
    "flashpods-firewall.service",
    "flashpods-spire-register.service",
    "flashpods-token-service.socket",
    "podman-socket-flashpods.socket",
    "wireguard-wg0.service",
)
BACKUP_TIMER: Final = "flashpods-backup.timer"
CARRIER: Final = "restic-backups-flashpods.service"  # of backups to another machine
RESTARTING: Final = "auto-restart"  # it ended, and systemd waits to start it again

BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)
LOOK_SECONDS: Final = 10.0
ACT_SECONDS: Final = 120.0


def read_states(shown: str) -> dict[str, str]:
    """Return unit → state from what ``systemctl show`` says of several."""
    found: dict[str, str] = {}
    for block in shown.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        state = values.get("ActiveState", "")
        if values.get("LoadState") == "not-found":
            state = "absent"
        elif values.get("SubState", "").startswith(RESTARTING):  # -queued since systemd 254
            state = RESTARTING
        found[values.get("Id", "")] = state
    return found


def read_credential(text: str, name: str) -> Path | None:
    """Return the source of a credential from what ``systemctl cat`` prints; None: not there."""
    for line in text.splitlines():
        key, _, value = line.partition("=")
        found, _, source = value.strip().partition(":")
        if key.strip() == "LoadCredential" and found == name and source.startswith("/"):
            return Path(source)
    return None


class Units:
    """Calls ``systemctl`` and ``journalctl``."""

    @classmethod
    def of_this_machine(cls) -> Self | None:
        """Return it where systemd is the machine's manager, else None."""
        return cls() if BOOTED.is_dir() and shutil.which("systemctl") else None

    def states(self, *names: str) -> dict[str, str]:
        """Return unit → ``active``, ``inactive``, ``failed``, …, and two of our own.

        ``auto-restart``: it ended, and systemd waits to start it again. ``absent``: no such unit.

        Raises:
            AdminError: ``systemd_failed``.
        """
        properties = "--property=Id,LoadState,ActiveState,SubState"
        found = read_states(self._call("show", properties, "--", *names, seconds=LOOK_SECONDS))
        return {name: found.get(name, "absent") for name in names}

    def credential(self, unit: str, name: str) -> Path | None:
        """Return the file that systemd gives to a unit as this credential; None: there is none.

        Raises:
            AdminError: ``systemd_failed``.
        """
        # "show" calls it unprintable.
        return read_credential(self._call("cat", "--", unit, seconds=LOOK_SECONDS), name)

    def journal(self, unit: str, pattern: str, *, since: str, most: int) -> list[str]:
        """Return the newest lines of a unit's journal that match, the oldest first.

        Args:
            unit: its name.
            pattern: a regular expression.
            since: as journalctl(1) reads it, such as ``-1h``.
            most: lines.

        Raises:
            AdminError: ``systemd_failed``.
        """
        which = (f"--unit={unit}", f"--grep={pattern}", f"--since={since}", f"--lines={most}")
        how = ("--quiet", "--output=cat", "--no-pager")
        done = _run("journalctl", *how, *which, seconds=LOOK_SECONDS)
        if done.returncode and done.stderr.strip():  # no match: it says nothing, and ends with 1
            raise _failed(done)
        return done.stdout.splitlines()

    def stop(self, *names: str) -> None:
        """Stop units and return when they are stopped.

        Raises:
            AdminError: ``systemd_failed``.
        """
        if names:
            self._call("stop", "--", *names, seconds=ACT_SECONDS)

    def start(self, *names: str) -> None:
        """Start units and return when they are up.

        Raises:
            AdminError: ``systemd_failed``.
        """
        if names:
            self._call("start", "--", *names, seconds=ACT_SECONDS)

    def restart(self, *names: str) -> None:
        """Restart units and return when they are up again.

        Raises:
            AdminError: ``systemd_failed``.
        """
        self._call("restart", "--", *names, seconds=ACT_SECONDS)

    def _call(self, *arguments: str, seconds: float) -> str:
        done = _run("systemctl", "--no-ask-password", "--no-pager", *arguments, seconds=seconds)
        if done.returncode:
            raise _failed(done)
        return done.stdout


def _run(*command: str, seconds: float) -> subprocess.CompletedProcess[str]:
    shown = " ".join(command)
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
        )
    except subprocess.TimeoutExpired as e:
        raise AdminError(
            f"{shown}: not done within {seconds:g} s; look at it yourself", code="systemd_failed"
        ) from e
    except OSError as e:
        raise AdminError(f"{shown}: {e.strerror}", code="systemd_failed") from e


def _failed(done: subprocess.CompletedProcess[str]) -> AdminError:
    said = " ".join(done.stderr.split())[:300]
    return AdminError(f"{' '.join(done.args)}: {said}", code="systemd_failed")
