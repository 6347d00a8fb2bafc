"""The settings of ``flashpods-token-service``: section ``tokens``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from flashpods.config_base import Seconds, Section

TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}\Z")
ID_PATH: Final = re.compile(r"(/[A-Za-z0-9._-]+)+\Z")
SECRET_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")


class Grant(Section):
    """What one SPIFFE ID gets.

    Names are environment variables' (``GITHUB_TOKEN``); the secrets file has them in lower case.
    """

    job_type: Literal["worker", "agent"]  # the type of container that may present it
    granted: tuple[str, ...] = ()
    answered_null: tuple[str, ...] = ()


def _policy(section: dict[str, Any]) -> dict[str, Grant]:
    """Return who gets what where nothing else is said, in the section's trust domain."""
    domain = f"spiffe://{section.get('trust_domain', '')}"
    return {
        f"{domain}/agent": Grant(job_type="agent", granted=("ANTHROPIC_API_KEY", "GITHUB_TOKEN")),
        f"{domain}/worker": Grant(
            job_type="worker", granted=("GITHUB_TOKEN",), answered_null=("ANTHROPIC_API_KEY",)
        ),
    }


class Tokens(Section):
    """Secrets for an identity."""

    # Under systemd's LoadCredential the credential of this file's name is read instead.
    secrets_file: Path = Path("/etc/flashpods/secrets.json")
    workload_api: str = "unix:///run/spire/sockets/agent.sock"
    trust_domain: str = "flashpods.local"
    audience: str = Field("flashpods-token-service", min_length=1, max_length=255)
    policy: dict[str, Grant] = Field(default_factory=_policy, min_length=1)
    start_seconds: Seconds = 30  # within which the first trust bundle must be there
    bundle_grace_seconds: Seconds = 900  # a bundle is trusted that long after the agent was lost
    podman_seconds: Seconds = 2
    idle_seconds: Seconds = 5  # an open connection without a request
    shutdown_seconds: Seconds = 5
    # By peer: a job's container, or a user of the host.
    rate_per_second: float = Field(5, gt=0)
    rate_burst: int = Field(20, ge=1)
    connections_per_peer: int = Field(16, ge=1)
    connections: int = Field(1024, ge=1)
    metrics_host: IPv4Address | IPv6Address | None = IPv4Address("127.0.0.1")
    metrics_port: int = Field(9465, ge=0, le=65535)


def token_contradictions(tokens: Tokens) -> Iterator[str]:
    """Yield what each key by itself allows and all together do not."""
    if not tokens.secrets_file.is_absolute():
        yield f"tokens.secrets_file is {tokens.secrets_file}: must be absolute"
    if not tokens.workload_api.startswith("unix:///"):
        yield f"tokens.workload_api is {tokens.workload_api!r}: must begin with unix:///"
    if not TRUST_DOMAIN.match(tokens.trust_domain):
        yield (
            f"tokens.trust_domain is {tokens.trust_domain!r:.80}: must be lower-case letters, "
            f"digits, '.', '-', '_'"
        )
    if tokens.connections_per_peer > tokens.connections:
        yield (
            f"tokens.connections_per_peer is {tokens.connections_per_peer}, more than "
            f"tokens.connections {tokens.connections}"
        )
    domain = f"spiffe://{tokens.trust_domain}"
    for identity, grant in tokens.policy.items():
        path = identity.removeprefix(domain)
        if path == identity or not ID_PATH.match(path) or {".", ".."} & set(path.split("/")):
            yield f"tokens.policy {identity!r:.80}: must be a SPIFFE ID that begins with {domain}/"
        for name in (*grant.granted, *grant.answered_null):
            if not SECRET_NAME.match(name):
                yield (
                    f"tokens.policy {identity!r:.80}: {name!r:.80} must be an environment "
                    f"variable's name, such as GITHUB_TOKEN"
                )
        if both := set(grant.granted) & set(grant.answered_null):
            yield f"tokens.policy {identity!r:.80}: {', '.join(sorted(both))} in both lists"
