"""``/health``: what is checked, how long, how often."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from api_rig import Rig, make_rig

from flashpods.config import Settings
from flashpods.errors import Unavailable
from flashpods.web import checks


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


async def test_healthy(rig: Rig) -> None:
    rig.clock.advance(90)
    async with rig.client(auth=False) as client:
        answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "version": "0.1.0",
        "uptime_seconds": 90.0,
        "draining": False,
        "checks": {
            "database": {"status": "ok"},
            "podman": {"status": "ok"},
            "disk": {"status": "ok", "used_percent": {"/work": 10.0}},
            "identity": {"status": "not_configured"},
        },
    }


async def test_each_part_degrades_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise Unavailable("the database is locked")

    async with rig.client(auth=False) as client:

        async def failing() -> set[str]:
            rig.clock.advance(1)
            answer = await client.get("/health")
            checks = answer.json()["checks"]
            bad = {name for name, found in checks.items() if found["status"] == "failing"}
            assert answer.status_code == (503 if bad else 200)
            assert answer.json()["status"] == ("degraded" if bad else "healthy")
            assert all(checks[name]["message"] for name in bad)
            return bad

        assert await failing() == set()
        rig.runtime.fails = Unavailable("Podman does not answer")
        assert await failing() == {"podman"}
        rig.disk.fractions["/work"] = 0.85
        assert await failing() == {"podman", "disk"}
        monkeypatch.setattr(rig.store, "ping", broken)
        assert await failing() == {"podman", "disk", "database"}
        rig.runtime.fails = None
        rig.disk.fractions["/work"] = 0.1
        monkeypatch.undo()
        assert await failing() == set()


async def test_a_drain_shows_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown() -> bool:
        raise Unavailable("the database is locked")

    async with rig.client(auth=False) as client:

        async def says() -> bool:
            return bool((await client.get("/health")).json()["draining"])

        assert not await says()
        await rig.store.set_draining(True, at=rig.clock.now())
        assert await says()  # though the parts were looked at a moment ago
        monkeypatch.setattr(rig.store, "draining", unknown)
        assert await says()
        monkeypatch.undo()
        await rig.store.set_draining(False, at=rig.clock.now())
        assert not await says()


async def test_identity_counts_once_it_is_configured(tmp_path: Path) -> None:
    class Chain:
        why: str | None = None

        async def ping(self) -> None:
            if self.why:
                raise Unavailable(self.why)

        ping_agent = ping_tokens = ping

    chain = Chain()
    rig = Rig(tmp_path, Settings(), identity=chain)
    async with rig.client(auth=False) as client:
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()["checks"]["identity"]) == (200, {"status": "ok"})
        chain.why = "SPIRE's agent does not answer"
        rig.clock.advance(1)
        answer = await client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
    assert answer.json()["checks"]["identity"] == {"status": "failing", "message": chain.why}


async def test_a_disk_that_fills_is_a_warning_not_a_failure(rig: Rig) -> None:
    rig.disk.fractions["/work"] = 0.7
    async with rig.client(auth=False) as client:
        answer = await client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
    assert answer.json()["checks"]["disk"] == {
        "status": "warning",
        "message": "at least 70 % used: /work",
        "used_percent": {"/work": 70.0},
    }


async def test_a_hanging_part_has_a_deadline(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.05)
    rig.runtime.hangs = True
    async with rig.client(auth=False) as client, asyncio.timeout(30):
        answer = await client.get("/health")
        assert answer.status_code == 503
        assert "no answer" in answer.json()["checks"]["podman"]["message"]


async def test_checks_are_shared_and_run_once_a_second(rig: Rig) -> None:
    async with rig.client(auth=False) as client:
        await asyncio.gather(*(client.get("/health") for _ in range(20)))
        assert rig.runtime.pings == 1
        rig.clock.advance(0.9)
        await client.get("/health")
        assert rig.runtime.pings == 1
        rig.clock.advance(0.1)
        await client.get("/health")
        assert rig.runtime.pings == 2
