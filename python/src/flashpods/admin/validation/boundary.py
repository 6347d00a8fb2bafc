"""What a job reaches: neither the API nor rsync, but the internet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from flashpods.admin.validation.check import Check, Failed
from flashpods.admin.validation.container import Probe, inside
from flashpods.admin.validation.host import Host
from flashpods.admin.validation.process import run

__all__ = ["CHECKS", "blocked_faults"]

COUNTER: Final = "job_to_service"
# What slirp4netns and pasta call the host, where they let a container in.
HOST_ALIASES: Final = ("10.0.2.2", "169.254.1.2")
INTERNET_SECONDS: Final = 8
RULES: Final = "nft list table inet flashpods; systemctl reload flashpods-firewall"


def blocked_faults(
    doors: list[tuple[str, int]], said: list[str], *, counted: int, service: tuple[str, int]
) -> list[str]:
    """Say what was open, and whether it was the boundary that closed the service's own door.

    A refusal by itself proves nothing: nobody may have listened, or the address may have been the
    container's own. ``counted`` is what the boundary's counter grew by.
    """
    opened = [
        f"{host}:{port}"
        for (host, port), answer in zip(doors, said, strict=True)
        if answer == "open"
    ]
    if opened:
        return [f"a job could connect to {', '.join(opened)}"]
    if counted == 0:
        answer = said[doors.index(service)]
        where = f"{service[0]}:{service[1]} was closed to a job ({answer})"
        return [f"{where}, but not by the boundary: its counter {COUNTER} did not move"]
    return []


def _blocked(which: str) -> Callable[[Host], Awaitable[str]]:
    async def check(host: Host) -> str:
        service = host.api if which == "api" else host.rsync
        port = service[1]
        addresses = dict.fromkeys((service[0], *(await host.addresses()), *HOST_ALIASES))
        doors = [(address, port) for address in addresses]

        async def knock(probe: Probe) -> tuple[list[str], int]:
            before = await host.counters()
            said = await host.knock(tcp=doors, netns_of=probe.pid)
            after = await host.counters()
            return said, after.get(COUNTER, 0) - before.get(COUNTER, 0)

        said, counted = await inside(host, "worker", knock)
        if faults := blocked_faults(doors, said, counted=counted, service=service):
            raise Failed(faults[0])
        return f"{len(doors)} addresses tried from a job, {counted} refused by the boundary"

    return check


async def _internet(host: Host) -> str:
    name, port = host.internet

    async def reach(probe: Probe) -> str:
        inspected = await host.rest.call("GET", f"/containers/{probe.id}/json")
        resolv = str(inspected.json().get("ResolvConfPath", ""))
        addresses = await _resolve(probe.pid, resolv, name)
        doors = [(address, port) for address in addresses[:4]]
        said = await host.knock(tcp=doors, netns_of=probe.pid, seconds=INTERNET_SECONDS)
        for (address, _), answer in zip(doors, said, strict=True):
            if answer == "open":
                return f"{name}:{port} at {address}"
        raise Failed(f"a job can't connect to {name}:{port} ({doors[0][0]}: {said[0]})")

    return await inside(host, "worker", reach)


async def _resolve(pid: int, resolv_conf: str, name: str) -> list[str]:
    """Look a name up with the container's resolvers, in its network.

    The host's own tool does it, so that any image will do; ``-s`` keeps it off the host's caches.

    Raises:
        Failed: there is no such name from there.
    """
    mount = 'mount --bind "$0" /etc/resolv.conf && exec getent -s hosts:dns ahosts "$1"'
    done = await run(
        *("nsenter", f"--target={pid}", "--net", "--"),
        *("unshare", "--mount", "--propagation=private", "--"),
        *("sh", "-c", mount, resolv_conf, name),
        seconds=INTERNET_SECONDS + 4,
    )
    found = dict.fromkeys(line.split()[0] for line in done.out.splitlines() if line.strip())
    if done.code or not found:
        detail = f": {done.said}" if done.err.strip() else ""
        raise Failed(
            f"{name} does not resolve in a job{detail}",
            "the boundary lets jobs ask the configured resolvers only: "
            "services.flashpods.firewall.resolvers",
        )
    return sorted(found, key=lambda address: ":" in address)  # a host may lack IPv6


CHECKS: Final = (
    Check(name="api-blocked", title="API blocked", run=_blocked("api"), remedy=RULES),
    Check(name="rsync-blocked", title="rsync blocked", run=_blocked("rsync"), remedy=RULES),
    Check(
        name="internet-allowed",
        title="internet allowed",
        run=_internet,
        remedy="try the same from the host; then: nft list table inet flashpods",
        seconds=40,
    ),
)
