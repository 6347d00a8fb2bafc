"""The configuration of SPIRE's server and agent, as the NixOS module renders it as well.

JSON, which SPIRE's HCL reader takes. What each key means: SPIRE's doc/spire_server.md,
doc/spire_agent.md and doc/plugin_agent_workloadattestor_docker.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRUST_DOMAIN = "flashpods.local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """The contract's (section 6); tests take short ones."""

    ca: str = "24h"
    x509_svid: str = "1h"
    jwt_svid: str = "5m"
    agent: str = "1h"
    # How soon a new entry reaches the server's cache, and from there the agent. SPIRE's 5 s each
    # save work on thousands of nodes; here a job would wait for them after each new join token.
    sync: str = "1s"


def server(
    *, data: Path, socket: Path, port: int, lifetimes: Lifetimes, level: str = "INFO"
) -> dict[str, Any]:
    """Return the server's file."""
    return {
        "server": {
            "bind_address": "127.0.0.1",
            "bind_port": port,
            "socket_path": str(socket),
            "trust_domain": TRUST_DOMAIN,
            "data_dir": str(data),
            "log_level": level,
            "log_format": "json",
            "ca_ttl": lifetimes.ca,
            "default_x509_svid_ttl": lifetimes.x509_svid,
            "default_jwt_svid_ttl": lifetimes.jwt_svid,
            "agent_ttl": lifetimes.agent,
            # Nodes that joined by token and are long gone, with the entries they had.
            "prune_attested_nodes_expired_for": "24h",
            "prune_tofu_nodes": True,
            # Elsewhere these two are fatal errors.
            "experimental": {"cache_reload_interval": lifetimes.sync},
        },
        "plugins": {
            "DataStore": {
                "sql": {
                    "plugin_data": {
                        "database_type": "sqlite3",
                        "connection_string": str(data / "datastore.sqlite3"),
                    }
                }
            },
            "KeyManager": {"disk": {"plugin_data": {"keys_path": str(data / "keys.json")}}},
            "NodeAttestor": {"join_token": {"plugin_data": {}}},
        },
    }


def agent(
    *,
    data: Path,
    socket: Path,
    server_port: int,
    podman_socket: Path,
    cgroup_parent: str,
    lifetimes: Lifetimes,
    level: str = "INFO",
) -> dict[str, Any]:
    """Return the agent's file, without what each start puts in (``flashpods-spire-agent``)."""
    return {
        "agent": {
            "server_address": "127.0.0.1",
            "server_port": server_port,
            "socket_path": str(socket),
            "trust_domain": TRUST_DOMAIN,
            "log_level": level,
            "log_format": "json",
            # The token service has no identity of its own and only checks others'.
            "allow_unauthenticated_verifiers": True,
            "experimental": {"sync_interval": lifetimes.sync},
        },
        "plugins": {
            "KeyManager": {"disk": {"plugin_data": {"directory": str(data)}}},
            "NodeAttestor": {"join_token": {"plugin_data": {}}},
            "WorkloadAttestor": [
                {
                    "docker": {
                        "plugin_data": {
                            "docker_socket_path": f"unix://{podman_socket}",
                            # By the kernel's word alone, docs/decisions/0006.
                            "use_new_container_locator": False,
                            "container_id_cgroup_matchers": [f"{cgroup_parent}/<id>/*"],
                        }
                    }
                },
                {"unix": {"plugin_data": {}}},
            ],
        },
    }
