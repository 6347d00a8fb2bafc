"""Whether the parts of the host answer: the API, Podman, the units."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.admin.doctor import listeners
from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.live import LiveApi
from flashpods.admin.units import API, OTHERS, PODMAN, RESTARTING, UNITS
from flashpods.config import Settings, read_tokens
from flashpods.config_base import ConfigError
from flashpods.errors import Unavailable

PODMAN_SECONDS: Final = 10.0
API_MODULE: Final = "flashpods.api.main"


def api(look: Look) -> list[Finding]:
    """Find out why the API does not answer."""
    if look.health is not None:
        return []
    why = _why_silent(look.settings)
    return [
        Finding(
            code="api_down",
            severity=Severity.CRITICAL,
            symptom=f"the API does not answer on {LiveApi(look.settings).url}",
            cause=why.cause,
            evidence=(why.evidence,),
            remedy=(*why.first, f"systemctl restart {API}"),
            anchor="the-api-is-down",
        )
    ]


@dataclass(frozen=True, slots=True)
class _Why:
    cause: str
    evidence: str
    first: tuple[str, ...]  # what to do before the restart


def _why_silent(settings: Settings) -> _Why:
    file = settings.http.token_file
    try:
        read_tokens(file)
    except ConfigError as e:
        if "Permission denied" not in str(e):
            new = f"openssl rand -hex 32 | install -m 0600 /dev/stdin {file}"
            cause = "its token file can't be used; put it back, or make a new one"
            return _Why(cause, str(e), (new,))
    address = (str(settings.http.host), settings.http.port)
    family = socket.AF_INET6 if settings.http.host.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as e:
            if e.errno == errno.EADDRNOTAVAIL:
                return _Why(
                    f"this host does not have the address {address[0]}; is WireGuard up?",
                    f"bind: {e.strerror}",
                    ("systemctl restart wireguard-wg0",),
                )
            if e.errno == errno.EADDRINUSE:
                return _taken(address[1], str(e.strerror))
    look = (f"journalctl -u {API} -n 50", "flashpods check-config /etc/flashpods/settings.json")
    return _Why(
        "it does not run, or is still starting", f"nothing listens on port {address[1]}", look
    )


def _taken(port: int, said: str) -> _Why:
    holders = listeners.of_port(port)
    evidence = "; ".join(f"process {h.pid}: {h.command}" for h in holders) or f"bind: {said}"
    if any(API_MODULE in h.command for h in holders):
        return _Why(
            f"it runs and has port {port}, but hangs", evidence, (f"journalctl -u {API} -n 50",)
        )
    kill = " ".join(str(h.pid) for h in holders) or "PID"
    return _Why(
        f"a process that does not answer as the API has port {port}", evidence, (f"kill {kill}",)
    )


def degraded(look: Look) -> list[Finding]:
    """Pass on what the API says of itself."""
    if look.health is None:
        return []
    anchors = {
        "database": "database-issues",
        "podman": "podman-does-not-answer",
        "disk": "disks-fill-up",
        "identity": "spire-attestation-fails",
    }
    return [
        Finding(
            code=f"api_degraded_{part}",
            severity=Severity.CRITICAL,
            symptom=f"/health answers 503: {part} fails",
            cause=str(found.get("message", "it does not say why")),
            remedy=(f"journalctl -u {API} -n 50",),
            anchor=anchors.get(part, "the-api-is-down"),
        )
        for part, found in look.health.checks.items()
        if found.get("status") == "failing"
    ]


def podman(look: Look) -> list[Finding]:
    """See whether the engine answers."""
    path = look.settings.podman.socket
    try:
        asyncio.run(_ping(look.settings))
    except Unavailable as e:
        return [
            Finding(
                code="podman_silent",
                severity=Severity.CRITICAL,
                symptom="no job starts or ends; Podman does not answer on its socket",
                cause=_socket_state(path)
                or ("it does not run" if "refused" in e.message else "it hangs"),
                evidence=(e.message,),
                remedy=(f"journalctl -u {PODMAN} -n 50", f"systemctl restart {PODMAN}"),
                anchor="podman-does-not-answer",
            )
        ]
    return []


async def _ping(settings: Settings) -> None:
    engine = PodmanRuntime(settings.podman)
    try:
        async with asyncio.timeout(PODMAN_SECONDS):
            await engine.ping()
    except TimeoutError:
        raise Unavailable(f"no answer within {PODMAN_SECONDS:g} s") from None
    finally:
        await engine.close()


def _socket_state(path: Path) -> str | None:
    try:
        return None if path.is_socket() else f"there is no socket {path}"
    except OSError as e:
        return f"{path}: {e.strerror}"


def units(look: Look) -> list[Finding]:
    """Name the units that failed, or do not run though they are here."""
    if look.units is None:
        return []
    causes = {
        "failed": "it failed",
        "inactive": "it ended, or was stopped",
        RESTARTING: "it ends each time it is started; its journal says why",
    }
    return [
        Finding(
            code="unit_down",
            severity=Severity.CRITICAL,
            symptom=f"{name} is {state}",
            cause=causes[state],
            remedy=(f"journalctl -u {name} -n 50", f"systemctl restart {name}"),
            anchor="health-checks",
        )
        for name, state in look.units.states(*UNITS, *OTHERS).items()
        if state in causes
    ]
