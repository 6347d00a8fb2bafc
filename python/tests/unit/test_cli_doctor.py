"""What doctor makes of a host that is away, old, late, full or ill."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from flashpods import __version__
from flashpods.cli import doctor
from flashpods.client.config import ClientConfig


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (TimeoutError(), "does not answer", "wg show"),
        (ConnectionRefusedError(), "refuses connections", "systemctl status flashpods-api"),
        (
            OSError(errno.ENETUNREACH, "Network is unreachable"),
            "Network is unreachable",
            "wg-quick",
        ),
        (OSError(-2, "Name or service not known"), "Name or service not known", "wg show"),
    ],
)
async def test_no_way_to_the_host(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, remedy: str
) -> None:
    async def connect(*_: Any) -> None:
        raise error

    monkeypatch.setattr(asyncio, "open_connection", connect)
    check = await doctor._tunnel(ClientConfig(token="t", api_host="pods", api_port=81))
    assert (check.name, check.status) == ("host", "failed")
    assert "pods:81" in check.message
    assert said in check.message
    assert remedy in check.remedy


def test_versions() -> None:
    assert doctor._version({"version": f"{__version__.rpartition('.')[0]}.99"}).status == "ok"
    assert doctor._version({"version": "99.0.0"}).status == "warning"
    assert "99.0.0" in doctor._version({"version": "99.0.0"}).message


@pytest.mark.parametrize(
    ("skew", "status", "said"),
    [
        (0.0, "ok", "agrees"),
        (-20.0, "ok", "agrees"),
        (7200.0, "warning", "2 h 00 min ahead of"),
        (-90.0, "warning", "1 min 30 s behind"),
        (None, "warning", "no time"),
    ],
)
def test_clocks(skew: float | None, status: str, said: str) -> None:
    check = doctor._clock(skew)
    assert check.status == status
    assert said in check.message


def test_health() -> None:
    ill = {"status": "degraded", "checks": {"podman": {"status": "failing", "message": "gone"}}}
    check = doctor._health(ill)
    assert (check.status, check.message) == ("failed", "podman: gone")
    full = {"status": "healthy", "checks": {"disk": {"status": "warning", "message": "90 %"}}}
    assert doctor._health(full).status == "warning"
    assert doctor._health({"status": "healthy", "checks": {}}).status == "ok"


def test_capacity() -> None:
    some = {"available": {"cpus": 1, "memory_gb": 2}}
    assert doctor._capacity(some).status == "ok"
    assert doctor._capacity({**some, "draining": True}).status == "warning"
    assert "full" in doctor._capacity({"available": {"cpus": 0, "memory_gb": 2}}).message


async def test_a_missing_rsync_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = await doctor._rsync()
    assert check.status == "failed"
    assert "apt install rsync" in check.remedy
    assert doctor._git().status == "warning"
