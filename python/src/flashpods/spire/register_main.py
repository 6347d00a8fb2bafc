"""``flashpods-spire-register``: make the server's entries what the configuration declares.

A oneshot unit after ``spire-server``; repeated, it changes nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

import structlog

from flashpods.config import load
from flashpods.config_base import ConfigError
from flashpods.config_identity import Spire
from flashpods.logs_setup import configure_logging
from flashpods.spire.registration import Plan, declared, plan, spiffe_id
from flashpods.spire.server import ServerAway, SpireError, SpireServer

EX_SOFTWARE: Final = 70
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78

log = structlog.get_logger(__name__)


def register(settings: Spire, server: SpireServer) -> Plan:
    """Compare and apply; return what was done.

    Removing comes first, so that a crash in between leaves too few identities, never too many.

    Raises:
        SpireError: the server is away or refused a part; what was done stays.
    """
    agents = server.agents()
    now = time.time()
    todo = plan(
        declared(settings),
        server.entries(),
        host=settings.spiffe_id(settings.host),
        agents=frozenset(spiffe_id(agent["id"]) for agent in agents if _may_renew(agent, now)),
        now=now,
        token_seconds=settings.join_token_seconds,
    )
    if todo.remove:
        _checked(
            server.call("entry", "delete", options=("-file", "-"), data={"ids": todo.remove}),
            "remove",
        )
    if todo.update:
        changed = [target.as_data(entry_id) for entry_id, target in todo.update]
        _checked(
            server.call("entry", "update", options=("-data", "-"), data=_batch(changed)), "update"
        )
    if todo.create:
        new = [target.as_data() for target in todo.create]
        _checked(server.call("entry", "create", options=("-data", "-"), data=_batch(new)), "create")
    return todo


def _batch(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"entries": entries}


def _may_renew(agent: dict[str, Any], now: float) -> bool:
    return not agent.get("banned") and int(agent.get("x509svid_expires_at", 0)) > now


def _checked(answer: dict[str, Any], verb: str) -> None:
    """Find a part that was refused: the command itself ends with 0 all the same."""
    for result in answer.get("results", []):
        status = result.get("status", {})
        if int(status.get("code", 0)):
            raise SpireError(f"cannot {verb} an entry: {status.get('message', 'no reason given')}")


def main() -> None:
    """Run once; exit 0, 70 (refused), 75 (the server is away) or 78 (configuration)."""
    parser = argparse.ArgumentParser(
        prog="flashpods-spire-register",
        description="Make the server's registration entries what the settings declare; repeatable.",
        epilog="example: flashpods-spire-register --config /etc/flashpods/settings.json",
    )
    parser.add_argument("--config", type=Path, help="settings file (JSON)")
    parser.add_argument("--wait", type=float, default=60, help="seconds for the server to answer")
    arguments = parser.parse_args()
    configure_logging()
    try:
        settings = load(arguments.config).spire
        server = SpireServer(settings)
        server.wait(arguments.wait)
        done = register(settings, server)
    except ConfigError as e:
        sys.stderr.write(f"flashpods-spire-register: {e}\n")
        sys.exit(EX_CONFIG)
    except ServerAway as e:
        sys.stderr.write(f"flashpods-spire-register: {e}\n")
        sys.exit(EX_TEMPFAIL)
    except SpireError as e:
        sys.stderr.write(f"flashpods-spire-register: {e}\n")
        sys.exit(EX_SOFTWARE)
    log.info(
        "entries_registered",
        created=[entry.spiffe_id for entry in done.create],
        updated=[entry.spiffe_id for _, entry in done.update],
        removed=len(done.remove),
    )


if __name__ == "__main__":
    main()
