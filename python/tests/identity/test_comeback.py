"""A node that lost its data, or was off for too long, comes back by itself; authorities rotate.

Lifetimes are short, so a week is some seconds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import identity_rig as rig
import pytest
import support
from cryptography import x509

from flashpods.spire import node
from flashpods_dev.identity.parts import Identity
from flashpods_dev.identity.render import Lifetimes
from flashpods_dev.machine import Machine
from flashpods_dev.stack import MiniStack

BACK = 20  # seconds that a restart may take on a busy machine; the agent itself needs 1
SHORT = Lifetimes(ca="40s", x509_svid="15s", jwt_svid="5s", agent="15s")
# SPIRE looks after its authorities every 10 s: prepared at half of the life, used at 5/6 of it.
ROTATING = Lifetimes(ca="90s", x509_svid="15s", jwt_svid="5s", agent="15s")


@pytest.fixture(scope="module")
def stack(machine: Machine) -> Iterator[MiniStack]:
    with rig.stack_with_identity(machine, lifetimes=SHORT) as running:
        yield running


@pytest.fixture
def identity(stack: MiniStack) -> Identity:
    """All parts run: a unit would have started an agent again that a slow machine let expire."""
    found = rig.identity_of(stack)
    for service in found.services:
        service.start()
    return found


def expired(identity: Identity) -> bool:
    """Whether the agent's SVID and all the authorities that it knows have expired."""
    cached = node.read_cache(identity.agent_data)
    assert cached is not None
    roots = [x509.load_der_x509_certificate(der) for der in cached.authorities]
    ends = [cached.expires_at, *(root.not_valid_after_utc for root in roots)]
    return max(ends) < datetime.now(UTC)


async def test_a_token_that_has_expired(stack: MiniStack, identity: Identity) -> None:
    await rig.works(stack)
    async with support.connect(stack) as host:
        answer = await rig.ask(host.client, "agent", "late")
    assert (answer["status"], answer["body"]["error"]) == (401, "expired_jwt")


async def test_the_host_was_off_for_a_week(stack: MiniStack, identity: Identity) -> None:
    """The SVID has expired, and the authorities that the agent trusts as well."""
    before = rig.minted(identity)
    identity.agent.terminate()
    identity.server.terminate()
    rig.within(60, lambda: expired(identity), "everything has expired")
    identity.server.start()
    identity.agent.start()
    await rig.works(stack)
    assert len(rig.minted(identity)) == len(before) + 1
    assert "its SVID expired at" in rig.minted(identity)[-1]


async def test_the_server_was_away_for_longer_than_an_svid_lives(
    stack: MiniStack, identity: Identity
) -> None:
    """The agent gives up by itself, and its unit starts it again."""
    identity.server.kill()
    rig.within(60, lambda: not identity.agent.alive, "the agent has given up")
    identity.server.start()
    identity.agent.start()
    await rig.works(stack)


async def test_the_servers_data_is_lost(stack: MiniStack, identity: Identity) -> None:
    identity.server.terminate()
    shutil.rmtree(identity.server_data)
    identity.server_data.mkdir(mode=0o700)
    identity.server.start()
    identity.register()
    rig.within(60, lambda: not identity.agent.alive, "the agent has seen that it is a stranger")
    identity.agent.start()
    rig.within(BACK, lambda: identity.agent.alive, "the agent runs")
    await rig.works(stack)


async def test_nodes_of_the_past_leave_no_entries(stack: MiniStack, identity: Identity) -> None:
    """Each join token leaves an entry for its node: the registration takes the dead ones' away."""
    identity.register()
    entries = identity.client().entries()
    hosts = [e for e in entries if e["spiffe_id"]["path"] == "/host"]
    paths = {e["spiffe_id"]["path"] for e in entries}
    assert paths == {"/worker", "/agent", "/host"}
    cached = node.read_cache(identity.agent_data)
    assert cached is not None
    ours = cached.spiffe_id.removeprefix(rig.DOMAIN)
    assert ours in {e["parent_id"]["path"] for e in hosts}
    await rig.works(stack)


async def test_authorities_rotate_without_a_failed_exchange(machine: Machine) -> None:
    with rig.stack_with_identity(machine, lifetimes=ROTATING) as stack:
        identity = rig.identity_of(stack)

        def keys() -> tuple[set[str], set[str]]:
            bundle = identity.client().bundle()
            jwt = {key["key_id"] for key in bundle["jwt_authorities"]}
            return {key["asn1"] for key in bundle["x509_authorities"]}, jwt

        roots, signers = keys()
        began = time.monotonic()
        async with support.connect(stack) as host:
            seconds = 110
            job = await rig.start_job(
                host.client, "agent", f"python3 {rig.INSIDE} attempts {seconds} 0.2"
            )
            row = await support.ended(host.client, job, seconds=seconds + 60)
            said = await rig.said_by(host.client, job)
        assert row["status"] == "completed", row
        reports = rig.answers_in(said)
        later_roots, later_signers = keys()
        used = {report["kid"] for report in reports if "kid" in report}
        assert time.monotonic() - began >= seconds
        assert later_roots - roots
        assert later_signers - signers
        assert len(used) > 1, "another authority has signed meanwhile"
        bad = [r for r in reports if r.get("status") != 200 or not r["fresh"]]
        assert bad == []
        assert len(reports) > 20
