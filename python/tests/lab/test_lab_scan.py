"""Every TCP port of every address, from the places that a job can have or an attacker could get."""

from __future__ import annotations

import json

import pytest
from lab_matrix import COLUMNS, MATRIX, NETWORKS
from matrix import column
from netlab import PORTS, SERVICES
from sites import OWN, Site

from flashpods_dev.lab.base import UID

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

ALL = 65535
SCAN = "python3 /opt/lab/scan.py"
SECONDS = 600


def test_as_the_engines_user(site: Site) -> None:
    """The strongest place there is; without the rules the same scan finds what listens."""
    site.load()
    command = f"setpriv --reuid={UID} --regid={UID} --clear-groups {SCAN}"
    with site.counted() as grown:
        said = json.loads(site.host.succeed(f"{command} 1 {ALL} {' '.join(OWN)}", timeout=SECONDS))
    assert said == {address: [] for address in OWN} | {"tried": ALL * len(OWN), "silent": 0}
    assert grown == {
        "job_to_service": len(SERVICES) * len(OWN),
        "job_to_host": (ALL - len(SERVICES)) * len(OWN),
    }
    site.unload()
    listening = json.loads(site.host.succeed(f"{command} 1 10000 127.0.0.1"))
    assert set(PORTS) <= set(listening["127.0.0.1"])


@pytest.mark.parametrize("place", ["slirp+lo", "pasta", "bridge"])
def test_from_a_container(site: Site, place: str) -> None:
    """What the matrix calls the host's is refused, port for port; what it calls nobody's is."""
    site.load()
    verdicts = column(place, COLUMNS, MATRIX)
    nobodys = [address for address in verdicts["."] if "%" not in address]  # of a link it has not
    addresses = [*verdicts["H"], *nobodys]
    with site.container(NETWORKS[place]) as (name, _), site.counted() as grown:
        words = " ".join([*site.network_of(name), SCAN, "1", str(ALL), *addresses])
        said = json.loads(site.host.succeed(words, timeout=SECONDS))
    silent, tried = said.pop("silent"), said.pop("tried")
    assert said == {address: [] for address in addresses}
    assert (silent, tried) == (0, ALL * len(addresses))
    assert set(grown) == {"job_to_service", "job_to_host"}
    assert grown["job_to_service"] >= len(SERVICES) * len(verdicts["H"])
    assert grown["job_to_host"] >= (ALL - len(SERVICES)) * len(verdicts["H"])
