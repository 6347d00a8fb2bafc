"""The bodies of ``checks/``, those of the NixOS VM tests, on what the modules render."""

from __future__ import annotations

import sys

import pytest
from deployment import Deployment
from netlab import CHECKOUT

from flashpods_dev.lab import script

# Last, because they cut the power of a machine that the others use, or exchange all on it.
LAST = ("disaster_recovery", "reboot", "rolling_upgrade")
ORDERED = sorted(
    set(script.names(CHECKOUT)) - set(script.NEEDS_VM), key=lambda name: (name in LAST, name)
)
QUICK = ("job_life", "validation", "wireguard")


def body(name: str) -> object:
    """Return the parameter of a body; ``./dev test`` runs the quick ones."""
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.long)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [body(name) for name in ORDERED])
def test_body(deployed: Deployment, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def show(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")
            sys.stdout.flush()

    script.run(CHECKOUT, name, deployed.nodes, tell=print, show=show)
    assert deployed.host.execute("systemctl is-system-running")[1].strip() == "running"


def test_no_unit_failed(deployed: Deployment) -> None:
    for machine in (deployed.host, deployed.laptop):
        assert machine.succeed("systemctl --failed --no-legend --plain") == ""
        assert machine.succeed("systemctl is-system-running").strip() == "running"
