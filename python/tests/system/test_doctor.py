"""flashpods-admin doctor on a real stack: each trouble is made, found, and ended by its remedy."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from admin_runs import admin, asked
from inspection import containers, no_containers
from running_api import ApiFactory, RunningApi
from support import run, submit, until

from flashpods.adapters.sqlite.connection import to_text
from flashpods.admin.doctor.examine import CHECKS
from flashpods_dev.layout import dump, merge, write_for_user

pytestmark = pytest.mark.timeout(1200)  # each look of the doctor is a process; some wait for health

GATE = "while [ ! -e /artifacts/go ]; do sleep 0.05; done"


def start(api: ApiFactory, **more: Any) -> RunningApi:
    """Start a stack with a backup directory of its own, and a backup in it."""
    running = api(merge({"backup": {"directory": "/nonexistent"}}, more))
    backups = running.stack.layout.root / "backups"
    running.stack.write_settings({"backup": {"directory": str(backups)}})
    return running


async def found(running: RunningApi, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Ask the doctor; return finding by code. ``over``: settings that only it sees."""
    path = running.stack.layout.root / "doctor.json"
    write_for_user(path, dump(merge(running.stack.settings, over or {})))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flashpods.admin.main", "doctor", "--settings", str(path), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["healthy"] else 1), done.stderr
    assert said["checks"] == [check.name for check in CHECKS]
    return {f["code"]: f for f in said["findings"]}


async def only(running: RunningApi, *codes: str) -> dict[str, Any]:
    """Ask until the doctor finds just these: a busy machine may be slow to be well again."""
    end = time.monotonic() + 240
    while set(seen := await found(running)) != set(codes):
        assert time.monotonic() < end, f"{sorted(seen)}, not {codes}: {seen}"
    return seen


def change(running: RunningApi, sql: str) -> None:
    with closing(sqlite3.connect(running.db, timeout=60)) as database, database:
        database.execute(sql)


def past(**ago: float) -> str:
    return to_text(datetime.now(UTC) - timedelta(**ago))


async def test_a_well_host_and_what_is_only_worth_knowing(api: ApiFactory) -> None:
    running = start(api)
    await only(running, "backup_stale")  # there never was one
    await admin(running.settings_path, "backup")
    await only(running)
    text = await admin(running.settings_path, "doctor")
    assert text == ""  # the table is on stdout

    await admin(running.settings_path, "drain")
    seen = await only(running, "draining")
    assert seen["draining"]["severity"] == "notice"
    await admin(running.settings_path, *seen["draining"]["remedy"][0].split()[1:])
    await only(running)

    # A backup that failed, and one that is old.
    status = running.stack.layout.root / "backups" / "status.json"
    good = json.loads(status.read_text())
    status.write_text(json.dumps(good | {"last_success_at": past(hours=27)}))
    assert (await found(running))["backup_stale"]["severity"] == "warning"
    bad = {"ok": False, "error": "disk_full", "message": "3 MB free"}
    status.write_text(json.dumps(good | bad))
    assert "disk_full: 3 MB free" in (await found(running))["backup_stale"]["cause"]
    await admin(running.settings_path, "backup")

    # A disk over its thresholds.
    low = {"disk": {"warn_percent": 1, "critical_percent": 98, "guard_percent": 99}}
    assert (await found(running, low))["disk_full"]["severity"] == "warning"
    low = {"disk": {"warn_percent": 1, "critical_percent": 1, "guard_percent": 99}}
    seen = (await found(running, low))["disk_full"]
    assert (seen["severity"], seen["anchor"]) == ("critical", "disks-fill-up")


async def test_jobs_that_fail(api: ApiFactory) -> None:
    running = start(api)
    await admin(running.settings_path, "backup")
    for _ in range(6):
        last = await run(running.client, "exit 3")
    seen = (await found(running))["many_failures"]
    such = f"6 times exit code 3, such as job {last['id']}"
    assert (seen["severity"], seen["evidence"]) == ("warning", [such])
    change(running, f"UPDATE jobs SET completed_at = '{past(hours=2)}'")
    await only(running)

    # A job whose image did not come in time, until it is here.
    which = f"WHERE id = '{last['id']}'"
    late = f"error = 'stuck_in_starting', completed_at = '{past(minutes=9)}'"
    change(running, f"UPDATE jobs SET {late}, image = 'some/large:1' {which}")
    seen = (await only(running, "image_on_its_way"))["image_on_its_way"]
    assert seen["evidence"] == [f"{last['id']} failed some/large:1"]
    assert (seen["severity"], seen["remedy"]) == (
        "warning",
        ["flashpods-admin pull-images some/large:1"],
    )
    change(running, f"UPDATE jobs SET image = '{last['image']}' {which}")
    await only(running)


async def test_jobs_that_hang(api: ApiFactory) -> None:
    running = start(api)
    await admin(running.settings_path, "backup")
    stuck = await submit(running.client, GATE)
    await until(running.client, stuck, "running")
    running.kill()
    change(running, "UPDATE jobs SET status = 'starting' WHERE status = 'running'")
    change(running, "DELETE FROM job_events WHERE to_status = 'running'")
    change(running, f"UPDATE job_events SET at = '{past(minutes=6)}'")
    seen = await only(running, "api_down", "jobs_stuck_in_starting")
    hang = seen["jobs_stuck_in_starting"]
    assert stuck in hang["evidence"][0]
    assert "API" in hang["cause"]
    assert hang["remedy"] == ["systemctl restart flashpods-api", "flashpods-admin fail-stuck"]
    assert "does not run" in seen["api_down"]["cause"]
    said = await asked(running.settings_path, "fail-stuck")
    assert [j["job_id"] for j in said["jobs"]] == [stuck]
    await only(running, "api_down")
    running.start()
    await only(running)


async def test_what_nobody_sees_to(api: ApiFactory) -> None:
    running = start(api)
    await admin(running.settings_path, "backup")
    ended = await run(running.client, "true")
    await no_containers(running)  # else cleanup leaves it to the API for the grace after its end
    # A container whose job no row explains, while nobody recovers.
    orphan = await submit(running.client, GATE)
    await until(running.client, orphan, "running")
    running.kill()
    change(running, f"DELETE FROM jobs WHERE id = '{orphan}'")
    seen = await found(running)
    assert f"job_{orphan} running" in seen["orphan_containers"]["evidence"]
    told = await asked(running.settings_path, "gc")
    assert containers(running) == [], told
    assert "orphan_containers" not in await found(running)

    # Retention that nobody sees to.
    late = f"completed_at = '{past(days=2)}' WHERE id = '{ended['id']}'"
    change(running, f"UPDATE jobs SET {late}")
    assert (await found(running))["cleanup_behind"]["severity"] == "warning"
    await admin(running.settings_path, "gc")
    await only(running, "api_down")


async def test_a_job_past_its_deadline(api: ApiFactory) -> None:
    running = start(api)
    job_id = await submit(running.client, GATE)
    await until(running.client, job_id, "running")
    running.kill()
    change(running, f"UPDATE job_events SET at = '{past(hours=3)}'")
    assert job_id in (await found(running))["jobs_past_their_deadline"]["evidence"][0]


async def test_podman_and_the_way_back(api: ApiFactory) -> None:
    running = start(api)
    await admin(running.settings_path, "backup")
    running.podman.kill()
    seen = await only(running, "podman_silent", "api_degraded_podman")
    assert seen["podman_silent"]["anchor"] == "podman-does-not-answer"
    running.podman.start()
    await only(running)


async def test_the_database_locked_garbled_lost(api: ApiFactory) -> None:
    running = start(api)
    await run(running.client, "true")
    await admin(running.settings_path, "backup")
    with holding(running.db) as holder:
        seen = (await found(running))["database_locked"]
        assert f"process {holder.pid} holds" in seen["cause"]
        assert "python" in seen["cause"]
        assert seen["remedy"] == [f"kill {holder.pid}"]
    await only(running)

    running.terminate()
    mark = running.db.with_name("flashpods.db.restoring")
    mark.touch()
    assert set(await found(running)) >= {"restore_interrupted"}
    mark.unlink()

    with running.db.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    seen = await found(running)
    assert "database_damaged" in seen
    assert seen["database_damaged"]["remedy"][1] == "flashpods-admin restore latest"
    assert "not_examined" in seen  # what needs the rows says that it could not look
    verified = await asked(running.settings_path, "verify", code=1)
    assert verified["sound"] is False
    await admin(running.settings_path, "restore", "latest")
    running.start()
    await only(running)

    running.terminate()
    change(running, "PRAGMA user_version = 99")
    assert "schema 99, this version knows" in (await found(running))["schema_newer"]["cause"]
    running.db.unlink()
    assert "database_missing" in await found(running)


class holding:  # noqa: N801 - reads as a verb
    """A process that holds the database's write lock."""

    def __init__(self, path: Path) -> None:
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
            "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"
        return self._process

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(120)
        self._process.stdout.close()


async def test_why_the_api_is_silent(api: ApiFactory) -> None:
    running = start(api)
    await admin(running.settings_path, "backup")
    port = {"http": {"port": running.stack.port}}
    running.terminate()
    assert "does not run" in (await found(running, port))["api_down"]["cause"]
    elsewhere = {"http": {"host": "10.9.8.7"}}
    seen = await found(running, elsewhere)
    assert "does not have the address 10.9.8.7" in seen["api_down"]["cause"]
    assert "wireguard_down" in seen
    assert os.geteuid() == 0
    assert seen["boundary_not_loaded"]["severity"] == "critical"
    taken = {"http": {"port": running.stack.rsync_port}}
    assert "does not answer as the API" in (await found(running, taken))["api_down"]["cause"]
    running.stack.layout.token.write_text("short\n")
    seen = await found(running)
    assert "token file can't be used" in seen["api_down"]["cause"]


@pytest.mark.parametrize("settings", ['{"http": {"porto": 1}}', "not json"])
async def test_wrong_settings_are_said_first(settings: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(settings)
    assert (await asked(path, "doctor", code=78))["error"] == "invalid_config"
