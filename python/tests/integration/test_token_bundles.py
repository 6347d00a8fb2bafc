"""The trust bundle: rotated, lost, taken away, garbled; and what an agent's absence does."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from structlog.testing import capture_logs
from token_rig import Key, Rig, claims, jwks, running

from flashpods.adapters.spiffe import bundles
from flashpods.adapters.spiffe.bundles import BundleKeeper
from flashpods.errors import Unavailable

JOB = "0123456789abcdef"
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.PERMISSION_DENIED)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running() as up:
        up.peer.path = up.podman.add(JOB, "agent")
        yield up


async def streams(rig: Rig, more_than: int) -> None:
    """Return once the agent has had more streams than that."""

    def wait() -> None:
        with rig.agent._changed:
            assert rig.agent._changed.wait_for(lambda: rig.agent.streams > more_than, 15)

    await asyncio.to_thread(wait)


async def lost(rig: Rig) -> None:
    async with asyncio.timeout(60):
        while rig.keeper.age() == 0:
            await rig.ask(None, "/health")


async def test_a_rotation_fails_no_exchange(rig: Rig) -> None:
    new = Key("k2")
    rig.agent.serve(flashpods_local=jwks(rig.key, new))
    await rig.until(lambda: new.sign(claims()), 200)
    assert (await rig.ask(rig.token())).status_code == 200
    rig.agent.serve(flashpods_local=jwks(new))
    await rig.until(rig.token, 401, "invalid_jwt")  # the old key is trusted no more
    assert (await rig.ask(new.sign(claims()))).status_code == 200


@pytest.mark.parametrize("status", AWAY)
async def test_an_agent_that_restarts(rig: Rig, status: grpc.StatusCode) -> None:
    with capture_logs() as logged:
        await asyncio.to_thread(rig.agent.stop, status)
        await lost(rig)
        for _ in range(3):
            assert (await rig.ask(rig.token())).status_code == 200  # with what is known
        health = (await rig.ask(None, "/health")).json()
        assert health["checks"]["bundle"]["status"] == "ok"
        new, seen = Key("k2"), rig.agent.streams
        rig.agent.serve(flashpods_local=jwks(new))
        rig.agent.start()
        began = time.monotonic()
        await streams(rig, seen)
        await rig.until(lambda: new.sign(claims()), 200)
        assert time.monotonic() - began < 30
        assert (await rig.ask(rig.token())).status_code == 401
    said = [line for line in logged if line["event"] == "the SPIRE agent is away"]
    assert len(said) == 1  # once, not at each try


async def test_an_agent_away_for_long_fails_closed_and_comes_back() -> None:
    async with running(bundle_grace_seconds=0.2) as rig:
        rig.peer.path = rig.podman.add(JOB, "agent")
        await asyncio.to_thread(rig.agent.stop)
        answer = await rig.until(rig.token, 503, "service_unavailable")
        assert answer.headers["retry-after"]
        assert "has been away" in answer.json()["message"]
        health = await rig.ask(None, "/health")
        assert (health.status_code, health.json()["status"]) == (503, "degraded")
        rig.agent.start()
        await rig.until(rig.token, 200)


async def test_a_bundle_that_is_taken_away_fails_closed(rig: Rig) -> None:
    for gone in ({"other_domain": jwks(rig.key)}, {"flashpods_local": b'{"keys": []}'}, {}):
        rig.agent.serve(**gone)
        answer = await rig.until(rig.token, 503, "service_unavailable")
        assert "no trust bundle" in answer.json()["message"]
        rig.agent.serve(flashpods_local=jwks(rig.key))
        await rig.until(rig.token, 200)


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"keys": [{"kty": "EC"}]}', b"\xff"])
async def test_a_bundle_that_is_none_changes_nothing(rig: Rig, junk: bytes) -> None:
    seen = rig.agent.streams
    rig.agent.serve(flashpods_local=junk)
    await streams(rig, seen + 1)  # the stream is given up, and tried again more than once
    assert (await rig.ask(rig.token())).status_code == 200
    rig.agent.serve(flashpods_local=jwks(Key("k2")))
    await rig.until(rig.token, 401, "invalid_jwt")


async def test_a_symmetric_key_in_a_bundle_is_of_no_use(rig: Rig) -> None:
    oct_key = b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"}]}'
    seen = rig.agent.streams
    rig.agent.serve(flashpods_local=oct_key)
    async with asyncio.timeout(60):
        while rig.agent.streams == seen and (await rig.ask(rig.token())).status_code == 200:
            pass
    import jwt  # noqa: PLC0415 - for this one forgery

    forged = jwt.encode(claims(), "secret" * 6, "HS256", headers={"kid": "k1"})
    assert (await rig.ask(forged)).json()["error"] == "invalid_jwt"


async def test_no_agent_at_the_start(rig: Rig) -> None:
    keeper = BundleKeeper(f"unix://{rig.root}/nowhere", "flashpods.local", grace_seconds=1)
    with pytest.raises(Unavailable, match="no trust bundle"):
        keeper.bundle()
    keeper.start()
    with pytest.raises(Unavailable, match=r"within 0\.2 s; is the SPIRE agent up"):
        await keeper.wait(0.2)
    await keeper.close()


async def test_a_silent_agent_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "FIRST_UPDATE_SECONDS", 0.1)
    rig.agent.silent = True
    keeper = BundleKeeper(rig.agent.url, "flashpods.local", grace_seconds=1)
    keeper.start()
    await streams(rig, rig.agent.streams + 1)
    with pytest.raises(Unavailable):
        keeper.bundle()
    monkeypatch.setattr(bundles, "FIRST_UPDATE_SECONDS", 60)  # the next is waited for
    rig.agent.silent = False
    await keeper.wait(60)
    assert keeper.age() == 0
    await keeper.close()


async def test_it_may_be_closed_at_any_moment(rig: Rig) -> None:
    """gRPC crashes the process when a channel is closed while a call on it begins."""
    script = (
        "import asyncio, sys\n"
        "from flashpods.adapters.spiffe.bundles import BundleKeeper\n"
        "sys.setswitchinterval(1e-6)\n"
        "async def main():\n"
        "    for n in range(60):\n"
        "        keeper = BundleKeeper(sys.argv[1], 'flashpods.local', grace_seconds=1)\n"
        "        keeper.start()\n"
        "        await asyncio.sleep(0.0005 * (n % 12))\n"
        "        await keeper.close()\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, rig.agent.url, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(100):
        assert await child.wait() == 0
