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

BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)
LOOK_SECONDS: Final = 10.0
ACT_SECONDS: Final = 120.0


class Units:
    """Calls ``systemctl``."""

    @classmethod
    def of_this_machine(cls) -> Self | None:
        """Return it where systemd is the machine's manager, else None."""
        return cls() if BOOTED.is_dir() and shutil.which("systemctl") else None

    def states(self, *names: str) -> dict[str, str]:
        """Return unit → ``active``, ``inactive``, ``failed``, …; ``absent`` for one not there.

        Raises:
            AdminError: ``systemd_failed``.
        """
        found: dict[str, str] = {}
        shown = self._call(
            "show", "--property=Id,LoadState,ActiveState", "--", *names, seconds=LOOK_SECONDS
        )
        for block in shown.split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            absent = values.get("LoadState") == "not-found"
            found[values.get("Id", "")] = "absent" if absent else values.get("ActiveState", "")
        return {name: found.get(name, "absent") for name in names}

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
        shown = f"systemctl {' '.join(arguments)}"
        try:
            done = subprocess.run(
                ["systemctl", "--no-ask-password", "--no-pager", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
            )
        except subprocess.TimeoutExpired as e:
            raise AdminError(
                f"{shown}: not done within {seconds:g} s; look at it yourself",
                code="systemd_failed",
            ) from e
        except OSError as e:
            raise AdminError(f"{shown}: {e.strerror}", code="systemd_failed") from e
        if done.returncode:
            said = " ".join(done.stderr.split())[:300]
            raise AdminError(f"{shown}: {said}", code="systemd_failed")
        return done.stdout
