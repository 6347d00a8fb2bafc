"""``flashpods-spire-agent``: start ``spire-agent``, with a new join token if it needs one.

The unit's main process: it becomes the agent by exec, and whenever the agent ends the unit starts
it again, so whatever the agent lost is found out here. The join token goes through an anonymous
file that only this process has (memfd_create(2)): never an argument, never on a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from flashpods.config import Settings, load
from flashpods.config_base import ConfigError
from flashpods.config_identity import Spire
from flashpods.logs_setup import configure_logging
from flashpods.spire import agent_config, node
from flashpods.spire.server import ServerAway, SpireError, SpireServer

EX_SOFTWARE: Final = 70
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78

log = structlog.get_logger(__name__)


def prepare(settings: Settings, server: SpireServer) -> dict[str, Any]:
    """Return the agent's configuration for this start; the cache goes if it is of no use.

    The cache is removed before a token is minted: an agent that finds an SVID does not look at
    its token, and after a crash in between there is simply no SVID.

    Raises:
        SpireError: the configuration is unsafe, or the server refused or is away.
    """
    spire = settings.spire
    content = agent_config.read(spire.agent_config)
    if faults := "; ".join(agent_config.unsafe(content, settings.podman.cgroup_parent)):
        raise SpireError(f"spire.agent_config {spire.agent_config}: {faults}")
    authorities = node.authorities_of(server.bundle())
    why = node.why_new_token(
        node.read_cache(spire.agent_data),
        agents=server.agents(),
        authorities=authorities,
        now=datetime.now(UTC),
    )
    spire.agent_data.mkdir(mode=0o700, parents=True, exist_ok=True)
    bundle = spire.agent_data / node.BUNDLE
    token = None
    if why is not None:
        log.info("join_token_minted", why=why)
        (spire.agent_data / node.CACHE).unlink(missing_ok=True)
        bundle.write_text(node.as_pem(authorities))
        token = server.join_token()
    return agent_config.with_start(content, data=spire.agent_data, bundle=bundle, join_token=token)


def become(spire: Spire, content: dict[str, Any]) -> None:
    """Replace this process by the agent.

    Raises:
        SpireError: the binary can't be executed.
    """
    descriptor = os.memfd_create("spire-agent.json", 0)  # without MFD_CLOEXEC: the agent reads it
    with os.fdopen(os.dup(descriptor), "w") as file:
        json.dump(content, file)
    binary = spire.agent_binary
    argv = [binary, "run", "-config", f"/dev/fd/{descriptor}"]
    try:
        os.execvpe(  # noqa: S606 - that is what this command is for
            binary, argv, {"PATH": os.environ.get("PATH", os.defpath)}
        )
    except OSError as e:
        raise SpireError(f"spire.agent_binary {binary}: {e.strerror}") from e


def main() -> None:
    """Become the agent, or exit 70 (unsafe, refused), 75 (the server is away), 78."""
    parser = argparse.ArgumentParser(
        prog="flashpods-spire-agent",
        description="Become spire-agent, with a new join token when its cached identity is no use.",
        epilog="example: flashpods-spire-agent --config /etc/flashpods/settings.json",
    )
    parser.add_argument("--config", type=Path, help="settings file (JSON)")
    parser.add_argument("--wait", type=float, default=60, help="seconds for the server to answer")
    arguments = parser.parse_args()
    configure_logging()
    try:
        settings = load(arguments.config)
        server = SpireServer(settings.spire)
        server.wait(arguments.wait)
        become(settings.spire, prepare(settings, server))
    except (ConfigError, SpireError) as e:
        sys.stderr.write(f"flashpods-spire-agent: {e}\n")
        codes = {ConfigError: EX_CONFIG, ServerAway: EX_TEMPFAIL}
        sys.exit(codes.get(type(e), EX_SOFTWARE))


if __name__ == "__main__":
    main()
