"""Each trouble of docs/operations.md: broken on HOST, and ended by following that page alone.

The seconds are those of the commands and of the machine; a person reads and thinks besides. A
table of all is printed at the end, and written to ``.dev/lab/troubles.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
import troubles_identity
import troubles_images
import troubles_network
import troubles_services
import troubles_storage
from deployment import Deployment
from netlab import CHECKOUT
from oncall import OnCall
from trouble import Outcome, Trouble, live_through
from troubles_network import an_hour_goes_by

from flashpods_dev.machine import StackError

pytestmark = [pytest.mark.timeout(420), pytest.mark.long]

TROUBLES = (
    *troubles_services.TROUBLES,
    *troubles_images.TROUBLES,
    *troubles_identity.TROUBLES,
    *troubles_storage.TROUBLES,
    *troubles_network.TROUBLES,
)
# At a test's pace: what takes five minutes takes twenty seconds, a round of cleanup two.
PACE = {"jobs": {"starting_seconds": 20}, "cleanup": {"every_seconds": 2}}
DISK = {"warn_percent": 70, "critical_percent": 85, "guard_percent": 92}  # the defaults


@pytest.fixture(scope="module")
def board() -> Iterator[list[Outcome]]:
    """Collect what came of each; print and write it."""
    rows: list[Outcome] = []
    yield rows
    file = CHECKOUT / ".dev" / "lab" / "troubles.json"
    before = json.loads(file.read_text()) if file.exists() else []
    new = [{**asdict(row), "date": f"{datetime.now(UTC):%Y-%m-%d}"} for row in rows]
    names = {row.trouble for row in rows}
    file.write_text(json.dumps([r for r in before if r["trouble"] not in names] + new, indent=1))
    print("\n| trouble | broken by | doctor | s |\n|---|---|---|---|")  # noqa: T201 - the table
    for row in rows:
        print(f"| {row.trouble} | {row.how} | {row.doctor} | {row.seconds:.0f} |")  # noqa: T201


@pytest.fixture(scope="module")
def oncall(deployed: Deployment) -> Iterator[OnCall]:
    """A well host with a backup; its own state is laid back at the end."""
    host = deployed.host
    settings = json.loads(host.succeed("cat /etc/flashpods/settings.json"))
    rendered = json.dumps(settings, indent=2)
    for section, values in {**PACE, "disk": DISK}.items():
        settings.setdefault(section, {}).update(values)
    made = json.dumps(settings, indent=2)
    write(host, made)
    host.succeed(
        "systemctl restart flashpods-api flashpods-cleanup",
        "mkdir -p /root/vault && chmod 0700 /root/vault",
        "cp -a /etc/flashpods/api-token /etc/flashpods/secrets.json /etc/spire/agent.json "
        "/root/vault/",
        "flashpods-admin backup",
    )
    person = OnCall(deployed)
    person.kept = {"etc/flashpods/settings.json": made}
    person.api.ready()
    person.wait_well()
    yield person
    write(host, rendered)
    host.succeed("systemctl restart flashpods-api flashpods-cleanup", "rm -r /root/vault")
    deployed.host.wait_for_unit("flashpods-api")


def write(host: object, settings: str) -> None:
    host.succeed(  # type: ignore[attr-defined] # a machine
        f"cat >/etc/flashpods/settings.json <<'EOF'\n{settings}\nEOF"
    )


REPAIR = """set +e
systemctl stop squatter holder
systemctl kill --signal=CONT podman-socket-flashpods.service
for tree in /var/lib/flashpods/artifacts /var/log/flashpods /var/backups/flashpods; do
  while mountpoint -q $tree; do umount --lazy $tree; done
done
findmnt --raw --noheadings --output TARGET --source obstacle | xargs --no-run-if-empty umount
install -m 0600 /root/vault/api-token /root/vault/secrets.json /etc/flashpods/
cp /root/vault/agent.json /etc/spire/
systemctl daemon-reload
systemctl restart wireguard-wg0 flashpods-firewall podman-socket-flashpods spire-server
systemctl restart flashpods-spire-register spire-agent flashpods-token-service
systemctl restart flashpods-api flashpods-cleanup flashpods-backup.timer
flashpods-admin resume; flashpods-admin backup
"""


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_the_guide_leads_out(oncall: OnCall, board: list[Outcome], trouble: Trouble) -> None:
    an_hour_goes_by(oncall)  # begin well, whatever the trouble before has left
    try:
        board.append(live_through(oncall, trouble))
    except BaseException as e:
        e.add_note("\n".join(oncall.log))
        with suppress(StackError, AssertionError):
            write(oncall.host, oncall.kept["etc/flashpods/settings.json"])
            oncall.host.execute(REPAIR, timeout=120)
            troubles_services.tell_laptop(oncall)
            oncall.wait_well()
        raise
