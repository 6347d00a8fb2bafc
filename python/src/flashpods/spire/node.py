"""Whether this host's agent can go on with what it has cached: rules and parsing only.

A join token is used once, so an agent that lost its data, whose SVID expired while the host was
off, whom the server no longer knows, or who no longer trusts the server's authorities needs a new
one. The cache is ``agent-data.json`` in the agent's data directory (SPIRE's pkg/agent/storage).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from flashpods.spire.registration import spiffe_id

CACHE: Final = "agent-data.json"
BUNDLE: Final = "bootstrap.pem"  # beside it, for the first contact
MARGIN: Final = timedelta(seconds=5)
"""An SVID that lives no longer than this would be dead before the agent has renewed it."""


@dataclass(frozen=True, slots=True)
class Cached:
    """What the agent has: its SVID, and the authorities that it trusts, in DER."""

    spiffe_id: str
    serial: int
    expires_at: datetime
    authorities: frozenset[bytes]


def read_cache(data: Path) -> Cached | None:
    """Read the agent's cache; None where there is none, or none that can be read."""
    try:
        content = json.loads((data / CACHE).read_bytes())
        chain = [_certificate(text) for text in content["svid"] or ()]
        bundle = [_certificate(text) for text in content["bundle"] or ()]
    except (OSError, ValueError, KeyError, TypeError, binascii.Error):
        return None
    if not chain:
        return None
    return Cached(
        spiffe_id=_uri(chain[0]),
        serial=chain[0].serial_number,
        expires_at=chain[0].not_valid_after_utc,
        authorities=frozenset(c.public_bytes(Encoding.DER) for c in bundle),
    )


def why_new_token(
    cached: Cached | None,
    *,
    agents: Iterable[Mapping[str, Any]],
    authorities: Iterable[bytes],
    now: datetime,
) -> str | None:
    """Say why the agent needs a new join token; None if it can go on.

    Args:
        cached: what the agent has.
        agents: the server's ``agent list``.
        authorities: the X.509 authorities of the server's bundle, in DER.
        now: the time, with its zone.
    """
    if cached is None:
        return "it has no SVID"
    if cached.expires_at <= now + MARGIN:
        return f"its SVID expired at {cached.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    known = [agent for agent in agents if spiffe_id(agent["id"]) == cached.spiffe_id]
    if not known:
        return "the server does not know it"
    if known[0].get("banned"):
        return "the server has banned it"
    current = {der for der in authorities if _lives(der, now)}
    if not cached.authorities.issuperset(current):
        return "the server has authorities that it does not trust"
    return None


def authorities_of(bundle: Mapping[str, Any]) -> list[bytes]:
    """Return the X.509 authorities of ``bundle show`` in DER."""
    return [base64.b64decode(entry["asn1"]) for entry in bundle.get("x509_authorities", ())]


def as_pem(authorities: Iterable[bytes]) -> str:
    """Return certificates in PEM, as the agent's trust bundle file has them."""
    certificates = (x509.load_der_x509_certificate(der) for der in authorities)
    return "".join(c.public_bytes(Encoding.PEM).decode() for c in certificates)


def _lives(der: bytes, now: datetime) -> bool:
    return x509.load_der_x509_certificate(der).not_valid_after_utc > now


def _certificate(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(text))


def _uri(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.value.get_values_for_type(x509.UniformResourceIdentifier)), "")
