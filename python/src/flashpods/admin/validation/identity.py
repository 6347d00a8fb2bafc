"""Whether jobs get the identity of their type, and for it the secrets of their type."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Awaitable, Callable
from typing import Final

from flashpods.admin.validation.check import Check, Failed
from flashpods.admin.validation.container import Ended, run_command
from flashpods.admin.validation.host import Host
from flashpods.config_identity import HELPER_TARGET
from flashpods.config_tokens import Grant

__all__ = ["CHECKS", "exchange_faults"]

REGISTER: Final = (
    "systemctl restart flashpods-spire-register, then look at journalctl -u spire-server "
    "-u spire-agent -u flashpods-spire-register"
)
# An entry that was just changed reaches the agent when it and the server's cache look again. The
# helper waits for an identity that is missing; one that is wrong it takes.
SETTLE_SECONDS: Final = 10.0
EXCHANGE: Final = (
    "journalctl -u flashpods-token-service has a line for each exchange; compare tokens.policy in "
    "the settings"
)


def _need_identity(host: Host) -> None:
    if not host.settings.identity.enabled:
        raise Failed(
            "identity.enabled is false in the settings",
            "services.flashpods.settings.identity.enabled = true",
        )
    if host.settings.identity.helper is None:
        raise Failed(
            "identity.helper is not set: jobs have no flashpods-token",
            "services.flashpods.tokenHelper",
        )


def _complaint(ended: Ended) -> str:
    """Return what the helper said went wrong, which never holds a secret."""
    for line in reversed(ended.lines):
        if line.startswith("{"):
            try:
                found = json.loads(line)
                code = found["details"].get("code", "")
                return f"{found['error']}{f' ({code})' if code else ''}: {found['message']}"[:300]
            except (ValueError, KeyError, AttributeError, TypeError):
                break
    return ended.last


def _svid(kind: str) -> Callable[[Host], Awaitable[str]]:
    async def check(host: Host) -> str:
        _need_identity(host)
        wanted = host.settings.spire.spiffe_id(kind)
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            ended = await run_command(host, kind, f"{HELPER_TARGET} whoami")
            if ended.code != 0:
                raise Failed(f"a container of type {kind} got no identity: {_complaint(ended)}")
            found, _, expires = ended.last.partition(" ")
            if found == wanted:
                break
            if time.monotonic() > end:
                raise Failed(f"a container of type {kind} is {found}, it must be {wanted}")
        return f"{found}, until {expires}"

    return check


def exchange_faults(grant: Grant, has: set[str]) -> list[str]:
    """Say how what a job got differs from what the policy gives its type."""
    faults = [f"{name} is missing" for name in grant.granted if name not in has]
    faults += [
        f"{name} was given, the policy withholds it" for name in grant.answered_null if name in has
    ]
    return faults


def _exchange(kind: str) -> Callable[[Host], Awaitable[str]]:
    async def check(host: Host) -> str:
        _need_identity(host)
        spiffe_id = host.settings.spire.spiffe_id(kind)
        grant = host.settings.tokens.policy.get(spiffe_id)
        if grant is None or grant.job_type != kind:
            raise Failed(f"tokens.policy has nothing for {spiffe_id} in containers of {kind}")
        names = (*grant.granted, *grant.answered_null)
        # Names only are printed: the output of a container is on disk for a moment.
        tell = "".join(f'[ -z "${{{name}-}}" ] || echo {name}; ' for name in names)
        ended = await run_command(
            host,
            kind,
            f"unset {' '.join(names) or '_'}; "
            f"exec {HELPER_TARGET} exec -- /bin/sh -c {shlex.quote(tell + 'echo done')}",
        )
        if ended.code != 0 or ended.last != "done":
            raise Failed(f"a container of type {kind} got no secrets: {_complaint(ended)}")
        if faults := exchange_faults(grant, set(ended.lines)):
            raise Failed(f"a container of type {kind}: {'; '.join(faults)}")
        withheld = f"; not {', '.join(grant.answered_null)}" if grant.answered_null else ""
        return f"got {', '.join(grant.granted) or 'nothing'}{withheld}"

    return check


CHECKS: Final = (
    Check(name="svid-worker", title="SVID for a worker", run=_svid("worker"), remedy=REGISTER),
    Check(name="svid-agent", title="SVID for an agent", run=_svid("agent"), remedy=REGISTER),
    Check(
        name="token-exchange-agent",
        title="token exchange, agent",
        run=_exchange("agent"),
        remedy=EXCHANGE,
        needs=("svid-agent",),
    ),
    Check(
        name="token-exchange-worker",
        title="token exchange, worker",
        run=_exchange("worker"),
        remedy=EXCHANGE,
        needs=("svid-worker",),
    ),
)
