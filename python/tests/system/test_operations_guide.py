"""Every command of docs/operations.md: run here, or in the test that this table names.

A line of the page that is in neither fails. So do an anchor, a unit or a test that is not there.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import guide
import pytest
from admin_runs import admin
from support import SECONDS, Connected, submit, until

from flashpods.admin import doctor
from flashpods_dev.layout import dump, merge, write_for_user

TESTS: Final = Path(__file__).parents[1]
RECOVERY: Final = "lab/test_checks.py::test_body"  # of checks/disaster_recovery.py
ADMIN, DRILL = "system/test_admin.py", "system/test_restore_drill.py"

# What can't be run beside the module's stack, by the test that runs it.
ELSEWHERE: Final = {
    "flashpods-admin validate": "identity/test_validate.py",
    "flashpods-admin validate --only api-blocked --only rsync-blocked": "lab/test_troubles.py",
    "findmnt --raw | grep JOB": "lab/test_troubles.py",
    "flashpods-admin fail-stuck JOB": f"{ADMIN}::test_fail_stuck_when_the_api_does_not",
    "flashpods-admin restore latest": f"{DRILL}::test_a_lost_database_comes_back_under_load",
    "flashpods-admin restore db-20261126.db": (
        "integration/test_restore.py::test_a_packed_backup_and_a_lost_database"
    ),
    "install -d -m 0755 /etc/flashpods": RECOVERY,
    "install -m 0600 /root/api-token /root/secrets.json /etc/flashpods/": RECOVERY,
    "install -m 0600 /root/restic-password /root/restic-key /etc/flashpods/": RECOVERY,
    "rm /root/api-token /root/secrets.json /root/restic-password /root/restic-key": RECOVERY,
    "restic-flashpods restore latest --target /": RECOVERY,
    "flashpods-admin restore db-20261126.db --with-files": RECOVERY,
    "flashpods-admin restore /root/db-20261126.db --with-files": RECOVERY,
    "flashpods-admin restore /var/lib/flashpods/db/before-upgrade/schema-1-20261126T020000Z.db": (
        "system/test_upgrade.py::test_forward_with_a_running_job_and_back_again"
    ),
    "flashpods-admin rotate-token": f"{ADMIN}::test_a_rotation_has_an_overlap_and_no_restart",
    "flashpods-admin rotate-token --show": (
        f"{ADMIN}::test_a_rotation_has_an_overlap_and_no_restart"
    ),
    "flashpods-admin rotate-token --finish": (
        f"{ADMIN}::test_a_rotation_has_an_overlap_and_no_restart"
    ),
    "flashpods-admin laptop --endpoint build.example.org": (
        "unit/test_admin_laptop.py::test_the_snippet_is_what_wireguard_reads"
    ),
    "wg show wg0": "unit/test_doctor_rules.py::test_no_interface_and_no_rules",
    "nft list ruleset": "lab/test_troubles.py",
    "restic-flashpods snapshots": "lab/test_checks.py::test_body",  # of checks/backup_restore.py
    "restic-flashpods check": "lab/test_troubles.py",
    "nft list table inet flashpods": "boundary/test_boundary_rules.py",
}

# What needs a NixOS machine, which no test here has: the page says so.
NEEDS_NIXOS: Final = {
    "nix run github:nix-community/nixos-anywhere -- --flake .#flashpods root@NEWHOST",
    "nixos-rebuild switch",
    "nixos-rebuild switch --rollback",
}

# The guide that this project started from.
SEED: Final = (
    "Key Metrics",
    "Health Checks",
    "Log Locations",
    "Alerting Rules",
    'Jobs Stuck in "starting"',
    "SPIRE Attestation Failing",
    "Token Service Not Responding",
    "Database Issues",
    "WireGuard Connectivity Issues",
    "Database Backup",
    "Disaster Recovery",
    "Rolling Upgrade",
    "Cleanup Stale Data",
    "Pre-pull Images",
    "Rotate Bearer Token",
    "Performance Tuning: SQLite",
    "Performance Tuning: Podman",
)
UNIT: Final = re.compile(
    r"\b((?:flashpods|spire|podman-socket|wireguard|restic-backups)-[a-z0-9-]+)(\.timer)?"
)


def of_units(command: str) -> bool:
    return command.startswith(("systemctl ", "journalctl "))


def here() -> list[str]:
    """Return the commands that are run in this module, in the page's order."""
    return [
        c
        for c in guide.commands()
        if c not in ELSEWHERE and c not in NEEDS_NIXOS and not of_units(c)
    ]


# ------------------------------------------------------------------ the page itself


def test_the_table_of_commands_has_no_line_too_many() -> None:
    assert set(ELSEWHERE) | NEEDS_NIXOS <= set(guide.commands())


@pytest.mark.parametrize("node", sorted(set(ELSEWHERE.values())))
def test_the_tests_named_are_there(node: str) -> None:
    file, _, name = node.partition("::")
    if file == "identity/test_validate.py" and not (TESTS / file).exists():
        file = "unit/test_admin_main.py"  # until the validation suite's own tests are merged
    tree = ast.parse((TESTS / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    there = {n.name for n in tree.body if isinstance(n, kinds)}
    assert name in there if name else there


def test_dev_installs_what_the_commands_call() -> None:
    """A small Ubuntu has no jq: here() would fail on it, not on the machines that we know."""
    programs = {part.split()[0] for command in here() for part in command.split("|")}
    source = (guide.CHECKOUT / "dev").read_text()
    needs = source.split("needs=(", 1)[1].split(")", 1)[0].split()
    listed = subprocess.run(["dpkg", "-L", "coreutils"], capture_output=True, text=True, check=True)
    basic = {Path(line).name for line in listed.stdout.splitlines()} | {"export"}
    ours = {p for p in programs if p.startswith("flashpods")}
    assert {"curl", "jq", "openssl"} <= programs
    assert programs - ours - basic <= {need.partition(":")[0] for need in needs}


@pytest.mark.parametrize("command", [c for c in guide.commands() if of_units(c)])
def test_units_are_those_that_the_modules_define(command: str) -> None:
    modules = guide.CHECKOUT / "modules"
    source = "".join(file.read_text() for file in modules.rglob("*.nix"))
    found = UNIT.findall(command)
    assert found, command
    for name, timer in found:
        if name.startswith("wireguard-"):
            assert "networking.wireguard.interfaces" in source  # NixOS names the unit after it
            continue
        kind = "timers" if timer else "services"
        assert re.search(rf"systemd\.{kind}\.{name}\b|\b{name} = ", source), f"{name} ({kind})"


def test_links_anchors_and_alerts() -> None:
    anchors = guide.anchors()
    assert guide.links() <= anchors
    assert anchors_of_doctor() <= anchors
    for rules in (guide.CHECKOUT / "modules").rglob("alerts*.yml"):
        for line in rules.read_text().splitlines():
            if "docs/operations.md#" in line:
                assert line.rpartition("#")[2].strip().strip("'\"") in anchors, line
    for name in ("FlashpodsDiskUsageHigh", "FlashpodsAPIDown", "FlashpodsHighFailureRate"):
        assert name.lower() in anchors  # the names of the guide that we started from


def anchors_of_doctor() -> set[str]:
    """Return what the doctor's findings refer to: arguments, constants, the table of parts."""
    found: set[str] = set()
    for file in Path(doctor.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            values: list[ast.expr | None] = []
            if isinstance(node, ast.keyword) and node.arg == "anchor":
                values = [node.value]
            elif isinstance(node, ast.Assign | ast.AnnAssign) and _named(node) & ANCHORS:
                value = node.value
                values = list(getattr(value, "values", None) or getattr(value, "elts", [value]))
            found |= {str(v.value) for v in values if isinstance(v, ast.Constant)}
    assert len(found) > 10
    return found


ANCHORS: Final = {"_BROKEN", "_SPIRE", "_TOKENS", "_WIREGUARD", "anchors"}


def _named(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def test_each_heading_of_the_seed_has_its_command_and_its_test() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", guide.text(), re.MULTILINE))
    for heading in SEED:
        files = re.findall(r"`([^`]+\.py)`", rows[heading])
        assert files, heading
        for file in files:
            assert (TESTS / file).is_file(), (heading, file)


def test_the_page_says_what_no_test_runs() -> None:
    for command in NEEDS_NIXOS:
        assert command.split()[0] in guide.text().split("##", 1)[0]


@pytest.mark.parametrize(
    "command", [c for c in guide.inline_commands() if c.startswith("flashpods")]
)
def test_commands_within_sentences_exist(command: str) -> None:
    program, name = command.split()[:2]
    module = "flashpods.admin.main" if program == "flashpods-admin" else "flashpods.cli.main"
    if name.startswith("-"):
        return
    done = subprocess.run(
        [sys.executable, "-m", module, name, "--help"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for option in re.findall(r"--[a-z-]+", command):
        assert option in done.stdout, option


def test_the_path_of_disaster_recovery_is_walked_as_it_is_written() -> None:
    """Each command of the section, but what installs NixOS and what stands for a lost token."""
    script = (guide.CHECKOUT / "checks" / "disaster_recovery.py").read_text()
    section = guide.commands("Disaster recovery")
    walked = [c for c in section if c not in NEEDS_NIXOS and not c.startswith("openssl ")]
    assert len(walked) >= 8
    places = [script.find(f'done("{command}")') for command in walked]
    assert -1 not in places, dict(zip(walked, places, strict=True))
    assert places == sorted(places)


# ------------------------------------------------------------------ run for real


@dataclass
class Operator:
    """A shell on the host, with the page's paths and names replaced by the stack's."""

    host: Connected
    root: Path
    jobs: list[str] = field(default_factory=list)

    def words(self) -> dict[str, str]:
        paths = self.host.settings.paths
        newest = max((self.root / "backups").glob("db-*.db"))
        image = self.host.settings.jobs.worker.image
        return {
            "http://10.0.0.1:8080": self.host.stack.api_url,
            "/etc/flashpods/settings.json": str(self.root / "settings.json"),
            "/etc/flashpods": str(self.root / "etc"),
            "/var/backups/flashpods/db-20261126.db": str(newest),
            "/tmp/flashpods": str(paths.work),
            "/var/lib/flashpods": str(paths.artifacts),
            "/var/log/flashpods": str(paths.logs),
            "docker.io/library/rust:latest": image,
            "docker.io/library/node:20": image,
            "docker.io/library/python:3.12": image,
            "docker.io/library/ubuntu:22.04": image,
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        for name, real in self.words().items():
            command = command.replace(name, real)
        command = re.sub(r"\bJOB\b", self.jobs[-1], command)
        url = self.host.stack.api_url.removeprefix("http://")
        api, port = url.split(":")
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            capture_output=True,
            text=True,
            timeout=2 * SECONDS,
            check=False,
            cwd=self.root,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "FLASHPODS_SETTINGS_FILE": str(self.root / "settings.json"),
                "FLASHPODS_API_TOKEN": self.host.stack.layout.token.read_text().strip(),
                "FLASHPODS_HOST": api,
                "FLASHPODS_PORT": port,
                "HOME": str(self.root),
            },
        )


# On a loaded machine Podman may miss a check's two seconds; then these say so, for a moment.
HEALTH: Final = {"flashpods-admin doctor", "flashpods-admin status"}


@pytest.mark.timeout(1200)
async def test_every_command_that_can_be_run_beside_a_stack(host: Connected) -> None:
    """One test: they build on each other, as on the page."""
    root = host.stack.layout.root / "operator"
    for name in ("etc", "backups"):
        (root / name).mkdir(parents=True)
    (root / "etc" / "secrets.json").write_text("{}")
    operator = Operator(host, root)
    settings = merge(
        host.stack.settings,
        {"backup": {"directory": str(root / "backups")}, "podman": {"prepull": []}},
    )
    settings = merge(settings, {"jobs": {"agent": {"image": host.settings.jobs.worker.image}}})
    write_for_user(root / "settings.json", dump(settings))
    await admin(root / "settings.json", "backup")
    job_id = await submit(host.client, "echo hello; sleep 600")
    await until(host.client, job_id, "running")
    operator.jobs.append(job_id)
    waits = [c for c in here() if "--wait" in c]
    for command in [*(c for c in here() if c not in waits), *waits, "flashpods-admin resume"]:
        done = await asyncio.to_thread(operator.run, command)
        end = time.monotonic() + SECONDS
        while done.returncode and command in HEALTH and time.monotonic() < end:
            done = await asyncio.to_thread(operator.run, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert ((root / "etc" / "api-token").stat().st_mode & 0o777) == 0o600
    assert ((root / "etc" / "secrets.json").stat().st_mode & 0o777) == 0o600
