"""A job that tries every TCP port of every address of the host, with all that the host runs.

That is the API, real SPIRE and the token service, a real rsync daemon, and listeners on further
ports. The scan from the other places that a process of the engine's can have is in ``./dev lab``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import httpx
import identity_rig as rig
import pytest
import served
from netlab import OTHERS, SERVICES, WEB4, ruleset
from served import Served, run, scanning

from flashpods_dev.machine import Machine
from flashpods_dev.stack import MiniStack

pytestmark = pytest.mark.timeout(900)
PORTS = 65535
# Above are the ports that the kernel gives to who asks for none (ip(7)). slirp4netns has one from
# there for each connection, and on the host's own address it may meet itself.
ASSIGNED = 32767
SCAN_SECONDS = 600
# What a container has of its own, or sees of its network's helper.
NEAR = ("127.0.0.1", "::1", "10.0.2.2", "10.0.2.100", "fd00::2", "fd00::3", "fe80::2%tap0")
BY_NAME = "host.containers.internal"
# The control, which must be found: slirp4netns hands port 53 of its own address to the host's
# resolver, which is allowed; and the internet is there.
CONTROL = {"10.0.2.3": [53], WEB4: sorted([80, 443, *OTHERS])}
# At the jobs' usual share of new flows a scan at full speed would miss the control, and prove less.
UNBOUNDED = {"new_flows": 2**16, "max_flows": 2**20}


@pytest.fixture(scope="module")
def site(machine: Machine) -> Iterator[Served]:
    """The stack with identity, in the network of a host whose port 8080 is its API's."""
    with served.serve(
        lambda _, state: MiniStack(
            state,
            machine,
            overrides=served.OVERRIDES,
            port=served.API_PORT,
            parts=("podman", "rsyncd", "api"),
            identity=rig.options(machine),
        )
    ) as running:
        yield running


@pytest.fixture
async def laptop(site: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with site.laptop() as client:
        yield client


def own_addresses(site: Served) -> list[str]:
    """Return every address that the host itself bears, but those of its links."""
    listed = json.loads(site.lab.host.run("ip", "-json", "address"))
    found = [info for link in listed for info in link["addr_info"] if info["scope"] != "link"]
    return [info["local"] for info in found]


def listening(site: Served) -> list[int]:
    """Return the ports on which the host listens at every address."""
    lines = site.lab.host.run("ss", "--no-header", "--tcp", "--listening", "--numeric").splitlines()
    at = (line.split()[3].rsplit(":", 1) for line in lines)
    return sorted(int(port) for address, port in at if address in ("*", "0.0.0.0"))


async def scan(
    client: httpx.AsyncClient, last: int, *addresses: str
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Have a job try ports from 1 on; return what it found open, and its two figures."""
    status, lines = await run(client, scanning(1, last, *addresses), seconds=SCAN_SECONDS)
    assert status == "completed", lines
    said = json.loads(lines[-1])
    figures = {name: said.pop(name) for name in ("tried", "silent")}
    return said, figures


async def test_it_finds_nothing_but_the_control(site: Served, laptop: httpx.AsyncClient) -> None:
    own = own_addresses(site)
    assert {"10.0.0.1", "fd77::1", "10.88.0.1"} < set(own)
    # What the host bears on its loopback is, in a container, the container's own.
    seen = [address for address in own if not address.startswith(("127.", "::1"))]
    everywhere = list(dict.fromkeys([*own, *NEAR, BY_NAME, *CONTROL]))
    site.lab.load(ruleset(**UNBOUNDED))
    try:
        with site.lab.counted() as grown:
            found, figures = await scan(laptop, PORTS, *everywhere)
    finally:
        site.lab.load()
    assert found == {address: CONTROL.get(address, []) for address in everywhere}
    assert figures == {"tried": PORTS * len(everywhere), "silent": 0}
    # Refused by the rules and by nothing else: each port of each address that a packet gets to.
    refused = len(seen) + 1  # and by name
    assert grown["job_to_service"] >= len(SERVICES) * (refused + 1)  # the internet's as well
    assert grown["job_to_host"] >= (PORTS - len(SERVICES)) * refused
    assert grown["job_to_dns"] >= 2


async def test_without_the_rules_it_finds_what_listens(
    site: Served, laptop: httpx.AsyncClient
) -> None:
    site.lab.unload()
    try:
        found, _ = await scan(laptop, ASSIGNED, "10.0.0.1", BY_NAME)
    finally:
        site.lab.load()
    expected = listening(site)
    assert {*SERVICES, *OTHERS} <= set(expected)
    assert found == {"10.0.0.1": expected, BY_NAME: expected}
