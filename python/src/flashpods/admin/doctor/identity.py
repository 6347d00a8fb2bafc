"""The chain of identity: SPIRE's server and agent, its entries, the token service, the secrets."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Final

from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.units import SPIRE_AGENT, SPIRE_SERVER, TOKENS
from flashpods.config_base import ConfigError
from flashpods.config_identity import AGENT_SOCKET
from flashpods.spire import agent_config
from flashpods.spire.registration import declared, plan, spiffe_id
from flashpods.spire.server import ServerAway, SpireError, SpireServer
from flashpods.token import secrets

SECONDS: Final = 3.0
CREDENTIALS: Final = Path("/run/credentials")  # systemd.exec(5)
HEALTH: Final = b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"
_SPIRE, _TOKENS = "spire-attestation-fails", "the-token-service-does-not-answer"


def _critical(code: str, symptom: str, cause: str, remedy: tuple[str, ...], at: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.CRITICAL,
        symptom=symptom,
        cause=cause,
        remedy=remedy,
        anchor=at,
    )


def agent(look: Look) -> list[Finding]:
    """See whether SPIRE's agent lets jobs in, and whether its configuration is sound."""
    identity, spire = look.settings.identity, look.settings.spire
    if not identity.enabled:
        return []
    found: list[Finding] = []
    restart = (f"journalctl -u {SPIRE_AGENT} -n 50", f"systemctl restart {SPIRE_AGENT}")
    path = identity.spire_socket_dir / AGENT_SOCKET
    if fault := _connects(path):
        symptom = "jobs get no identity: SPIRE's agent does not answer"
        found.append(_critical("spire_agent_silent", symptom, fault, restart, _SPIRE))
    try:
        content = agent_config.read(spire.agent_config)
    except SpireError as e:
        if os.geteuid() == 0:
            symptom = "SPIRE's agent has no usable configuration"
            found.append(_critical("spire_agent_config", symptom, str(e), restart, _SPIRE))
        return found
    rebuild = ("nixos-rebuild switch", *restart)
    for fault in agent_config.unsafe(content, look.settings.podman.cgroup_parent):
        symptom = "SPIRE's agent would not know a job's container, or could be fooled"
        found.append(_critical("spire_agent_config", symptom, fault, rebuild, _SPIRE))
    docker = agent_config.docker_plugin(content) or {}
    engine = Path(str(docker.get("docker_socket_path", "")).removeprefix("unix://"))
    if fault := _connects(engine):
        symptom = "jobs get no identity: the agent can't ask Podman whose container calls"
        cause = f"its docker_socket_path: {fault}"
        fix = ("ls -la " + str(engine), "systemctl restart podman-socket-flashpods", *restart)
        found.append(_critical("spire_agent_podman", symptom, cause, fix, _SPIRE))
    return found


def server(look: Look) -> list[Finding]:
    """See whether SPIRE's server answers, and has the entries that are declared, and no others."""
    settings = look.settings.spire
    if not look.settings.identity.enabled or os.geteuid() != 0:
        return []  # its socket is root's alone
    spire = SpireServer(settings)
    try:
        agents = spire.agents()
        todo = plan(
            declared(settings),
            spire.entries(),
            host=settings.spiffe_id(settings.host),
            agents=frozenset(spiffe_id(one["id"]) for one in agents),
            now=time.time(),
            token_seconds=settings.join_token_seconds,
        )
    except ServerAway as e:
        restart = (f"journalctl -u {SPIRE_SERVER} -n 50", f"systemctl restart {SPIRE_SERVER}")
        symptom = "no identity is renewed: SPIRE's server does not answer"
        return [_critical("spire_server_silent", symptom, str(e), restart, _SPIRE)]
    except SpireError as e:
        return [_critical("spire_server_refuses", "SPIRE's server refuses", str(e), (), _SPIRE)]
    if todo.empty:
        return []
    cause = (
        f"{len(todo.create)} entries are missing, {len(todo.update)} differ, "
        f"{len(todo.remove)} are nobody's"
    )
    return [
        _critical(
            "spire_entries",
            "jobs get no identity, or another's: registration entries are not as declared",
            cause,
            ("systemctl restart flashpods-spire-register", f"systemctl restart {SPIRE_AGENT}"),
            _SPIRE,
        )
    ]


def tokens(look: Look) -> list[Finding]:
    """See whether the token service answers, and whether its secrets can be used."""
    settings = look.settings
    if not settings.identity.enabled:
        return []
    found = _secrets(look)
    restart = (f"journalctl -u {TOKENS} -n 50", f"systemctl restart {TOKENS}")
    said, fault = _ask(settings.identity.token_socket)
    if fault:
        symptom = "jobs wait for their tokens in vain: the token service does not answer"
        found.append(_critical("token_service_silent", symptom, fault, restart, _TOKENS))
    elif b" 200 " not in said.partition(b"\r\n")[0]:
        symptom = "jobs get no tokens: the token service is not well"
        cause = said.rpartition(b"\r\n\r\n")[2][:200].decode(errors="replace")
        found.append(_critical("token_service_unwell", symptom, cause, restart, _TOKENS))
    return found


def _secrets(look: Look) -> list[Finding]:
    """Judge the secrets file by the service's own reader, which never shows what is in it."""
    file = look.settings.tokens.secrets_file
    handed = file.is_relative_to(CREDENTIALS)  # systemd's copy, for the service alone
    if handed:
        source = look.units.credential(TOKENS, file.name) if look.units else None
        if source is None or os.geteuid() != 0:
            return []
        file = Path(os.path.realpath(source))  # systemd follows links, such as those of sops-nix
    restart = f"systemctl restart {TOKENS}"
    try:
        secrets.read(file)
    except ConfigError as e:
        if os.geteuid() != 0 and "Permission denied" in str(e):
            return []
        if handed and _exposed(file):  # the copy's mode is systemd's, so the service goes on
            return [
                Finding(
                    code="secrets_exposed",
                    severity=Severity.WARNING,
                    symptom="others than root can read the secrets",
                    cause=str(e),
                    remedy=(f"chown root: {file}", f"chmod 0600 {file}", restart),
                    anchor=_TOKENS,
                )
            ]
        fix = (f"ls -l {file}", *_mend(file), restart)
        symptom = "the token service does not start, or keeps its old secrets"
        return [_critical("secrets_unusable", symptom, str(e), fix, _TOKENS)]
    return []


def _mend(file: Path) -> tuple[str, ...]:
    if _exposed(file):
        return (f"chown root: {file}", f"chmod 0600 {file}")
    return (f"install -m 0600 COPY {file} (from where you keep it)",)


def _exposed(file: Path) -> bool:
    """Whether it is there, and another user than root owns it or is let in."""
    try:
        found = file.stat()
    except OSError:
        return False
    return found.st_uid != 0 or bool(found.st_mode & 0o077)


def _connects(path: Path) -> str | None:
    """Return what is wrong with a unix socket; None if somebody accepts there."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(SECONDS)
            probe.connect(str(path))
    except OSError as e:
        return f"{path}: {e.strerror or 'no answer'}"
    return None


def _ask(path: Path) -> tuple[bytes, str | None]:
    """Return the answer of a service's ``/health``, or what is wrong."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(SECONDS)
            probe.connect(str(path))
            probe.sendall(HEALTH)
            said = b""
            while part := probe.recv(4096):
                said += part
                if len(said) > 65536:
                    break
    except OSError as e:
        return b"", f"{path}: {e.strerror or 'no answer'}"
    return said, None if said else f"{path}: it closed without an answer"
