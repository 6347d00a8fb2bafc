"""The networks of HOST, LAPTOP and the internet between them, and keys for WireGuard.

HOST 198.51.100.10 ── internet ── 192.0.2.2 LAPTOP
SPARE 198.18.1.10 ──────┘
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import netlab
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from netlab import GATEWAY4, GATEWAY6, HOST4, HOST6, INTERNET, PORTS

# As checks/disaster_recovery.nix has them.
SPARE4, SPARE_GATEWAY4 = "198.18.1.10", "198.18.1.1"

TAP = "up0"  # the internet's end of HOST's network card, where HOST is emulated
HOST_NETWORK = (
    f"addr add {HOST4}/24 dev eth0",
    "addr add 198.51.100.11/24 dev eth0",
    f"addr add {HOST6}/64 dev eth0 nodad",
    "addr add fe80::10/64 dev eth0 nodad",
    "link set eth0 up",
    f"route add default via {GATEWAY4}",
    f"route add default via {GATEWAY6}",
)


def networks(stack: ExitStack, *, emulated: bool = False) -> dict[str, netlab.Host]:
    """Make the three, wired; listeners of the internet say so. An emulated HOST has its own."""
    made = {name: netlab.Host(stack) for name in ("internet", "laptop")}
    if emulated:
        made["internet"].ip(f"tuntap add dev {TAP} mode tap")
    else:
        host = made["host"] = netlab.Host(stack)
        made["internet"].ip(f"link add {TAP} type veth peer name eth0 netns {host.pid}")
        host.ip(*HOST_NETWORK)
        host.set("net/ipv4/ip_forward", "1")
    _wire(made["internet"], made["laptop"])
    return made


def another_host(stack: ExitStack, internet: netlab.Host) -> netlab.Host:
    """Return SPARE's network, which has nothing of HOST's but the way to the internet."""
    spare = netlab.Host(stack)
    internet.ip(
        f"link add up2 type veth peer name eth0 netns {spare.pid}",
        f"addr add {SPARE_GATEWAY4}/24 dev up2",
        "link set up2 up",
    )
    spare.ip(
        f"addr add {SPARE4}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {SPARE_GATEWAY4}",
    )
    spare.set("net/ipv4/ip_forward", "1")
    return spare


def _wire(internet: netlab.Host, laptop: netlab.Host) -> None:
    internet.ip(
        f"link add up1 type veth peer name eth0 netns {laptop.pid}",
        f"addr add {GATEWAY4}/24 dev {TAP}",
        f"addr add {GATEWAY6}/64 dev {TAP} nodad",
        f"addr add fe80::1/64 dev {TAP} nodad",
        "addr add 192.0.2.1/24 dev up1",
        *(f"addr add {a}/{128 if ':' in a else 32} dev lo" for a in INTERNET[2:]),
        f"link set {TAP} up",
        "link set up1 up",
    )
    internet.set("net/ipv4/ip_forward", "1")
    laptop.ip(
        "addr add 192.0.2.2/24 dev eth0", "link set eth0 up", "route add default via 192.0.2.1"
    )
    udp = [[address, 7777] for address in INTERNET]
    web = (80, 443, 53, 853)
    internet.serve("internet", tcp=(*PORTS, *web), udp=udp, dns=[[netlab.FOREIGN_DNS, 53]])


def ssh_keys() -> tuple[str, str]:
    """Return a private key of ssh and its public one."""
    key = Ed25519PrivateKey.generate()
    form = serialization.Encoding
    private = key.private_bytes(
        form.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(form.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()}\n"


def keys(root: Path) -> tuple[str, str]:
    """Return a private key of WireGuard and its public one."""
    wg = ["chroot", str(root), "/usr/bin/wg"]
    private = subprocess.run([*wg, "genkey"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run(
        [*wg, "pubkey"], input=private, capture_output=True, text=True, check=True
    )
    return private.strip(), done.stdout.strip()
