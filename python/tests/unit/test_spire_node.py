"""When the agent needs a new join token."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from flashpods.spire.node import CACHE, as_pem, authorities_of, read_cache, why_new_token

NOW = datetime(2027, 1, 1, tzinfo=UTC)
NODE = "spiffe://flashpods.local/spire/agent/join_token/t"
KNOWN = {"id": {"trust_domain": "flashpods.local", "path": "/spire/agent/join_token/t"}}


def certificate(uri: str | None, until: datetime) -> x509.Certificate:
    key = generate_private_key(SECP256R1())
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=9))
        .not_valid_after(until)
    )
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, SHA256())


def pem(*certificates: x509.Certificate) -> list[str]:
    return [base64.b64encode(c.public_bytes(Encoding.PEM)).decode() for c in certificates]


def der(*certificates: x509.Certificate) -> list[bytes]:
    return [c.public_bytes(Encoding.DER) for c in certificates]


ROOT = certificate(None, NOW + timedelta(days=1))
NEXT = certificate(None, NOW + timedelta(days=2))
OLD = certificate(None, NOW - timedelta(days=1))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path, NOW + timedelta(minutes=30))
    return tmp_path


def write(data: Path, until: datetime) -> None:
    svid = certificate(NODE, until)
    content = {"svid": pem(svid), "bundle": pem(ROOT), "reattestable": False}
    (data / CACHE).write_text(json.dumps(content))


def why(
    data: Path, *authorities: x509.Certificate, known: bool = True, banned: bool = False
) -> str | None:
    return why_new_token(
        read_cache(data),
        agents=[{**KNOWN, "banned": banned}] if known else [],
        authorities=der(*(authorities or (ROOT,))),
        now=NOW,
    )


def test_it_goes_on_with_what_it_has(data: Path) -> None:
    assert why(data) is None


def test_the_cache_is_read(data: Path) -> None:
    cached = read_cache(data)
    assert cached is not None
    assert (cached.spiffe_id, cached.expires_at) == (NODE, NOW + timedelta(minutes=30))
    assert cached.authorities == frozenset(der(ROOT))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"svid": null, "bundle": null}', '{"svid": ["?"]}']
)
def test_without_a_cache_that_can_be_read(data: Path, content: str) -> None:
    (data / CACHE).write_text(content)
    assert why(data) == "it has no SVID"


def test_without_data(tmp_path: Path) -> None:
    assert why(tmp_path / "gone") == "it has no SVID"


@pytest.mark.parametrize("ago", [timedelta(days=7), timedelta(0), -timedelta(seconds=4)])
def test_expired_or_as_good_as(data: Path, ago: timedelta) -> None:
    write(data, NOW - ago)
    assert "expired" in str(why(data))


def test_a_server_that_lost_its_data(data: Path) -> None:
    assert why(data, known=False) == "the server does not know it"


def test_banned(data: Path) -> None:
    assert why(data, banned=True) == "the server has banned it"


def test_authorities_rotated_while_it_was_off(data: Path) -> None:
    assert why(data, ROOT, NEXT) == "the server has authorities that it does not trust"


def test_dead_authorities_do_not_count(data: Path) -> None:
    assert why(data, ROOT, OLD) is None


def test_the_bundles_forms() -> None:
    asn1 = base64.b64encode(der(ROOT)[0]).decode()
    assert authorities_of({"x509_authorities": [{"asn1": asn1}]}) == der(ROOT)
    assert authorities_of({}) == []
    text = as_pem(der(ROOT, NEXT))
    assert x509.load_pem_x509_certificates(text.encode()) == [ROOT, NEXT]
