"""The bodies of ``checks/`` that a real kernel is for, on what the modules render."""

from __future__ import annotations

import json

import pytest
from emulated import Emulated
from netlab import CHECKOUT

from flashpods_dev.lab import script
from flashpods_dev.vm import guest

pytestmark = pytest.mark.timeout(400)


def test_it_is_a_kernel_of_its_own(deployed: Emulated) -> None:
    """Nothing here would be shown if it were not."""
    host = deployed.host
    assert host.succeed("systemd-detect-virt").strip() in {"qemu", "kvm"}
    assert {"cpu", "memory", "pids"} <= set(
        host.succeed("cat /sys/fs/cgroup/cgroup.controllers").split()
    )
    (link,) = json.loads(host.succeed("ip -json -details link show wg0"))
    assert link["linkinfo"]["info_kind"] == "wireguard"
    assert "allow_unenforced_limits" not in host.succeed("cat /etc/flashpods/settings.json")


@pytest.mark.parametrize("name", script.IN_VM)
def test_body(deployed: Emulated, name: str) -> None:
    script.run(CHECKOUT, name, deployed.nodes, tell=print)
    assert deployed.host.execute("systemctl is-system-running")[1].strip() == "running"


def test_no_unit_failed(deployed: Emulated) -> None:
    for machine in (deployed.host, deployed.laptop):
        assert machine.succeed("systemctl --failed --no-legend --plain") == ""


def test_the_stack_of_dev_up(deployed: Emulated) -> None:
    """``./dev`` where the kernel has the controllers; Flashpods itself makes room for it."""
    host = deployed.host
    host.succeed("systemctl stop 'flashpods-*' 'spire-*' podman-socket-flashpods.service")
    options = "-p pytest_asyncio.plugin -p pytest_timeout -p no:cacheprovider --tb=short"
    code, said = host.execute(
        f"cd {guest.CHECKOUT}/python && PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "
        f"../.dev/venv/bin/python -m pytest {options} tests/vm/guest 2>&1"
    )
    assert code == 0, said
    assert "3 passed" in said, said
