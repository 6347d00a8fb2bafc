"""WireGuard, and the rules of the trust boundary."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flashpods.admin.doctor.finding import Finding, Look, Severity

INTERFACE: Final = "wg0"
TABLE: Final = ("inet", "flashpods")  # modules/network/ruleset.nft
SECONDS: Final = 5.0
QUIET_SECONDS: Final = 180  # a session's keys are renewed every two minutes while there is traffic
_WIREGUARD: Final = "wireguard-does-not-connect"
_RESTART: Final = ("systemctl restart wireguard-wg0", "journalctl -u wireguard-wg0 -n 50")


@dataclass(frozen=True, slots=True)
class Peer:
    """A line of ``wg show wg0 dump``, wg(8), without its keys' secrets."""

    key: str
    endpoint: str
    allowed: str
    handshake: int  # Unix time, 0: never


def applies(look: Look) -> bool:
    """Whether the API is meant to be reached over WireGuard: not on loopback, which is a test's."""
    return not look.settings.http.host.is_loopback


def wireguard(look: Look) -> list[Finding]:
    """See whether the interface is there, has its peers, and has heard of them."""
    if not applies(look):
        return []
    code, said = _call(["wg", "show", INTERFACE, "dump"])
    if code:
        return [_down(f"wg show {INTERFACE}: {said}")]
    return judge(peers(said), now=int(time.time()))


def peers(dump: str) -> list[Peer]:
    """Read ``wg show … dump``: the interface's line is left out, and with it its private key."""
    found = []
    for line in dump.splitlines()[1:]:
        fields = line.split("\t")
        if len(fields) >= 5 and fields[4].isdigit():
            found.append(Peer(fields[0], fields[2], fields[3], int(fields[4])))
    return found


def judge(found: Sequence[Peer], *, now: int) -> list[Finding]:
    """Say what is wrong with an interface's peers."""
    if not found:
        return [
            Finding(
                code="wireguard_no_peer",
                severity=Severity.CRITICAL,
                symptom="the laptop can't reach the API: the interface has no peer",
                cause="the laptop's public key is not in the configuration",
                remedy=(f"wg set {INTERFACE} peer PUBKEY allowed-ips 10.0.0.2/32", *_RESTART),
                anchor=_WIREGUARD,
            )
        ]
    silent = [p for p in found if now - p.handshake > QUIET_SECONDS]
    if len(silent) < len(found):
        return []
    never = all(p.handshake == 0 for p in silent)
    return [
        Finding(
            code="wireguard_quiet",
            severity=Severity.NOTICE,
            symptom="no laptop has been heard of"
            + ("" if never else f" for {now - max(p.handshake for p in silent)} s"),
            cause="keys that do not fit, UDP 51820 blocked on the way"
            if never
            else "it is off or asleep, or its network changed",
            evidence=tuple(f"peer {p.key[:12]}… {p.endpoint} {p.allowed}" for p in silent[:8]),
            remedy=("ping -c 3 10.0.0.1 (on the laptop)", f"wg show {INTERFACE}"),
            anchor=_WIREGUARD,
        )
    ]


def _down(cause: str) -> Finding:
    return Finding(
        code="wireguard_down",
        severity=Severity.CRITICAL,
        symptom="the laptop can't reach the API: WireGuard is not up",
        cause=cause,
        remedy=(*_RESTART, "ls -l /etc/wireguard/private.key"),
        anchor=_WIREGUARD,
    )


def firewall(look: Look) -> list[Finding]:
    """See whether the boundary's rules are loaded."""
    if not applies(look) or os.geteuid() != 0:
        return []
    code, said = _call(["nft", "list", "table", *TABLE])
    if code == 0:
        return []
    return [
        Finding(
            code="boundary_not_loaded",
            severity=Severity.CRITICAL,
            symptom="jobs may reach the API: the rules of the trust boundary are not loaded",
            cause=said,
            remedy=(
                "flashpods-admin drain",
                "systemctl restart flashpods-firewall",
                "flashpods-admin validate",
                "flashpods-admin resume",
            ),
            anchor="the-boundarys-rules-are-not-loaded",
        )
    ]


def _call(command: Sequence[str]) -> tuple[int, str]:
    """Run a tool; return its exit code and its output, or one line of what it complained of."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"},
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return 127, f"{command[0]}: {getattr(e, 'strerror', None) or 'no answer in time'}"
    complaint = " ".join(done.stderr.split())[:200] or f"it ended with {done.returncode}"
    return done.returncode, complaint if done.returncode else done.stdout
