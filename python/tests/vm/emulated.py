"""HOST on a kernel of its own: what the lab boots of the modules, less the lab's stand-ins."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import world
from deployment import RENDERED, Deployment, Parts, host_files

from flashpods_dev.lab.machine import LabMachine
from flashpods_dev.vm import build
from flashpods_dev.vm.machine import PATIENCE, EmulatedMachine

# As a real host has its addresses: from units of its own, before network.target.
NETWORK = f"""\
[Unit]
DefaultDependencies=no
After=systemd-modules-load.service network-pre.target
Before=network.target network-online.target
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
{"".join(f"ExecStart=/usr/sbin/ip {line}{chr(10)}" for line in world.HOST_NETWORK)}
[Install]
WantedBy=multi-user.target
"""


def settings() -> str:
    """Return what was rendered, less what lets jobs run where the kernel has no limits."""
    text = (RENDERED / "host/etc/flashpods/settings.json").read_text()
    return json.dumps(
        {key: value for key, value in json.loads(text).items() if key != "development"}
    )


class Emulated(Deployment):
    """HOST in QEMU, LAPTOP in namespaces, and the internet between them."""

    emulated = True

    def __init__(self, stack: ExitStack, parts: Parts, disks: Path) -> None:
        self._disks = disks
        super().__init__(stack, parts)

    def host_files(self, key: str, token: str, ssh_key: str) -> dict[str, tuple[str, int]]:
        return {
            **host_files(key, token, ssh_key),
            "etc/flashpods/settings.json": (settings(), 0o644),
            "etc/hostname": ("host\n", 0o644),
            "etc/systemd/system/lab-network.service": (NETWORK, 0o644),
            "etc/sysctl.d/50-lab.conf": ("net.ipv4.ip_forward = 1\n", 0o644),
        }

    def make_host(self, own: Path) -> EmulatedMachine:
        checkout = self.parts.machine.checkout
        image = build.ensure(checkout)
        payload = self._disks / "payload.tar"
        build.payload(image, checkout, [own, self.parts.product], payload)
        wire = (self.networks["internet"], world.TAP)
        return EmulatedMachine("host", wire, image, payload, self._disks)

    def make_laptop(self, own: Path) -> LabMachine:
        network = self.networks["laptop"]
        return self.parts.lab_machine("laptop", network, own, patience=PATIENCE)
