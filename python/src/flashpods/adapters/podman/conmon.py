"""Whether anybody is there who still writes a container's exit status: conmon alone does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from flashpods.adapters.podman.cgroups import PROC


def conmon_alive(container_id: str, *, proc: Path = PROC) -> bool | None:
    """Look among all processes for one with the container's id among its arguments.

    That is conmon, whatever its program is called, or Podman's clean-up, which takes the status in.

    Returns:
        None if it would not be seen from here: nor is any service of Podman in our pid namespace.
    """
    engine = False
    for process in proc.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            words = (process / "cmdline").read_bytes().split(b"\0")
            if container_id.encode() in words:
                return True
            if words[0].endswith(b"podman") and b"service" in words:
                engine = engine or _beside_us(process)
    return False if engine else None


def _beside_us(process: Path) -> bool:
    """Whether it is in the pid namespace that this /proc shows, and in none within it (proc(5))."""
    status = (process / "status").read_text(errors="replace")
    return len(status.partition("NSpid:")[2].partition("\n")[0].split()) == 1
