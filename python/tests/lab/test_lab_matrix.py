"""What a job's container reaches, in each network mode of Podman."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import judge
import modes
import pytest
from lab_matrix import COLUMNS, MATRIX, NETWORKS
from matrix import column
from netlab import OTHERS, PORTS, WEB4, Prober
from sites import OWN, PODMAN, RSYNC_UID, Site

from flashpods_dev.lab.base import UID


@contextmanager
def place(site: Site, name: str) -> Iterator[Prober]:
    uids = {"host": UID, "subid": RSYNC_UID}
    if name in uids:
        with site.as_user(uids[name]) as prober:
            yield prober
    else:
        with site.container(NETWORKS[name]) as (_, prober):
            yield prober if name == "bridge" else modes.connected(prober)


@pytest.mark.parametrize("name", COLUMNS)
def test_reaches_the_internet_and_nothing_else(site: Site, name: str) -> None:
    judge.judge(site, lambda: place(site, name), column(name, COLUMNS, MATRIX))


@pytest.mark.parametrize("network", ["slirp4netns", "pasta", "bridge"])
def test_host_containers_internal(site: Site, network: str) -> None:
    """The name that Podman writes into a container's hosts file is the host's, or nothing."""
    with site.container(network) as (name, prober):
        hosts = site.host.succeed(f"{PODMAN} exec {name} cat /etc/hosts")
        (address,) = (x.split()[0] for x in hosts.splitlines() if "host.containers.internal" in x)
        cells = [("tcp", address, port) for port in PORTS]
        site.unload()
        assert set(prober(*cells)) == {"host"}
        site.load()
        with site.counted() as grown:
            judge.expect_nobody(cells, prober(*cells, seconds=judge.PATIENCE))
        assert grown == {"job_to_service": 2, "job_to_host": len(OTHERS)}


@pytest.mark.parametrize("network", ["slirp4netns", "pasta", "bridge"])
def test_names_resolve(site: Site, network: str) -> None:
    site.load()
    with site.container(network) as (name, prober):
        said = site.host.succeed(f"{PODMAN} exec {name} nslookup example.test")
        assert WEB4 in said
        with site.counted() as grown:
            assert prober.one("203.0.113.53", 53, seconds=judge.PATIENCE) != "internet"
        assert grown == {"job_to_dns": 1}


def test_rootful_bridge(site: Site) -> None:
    """Not how jobs run, but closed as well: its packets come in, or pass through."""
    with site.container("bridge", "podman") as (_, prober):
        own = [("tcp", a, p) for a in OWN if ":" not in a and a != "127.0.0.1" for p in PORTS]
        out = [("tcp", WEB4, 80), ("tcp", "10.20.30.40", 7777), ("tcp", "10.0.0.2", 22)]
        site.unload()
        assert set(prober(*own)) == {"host"}
        assert prober(("tcp", WEB4, 80)) == ["internet"]
        site.load()
        with site.counted() as grown:
            judge.expect_nobody(own, prober(*own, seconds=judge.PATIENCE))
        assert grown == {"input_other": len(own)}
        with site.counted() as grown:
            judge.expect_nobody(out, prober(*out, seconds=judge.PATIENCE))
        assert grown == {"forward_any": len(out)}
