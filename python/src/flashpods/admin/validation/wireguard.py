"""Whether the laptop is let in by WireGuard, and finds the API and rsync there.

From the host itself a packet of the laptop's can't be made: what is sent here never comes out of
the tunnel. So each link of the chain is looked at: the service answers at the address, the address
is WireGuard's, the rules let the laptop's address in from there, and the laptop has shaken hands of
late, which only the owner of its key can. The last link, from the laptop, is ``flashpods doctor``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_interface
from typing import Any, Final

from flashpods.admin.validation.check import Check, Failed
from flashpods.admin.validation.host import Host
from flashpods.admin.validation.process import run

__all__ = ["CHECKS", "admission_fault", "laptops_of"]

HANDSHAKE_SECONDS: Final = 180  # WireGuard's REJECT_AFTER_TIME: the session is dead by then
NO_CONDITION: Final = frozenset({"counter", "log"})  # statements that let every packet on
LINK: Final = "systemctl status wireguard-wg0; wg show"
RULES: Final = "systemctl reload flashpods-firewall; services.flashpods.wireguard.laptops"


def laptops_of(allowed_ips: str, *, version: int) -> dict[str, str]:
    """Return address → public key of peers that are one machine, from ``wg show … allowed-ips``."""
    found = {}
    for line in allowed_ips.splitlines():
        key, *networks = line.split()
        for text in networks:
            if text == "(none)":
                continue
            interface = ip_interface(text)
            if interface.version == version and interface.network.num_addresses == 1:
                found[str(interface.ip)] = key
    return found


def _matches(rule: dict[str, Any]) -> dict[str, Any]:
    """Return what a rule compares, by a short name, and where it ends: ``accept``, ``→chain``."""
    facts: dict[str, Any] = {}
    for part in rule.get("expr", []):
        if match := part.get("match"):
            left = match["left"]
            if "meta" in left:
                facts[left["meta"]["key"]] = match["right"]
            elif left.get("payload", {}).get("protocol") in {"ip", "ip6", "tcp"}:
                facts[left["payload"]["field"]] = match["right"]
            else:
                facts["other"] = True
        elif "accept" in part:
            facts["end"] = "accept"
        elif "goto" in part or "jump" in part:
            facts["end"] = f"→{(part.get('goto') or part.get('jump'))['target']}"
        elif "drop" in part or "reject" in part:
            facts["end"] = "drop"
        elif not part.keys() & NO_CONDITION:
            facts["other"] = True  # a limit, a count: it matches some packets only
    return facts


def admission_fault(
    table: Sequence[dict[str, Any]], *, interface: str, address: str, port: int
) -> str | None:
    """Say why a new TCP connection from the laptop would not get in; None if it would.

    Walks the input hook's rules as the kernel does, with what is known of the packet; a rule that
    asks for anything else (a connection's state, another protocol) does not match it.
    """
    packet = {"iifname": interface, "saddr": address, "dport": port}
    rules: dict[str, list[dict[str, Any]]] = {}
    for entry in table:
        if rule := entry.get("rule"):
            rules.setdefault(rule["chain"], []).append(_matches(rule))
    chain = "input"
    for _ in range(8):  # chains; a loop is refused by the kernel
        for facts in rules.get(chain, []):
            wanted = {key: value for key, value in facts.items() if key != "end"}
            end = facts.get("end")
            if end is None or any(packet.get(key) != value for key, value in wanted.items()):
                continue
            if end == "accept":
                return None
            if end == "drop":
                return f"the rules drop {address} on {interface} at port {port}"
            chain = end[1:]
            break
        else:
            break
    return f"no rule lets {address} on {interface} in at port {port}"


async def _interface_of(host: Host, address: str) -> str:
    interface = (await host.addresses()).get(address)
    if interface is None:
        raise Failed(f"no interface has the address {address}", LINK)
    shown = await run("wg", "show", interface, "listen-port")
    if shown.code:
        raise Failed(f"{address} is on {interface}, which is not WireGuard: {shown.said}", LINK)
    return interface


async def _laptops(host: Host, interface: str, address: str) -> str:
    """Return how the laptops are, for a person.

    Raises:
        Failed: there is none, or none has shaken hands of late.
    """
    version = ip_interface(address).version
    peers = laptops_of((await run("wg", "show", interface, "allowed-ips")).out, version=version)
    if not peers:
        raise Failed(
            f"{interface} has no peer with an address of its own",
            "services.flashpods.wireguard.laptops",
        )
    lines = (await run("wg", "show", interface, "latest-handshakes")).out.splitlines()
    shaken = {key: int(at) for key, at in (line.split() for line in lines)}
    ages = {a: time.time() - at for a, key in peers.items() if (at := shaken.get(key, 0))}
    fresh = {a: age for a, age in ages.items() if age < HANDSHAKE_SECONDS}
    if fresh:
        return ", ".join(f"{a} shook hands {age:.0f} s ago" for a, age in sorted(fresh.items()))
    seen = ", ".join(f"{a} {age:.0f} s ago" for a, age in sorted(ages.items())) or "never"
    if host.choices.laptop_away:
        return f"no laptop is connected now (last handshake: {seen})"
    raise Failed(
        f"no laptop is connected: last handshake {seen}",
        "bring the laptop's tunnel up and ping the host, or say --laptop-away",
    )


async def _let_in(host: Host, service: tuple[str, int]) -> str:
    """Return how the laptops are, if the rules let them in to a service that only wg0 has."""
    address, port = service
    interface = await _interface_of(host, address)
    version = ip_interface(address).version
    allowed = (await run("wg", "show", interface, "allowed-ips")).out
    table = await host.ruleset()
    for laptop in laptops_of(allowed, version=version):
        if fault := admission_fault(table, interface=interface, address=laptop, port=port):
            raise Failed(fault, RULES)
    others = [a for a in ("127.0.0.1", *(await host.addresses())) if a != address]
    said = await host.knock(tcp=[(a, port) for a in others])
    if opened := [a for a, answer in zip(others, said, strict=True) if answer == "open"]:
        raise Failed(
            f"port {port} answers at {', '.join(opened)} too",
            f"let it listen on {address} alone",
        )
    return await _laptops(host, interface, address)


async def _api(host: Host) -> str:
    async with host.client() as client:
        health = await client.health()
        capacity = await client.capacity()
    laptops = await _let_in(host, host.api)
    cpus = capacity.raw.get("host", {}).get("cpus")
    return f"{health.get('status')}, {cpus} CPUs for jobs; {laptops}"


async def _rsync(host: Host) -> str:
    (greeting,) = await host.knock(tcp=[host.rsync], hear=True)
    if not greeting.startswith("@RSYNCD:"):
        raise Failed(f"no rsync daemon at {host.rsync[0]}:{host.rsync[1]}: {greeting[:40]!r}")
    laptops = await _let_in(host, host.rsync)
    return f"protocol {greeting.split()[1]}; {laptops}"


def _check(name: str, title: str, run_it: Callable[[Host], Awaitable[str]], unit: str) -> Check:
    return Check(name=name, title=title, run=run_it, remedy=f"systemctl status {unit}", seconds=30)


CHECKS: Final = (
    _check("api-over-wireguard", "API over WireGuard", _api, "flashpods-api wireguard-wg0"),
    _check(
        "rsync-over-wireguard",
        "rsync over WireGuard",
        _rsync,
        "flashpods-rsyncd.socket wireguard-wg0",
    ),
)
