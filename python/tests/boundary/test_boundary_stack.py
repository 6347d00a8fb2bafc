"""The real stack on the lab's host: the laptop's jobs run, and a job gets nothing back."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator

import httpx
import judge
import pytest
import served
from netlab import ANSWER, HOST4, OTHERS, PORTS, WEB4, ruleset
from served import Served, probing, run, total

from flashpods_dev.machine import inside
from flashpods_dev.stack import MiniStack


@pytest.fixture(scope="module")
def site() -> Iterator[Served]:
    """The stack, in the network of a host whose port 8080 is its API's."""
    with served.serve(
        lambda _, state: MiniStack(
            state,
            inside(),
            overrides=served.OVERRIDES,
            port=served.API_PORT,
            parts=("podman", "api"),
        )
    ) as running:
        yield running


@pytest.fixture
async def laptop(site: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client on the laptop."""
    async with site.laptop() as client:
        yield client


async def test_the_laptop_is_served(site: Served, laptop: httpx.AsyncClient) -> None:
    assert "checks" in (await laptop.get("/health")).json()  # degraded counts: a full disk, say
    status, lines = await run(laptop, "echo hello")
    assert (status, lines) == ("completed", ["hello"])


def test_root_is_served(site: Served) -> None:
    lab = site.lab
    for address in ("10.0.0.1", "127.0.0.1", HOST4):
        assert '"checks"' in lab.host.run("curl", "-s", f"http://{address}:8080/health")


async def test_a_job_reaches_the_internet_by_name(site: Served, laptop: httpx.AsyncClient) -> None:
    cells = [("tcp", "some.example", 443), ("tcp", WEB4, 80)]
    status, lines = await run(laptop, probing(*cells, seconds=ANSWER))
    assert status == "completed"
    assert json.loads(lines[-1]) == ["internet", "internet"]


async def test_a_job_reaches_nothing_of_the_host(site: Served, laptop: httpx.AsyncClient) -> None:
    lab = site.lab
    addresses = ("10.0.0.1", HOST4, "10.88.0.1", "host.containers.internal")
    cells = [("tcp", address, port) for address in addresses for port in PORTS]
    with lab.counted() as grown:
        status, lines = await run(laptop, probing(*cells))
    assert status == "completed"
    judge.expect_nobody(cells, json.loads(lines[-1]))
    assert grown["job_to_service"] == 2 * len(addresses)
    assert grown["job_to_host"] == len(OTHERS) * len(addresses)


STOLEN = """
import json, urllib.request
body = json.dumps({"type": "worker", "command": "echo spawned", "cpus": 1, "memory_gb": 1}).encode()
for host in HOSTS:
    request = urllib.request.Request(
        f"http://{host}:8080/jobs", body,
        {"Authorization": "Bearer TOKEN", "Content-Type": "application/json"})
    try:
        print(host, urllib.request.urlopen(request, timeout=60).status)
    except OSError as e:
        print(host, getattr(e, "reason", e))
"""


async def test_a_stolen_token_spawns_nothing(site: Served, laptop: httpx.AsyncClient) -> None:
    lab = site.lab
    hosts = ["10.0.0.1", HOST4, "198.51.100.11", "10.88.0.1", "host.containers.internal"]
    script = STOLEN.replace("HOSTS", repr(hosts)).replace(
        "TOKEN", laptop.headers["Authorization"].removeprefix("Bearer ")
    )
    command = f"python3 -c {shlex.quote(script)}"
    lab.unload()
    try:
        before = await total(laptop)
        _, lines = await run(laptop, command)
        assert [line.split()[1] for line in lines] == ["201"] * len(hosts)
        assert await total(laptop) == before + 1 + len(hosts)
    finally:
        lab.load()
    before = await total(laptop)
    with lab.counted() as grown:
        status, lines = await run(laptop, command)
    assert status == "completed"
    assert all("refused" in line for line in lines), lines
    assert await total(laptop) == before + 1
    assert grown == {"job_to_service": len(hosts)}


FLOOD = """
import socket
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(60)]
for port in range(10000, 10100):
    for flow in flows:
        flow.sendto(b"?", (ADDRESS, port))
print("sent", flush=True)
"""


async def test_a_job_that_fills_the_table_fills_its_share(
    site: Served, laptop: httpx.AsyncClient
) -> None:
    """Many flows of few sockets: no limit of descriptors stops it."""
    lab = site.lab
    held = "/proc/sys/net/netfilter/nf_conntrack_count"
    lab.load(ruleset(max_flows=160, new_flows=2**16))
    try:
        with lab.counted() as grown:
            status, lines = await run(
                laptop, f"python3 -c {shlex.quote(FLOOD.replace('ADDRESS', repr(WEB4)))}"
            )
            assert (status, lines) == ("completed", ["sent"])
            assert int(lab.host.run("cat", held)) < 300
            # It is still full: the laptop, root and jobs without the network go on.
            assert (await run(laptop, "echo hello"))[1] == ["hello"]
            assert lab.host.probe().one(WEB4, 80) == "internet"
        assert grown.keys() == {"job_over_flows"}
        # 6000 were sent; slirp4netns itself drops what a busy machine gives it too fast.
        assert grown["job_over_flows"] > 160
    finally:
        lab.load()
