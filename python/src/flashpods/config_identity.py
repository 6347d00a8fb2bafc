"""The sections ``identity`` (what jobs get) and ``spire`` (how the host's SPIRE is kept)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from flashpods.config_base import Seconds, Section

TrustDomain = Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,255}$")]
Segment = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Selector = Annotated[str, Field(pattern=r"^[a-z_]+:[^\s]{1,500}$")]
# Host names only: what is written here becomes a part of git's configuration.
HttpsHost = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$")]


class Identity(Section):
    """What a job's container gets, so that it has an identity; nothing unless ``enabled``."""

    enabled: bool = False
    spire_socket_dir: Path = Path("/run/spire/sockets")  # its directory: an agent makes a new one
    token_socket: Path = Path("/run/flashpods/token.sock")
    helper: Path | None = None  # the static flashpods-token; None: jobs get none
    git_hosts: tuple[HttpsHost, ...] = ("https://github.com",)


class Entry(Section):
    """A registration entry: who bears all the selectors is ``<trust domain>/<its key>``."""

    selectors: tuple[Selector, ...] = Field(min_length=1)
    x509_svid_ttl: int = Field(0, ge=0)  # seconds; 0: the server's default
    jwt_svid_ttl: int = Field(0, ge=0)


def _type_label(kind: str) -> Entry:
    return Entry(selectors=(f"docker:label:flashpods-job-type:{kind}",))


class Spire(Section):
    """Server and agent of this host, for ``flashpods-spire-register`` and ``…-agent``."""

    trust_domain: TrustDomain = "flashpods.local"
    server_binary: str = "spire-server"
    server_socket: Path = Path("/run/spire/server/api.sock")
    agent_binary: str = "spire-agent"
    agent_config: Path = Path("/etc/spire/agent.json")
    agent_data: Path = Path("/var/lib/spire/agent")
    host: Segment = "host"  # the node's path, parent of every entry
    join_token_seconds: int = Field(60, ge=5, le=3600)
    call_seconds: Seconds = 10
    entries: dict[Segment, Entry] = Field(
        default_factory=lambda: {kind: _type_label(kind) for kind in ("worker", "agent")}
    )

    def spiffe_id(self, path: str) -> str:
        """Return the SPIFFE ID of a path within the trust domain."""
        return f"spiffe://{self.trust_domain}/{path}"


AGENT_SOCKET: Final = "agent.sock"  # in spire_socket_dir, and so in a job
SPIRE_TARGET: Final = "/run/spire/sockets"
TOKEN_TARGET: Final = "/run/flashpods/token.sock"  # noqa: S105 - a path
HELPER_TARGET: Final = "/usr/local/bin/flashpods-token"


def job_mounts(identity: Identity) -> dict[str, Path]:
    """Return what a job's container sees, target → host path; nothing without identity."""
    if not identity.enabled:
        return {}
    mounts = {SPIRE_TARGET: identity.spire_socket_dir, TOKEN_TARGET: identity.token_socket}
    return mounts | ({HELPER_TARGET: identity.helper} if identity.helper else {})


def job_env(identity: Identity) -> dict[str, str]:
    """Return the variables that go with :func:`job_mounts`.

    Git is told by the environment to ask the helper, for these hosts only: with a helper for all
    hosts the URL of a hostile submodule would be given the token.
    """
    if not identity.enabled:
        return {}
    env = {
        "SPIFFE_ENDPOINT_SOCKET": f"unix://{SPIRE_TARGET}/{AGENT_SOCKET}",
        "FLASHPODS_TOKEN_SOCKET": TOKEN_TARGET,
    }
    if identity.helper is None:
        return env
    for number, host in enumerate(identity.git_hosts):
        env[f"GIT_CONFIG_KEY_{number}"] = f"credential.{host}.helper"
        env[f"GIT_CONFIG_VALUE_{number}"] = f"{HELPER_TARGET} git-credential"
    return env | {
        "GIT_CONFIG_COUNT": str(len(identity.git_hosts)),
        "FLASHPODS_GIT_HOSTS": " ".join(identity.git_hosts),
        "GIT_TERMINAL_PROMPT": "0",
    }


def identity_contradictions(
    identity: Identity, spire: Spire, *, podman_socket: Path, cgroup_parent: str | None
) -> Iterator[str]:
    """Yield what would leave a job without identity, or give it somebody else's."""
    if not identity.enabled:
        return
    if not cgroup_parent:
        yield (
            "identity.enabled needs podman.cgroup_parent: SPIRE finds a job's container by the "
            "cgroup <cgroup_parent>/<container name>"
        )
    for key, private in (
        ("podman.socket", podman_socket),
        ("spire.server_socket", spire.server_socket),
    ):
        if private.is_relative_to(identity.spire_socket_dir):
            yield (
                f"identity.spire_socket_dir {identity.spire_socket_dir} is mounted into jobs and "
                f"holds {key} {private}: give it a directory of its own"
            )
