"""The ways in over real WireGuard; the rules as a unit: reload, reboot, Podman's own changes."""

from __future__ import annotations

import re

import judge
import pytest
from netlab import HOST4, OTHERS, PORTS
from sites import OWN, PODMAN, RSYNC_UID, Site

from flashpods_dev.lab.base import UID


@pytest.fixture(autouse=True)
def loaded(site: Site) -> None:
    """Start from the rules."""
    site.load()


def text_of(site: Site) -> str:
    listed = site.host.succeed("nft list table inet flashpods")
    return re.sub(r"packets \d+ bytes \d+", "", listed)


def test_the_laptop_over_wireguard(site: Site) -> None:
    site.laptop.succeed(
        "ping -c 1 -W 5 10.0.0.1",
        "test \"$(bash -c 'head -c 4 < /dev/tcp/10.0.0.1/8080')\" = host",
        "mkdir -p /tmp/tree && echo pushed > /tmp/tree/file",
        "rsync -a /tmp/tree/ rsync://10.0.0.1/uploads/upload_lab/",
    )
    assert site.host.succeed("cat /srv/uploads/upload_lab/file") == "pushed\n"
    # The transfer ran as the last subordinate id, which no job's packet may leave as.
    assert site.host.succeed("stat -c %u /srv/uploads/upload_lab/file").strip() == str(RSYNC_UID)


def test_the_laptop_gets_no_other_port(site: Site) -> None:
    for port in OTHERS:
        with site.counted() as grown:
            site.laptop.fail(f"timeout 0.7 bash -c '< /dev/tcp/10.0.0.1/{port}'")
        assert grown == {"input_other": 1}, port


def test_the_internet_gets_nothing(site: Site) -> None:
    outside = site.networks["internet"].probe()
    cells = [("tcp", HOST4, port) for port in PORTS]
    with site.counted() as grown:
        assert set(outside(*cells, seconds=judge.PATIENCE)) == {"silent"}
    assert grown == {"input_other": len(cells)}


def test_root_reaches_all_on_the_host(site: Site) -> None:
    with site.as_user(0) as prober:
        cells = [("tcp", address, port) for address in OWN for port in PORTS]
        assert set(prober(*cells, seconds=10)) == {"host"}


def test_rules_stand_before_the_network(site: Site) -> None:
    """After a reboot they are there, and were there before any interface of systemd's."""
    site.host.shutdown()
    site.host.boot()
    site.host.wait_for_unit("firewall")
    assert "network-pre.target" in site.host.succeed("systemctl show -p Before firewall")
    with site.as_user(UID) as job, site.counted() as grown:
        assert job.one("10.0.0.1", 8080) == "refused"
    assert grown == {"job_to_service": 1}
    # By itself it would look for the host's new session in 15 s; the script reboot waits for that.
    site.laptop.succeed("systemctl restart wg0")
    site.laptop.wait_until_succeeds("ping -c 1 -W 1 10.0.0.1")


def test_podmans_own_network_changes(site: Site) -> None:
    """Networks made, used and removed, rootless and by root; and our reload leaves theirs alone."""
    before = text_of(site)
    for podman in (PODMAN, "podman"):
        site.host.succeed(f"{podman} network create lab0")
        with site.container("lab0", podman):
            assert text_of(site) == before
            if podman == "podman":
                theirs = site.host.succeed("nft list table inet netavark")
                site.load()
                assert site.host.succeed("nft list table inet netavark") == theirs
            with site.as_user(UID) as job, site.counted() as grown:
                assert job.one("10.0.0.1", 8080) == "refused"
            assert grown == {"job_to_service": 1}
        site.host.succeed(f"{podman} network rm lab0")
        assert text_of(site) == before


def test_reload_by_the_unit_under_load(site: Site) -> None:
    """A container that asks without a pause gets nothing through 20 reloads."""
    with site.container("pasta") as (_, prober):
        for _ in range(20):
            site.load()
            cells = [("tcp", "10.0.0.1", 8080), ("udp", "10.0.0.1", 7777)] * 10
            judge.expect_nobody(cells, prober(*cells, seconds=0.3))
