"""When the trust domain's newest authority ends, as metrics and the doctor tell."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from spiffe._proto import workload_pb2, workload_pb2_grpc

from flashpods.adapters.spiffe import authorities
from flashpods.admin.doctor import trust
from flashpods.admin.doctor.finding import Look, Severity
from flashpods.config import Settings

NOW = datetime.now(UTC).replace(microsecond=0)
DOMAIN = "flashpods.local"


def authority(hours: int, age: int = 1) -> bytes:
    """Return a self-signed authority in DER that began and ends so many hours from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1 + abs(hours))
        .not_valid_before(NOW - timedelta(hours=age))
        .not_valid_after(NOW + timedelta(hours=hours))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}")]),
            critical=False,
        )
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


class Agent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """SPIRE's agent, as far as X.509 bundles go."""

    def __init__(self) -> None:
        self.bundles: dict[str, bytes] = {}

    def FetchX509Bundles(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - its name
        yield workload_pb2.X509BundlesResponse(bundles=self.bundles)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Agent, str]]:
    path = tmp_path / "agent.sock"
    agent = Agent()
    server = grpc.server(ThreadPoolExecutor(2))
    workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(agent, server)  # type: ignore[no-untyped-call] # generated code
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield agent, f"unix://{path}"
    server.stop(0).wait(5)


def test_the_newest_authority_counts(agent: tuple[Agent, str]) -> None:
    served, url = agent
    served.bundles = {DOMAIN: authority(3) + authority(27), "other.domain": authority(90)}
    found = authorities.newest(url, DOMAIN)
    assert found.ends == (NOW + timedelta(hours=27)).timestamp()
    assert [found.left(at) for at in (found.begins, found.ends)] == [1, 0]
    assert found.left(NOW.timestamp()) == 27 / 28


@pytest.mark.parametrize(
    ("hours", "severity", "words"),
    [
        (13, None, ""),
        (9, None, ""),  # the server is late, and may yet do it
        (7, Severity.WARNING, "ends in 420 minutes"),
        (1, Severity.CRITICAL, "ends in 60 minutes"),
        (-1, Severity.CRITICAL, "ended 60 minutes ago"),
    ],
)
def test_the_doctor_says_that_an_authority_ends_soon(
    agent: tuple[Agent, str], hours: int, severity: Severity | None, words: str
) -> None:
    served, url = agent
    served.bundles = {DOMAIN: authority(hours, 24 - hours)}  # as of a life of 24 hours
    settings = Settings(
        identity={"enabled": True}, tokens={"workload_api": url, "trust_domain": DOMAIN}
    )
    found = trust.authority(Look(settings=settings, now=NOW, health=None, units=None))
    assert [f.severity for f in found] == ([severity] if severity else [])
    if found:
        assert words in found[0].symptom
        assert found[0].code == "spire_authority_expiring"
    served.bundles = {}
    assert trust.authority(Look(settings=settings, now=NOW, health=None, units=None)) == []


@pytest.mark.parametrize("served", [{}, {"other.domain": authority(1)}, {DOMAIN: b"junk"}])
def test_no_authority_is_said(agent: tuple[Agent, str], served: dict[str, bytes]) -> None:
    agent[0].bundles = served
    with pytest.raises(LookupError):
        authorities.newest(agent[1], DOMAIN)


async def test_the_watch_says_nan_while_the_agent_is_away(
    agent: tuple[Agent, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorities, "LOOK_SECONDS", 0.01)
    agent[0].bundles = {DOMAIN: authority(5)}
    for url, wanted in ((agent[1], False), (f"unix://{tmp_path}/nowhere", True)):
        told: asyncio.Queue[float] = asyncio.Queue()
        watch = asyncio.create_task(authorities.watch(url, DOMAIN, told.put_nowait))
        async with asyncio.timeout(60):
            assert math.isnan(await told.get()) is wanted
            assert math.isnan(await told.get()) is wanted
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
