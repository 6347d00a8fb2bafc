"""When the trust domain's newest authority ends, as the token service's metrics tell."""

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

NOW = datetime.now(UTC).replace(microsecond=0)
DOMAIN = "flashpods.local"


def authority(hours: int) -> bytes:
    """Return a self-signed authority in DER that ends so many hours from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(hours)
        .not_valid_before(NOW - timedelta(hours=1))
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
    ends = authorities.newest_end(url, DOMAIN)
    assert ends == (NOW + timedelta(hours=27)).timestamp()


@pytest.mark.parametrize("served", [{}, {"other.domain": authority(1)}, {DOMAIN: b"junk"}])
def test_no_authority_is_said(agent: tuple[Agent, str], served: dict[str, bytes]) -> None:
    agent[0].bundles = served
    with pytest.raises(LookupError):
        authorities.newest_end(agent[1], DOMAIN)


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
