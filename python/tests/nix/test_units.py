"""The rendered units: their order, and how exposed systemd finds them."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest
from hosts import CHECKOUT

UNITS = CHECKOUT / "lab" / "rendered" / "host" / "etc" / "systemd" / "system"
MOST = 1.5
# Services that start newuidmap, or containers: what they can't have is in modules/hardening.nix.
WITH_USER_NAMESPACES = {
    "flashpods-api.service": 3.3,
    "flashpods-cleanup.service": 2.6,
    "podman-socket-flashpods.service": 9.2,
}
# unit → what must be up before it
AFTER = {
    "spire-server.service": {"network.target"},
    "flashpods-spire-register.service": {"spire-server.service"},
    "spire-agent.service": {
        "spire-server.service",
        "flashpods-spire-register.service",
        "podman-socket-flashpods.socket",
    },
    "flashpods-token-service.service": {"spire-agent.service", "flashpods-token-service.socket"},
    "podman-socket-flashpods.service": {"network.target", "user@900.service"},
    "flashpods-api.service": {
        "podman-socket-flashpods.service",
        "spire-agent.service",
        "flashpods-firewall.service",
        "wireguard-wg0.service",
    },
    "flashpods-rsyncd.socket": {"flashpods-firewall.service"},
    "flashpods-rsyncd@.service": {"flashpods-firewall.service", "flashpods-api.service"},
    "flashpods-cleanup.service": {"podman-socket-flashpods.service"},
}


class Unit(configparser.RawConfigParser):
    """A unit's sections; of a key that is there several times, the values in one."""

    def __init__(self, file: Path) -> None:
        super().__init__(strict=False, delimiters="=", dict_type=dict)
        self.lines = file.read_text().splitlines()

    def all(self, key: str) -> set[str]:
        found = (line.partition("=")[2] for line in self.lines if line.startswith(f"{key}="))
        return {word for value in found for word in value.split()}


def ours() -> list[str]:
    """Return the services that our modules define; NixOS's own are as NixOS has them."""
    return sorted(
        file.name
        for file in UNITS.glob("*.service")
        if not file.name.startswith(("wireguard", "prometheus", "restic"))
    )


@pytest.mark.parametrize("name", AFTER)
def test_a_unit_waits_for_what_it_needs(name: str) -> None:
    assert Unit(UNITS / name).all("After") >= AFTER[name]


def test_the_boundary_is_up_before_the_network_and_nothing_listens_without() -> None:
    firewall = Unit(UNITS / "flashpods-firewall.service")
    assert "network-pre.target" in firewall.all("Before")
    assert firewall.all("DefaultDependencies") == {"false"}
    for name in ("flashpods-api.service", "flashpods-rsyncd.socket", "flashpods-rsyncd@.service"):
        assert "flashpods-firewall.service" in Unit(UNITS / name).all("Requires")


@pytest.mark.parametrize("name", ours())
def test_a_service_comes_back_and_its_exposure_is_bounded(name: str) -> None:
    unit = Unit(UNITS / name)
    if unit.all("Type") != {"oneshot"} and name != "flashpods-images.service":
        assert unit.all("Restart") == (set() if "@" in name else {"always"})
        assert unit.all("StartLimitIntervalSec") == {"0"}
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    assert found, said.stderr
    most = WITH_USER_NAMESPACES.get(name, MOST)
    assert float(found[1]) <= most


@pytest.mark.parametrize("name", ["flashpods-api.service", "flashpods-token-service.service"])
def test_a_service_that_hangs_is_killed(name: str) -> None:
    unit = Unit(UNITS / name)
    assert unit.all("Type") == {"notify"}
    assert unit.all("WatchdogSec") == {"60s"}


def test_secrets_come_as_credentials() -> None:
    for name, credential in (
        ("flashpods-api.service", "api-token:/etc/flashpods/api-token"),
        ("flashpods-token-service.service", "secrets.json:/etc/flashpods/secrets.json"),
    ):
        assert Unit(UNITS / name).all("LoadCredential") == {credential}
