"""flashpods-admin beside a live stack: every command, twice where that must be safe."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_runs import admin, asked
from inspection import containers
from running_api import ApiFactory, RunningApi
from support import (
    SECONDS,
    Connected,
    ended,
    output,
    post_job,
    row_of,
    run,
    says,
    submit,
    true_soon,
    until,
)

from flashpods_dev.layout import dump, merge, write_for_user
from flashpods_dev.machine import UID
from flashpods_dev.stack import MiniStack

GATE = "while [ ! -e /artifacts/go ]; do sleep 0.05; done"


def open_gate(stack: MiniStack, job_id: str) -> None:
    (stack.layout.root / "artifacts" / ".staging" / job_id / "go").touch()


@pytest.fixture
def settings(host: Connected) -> Path:
    return host.stack.layout.settings


@pytest.fixture
async def resumed(host: Connected) -> AsyncIterator[None]:
    """Leave the module's stack taking jobs, whatever happened."""
    yield
    await admin(host.stack.layout.settings, "resume")


async def test_status_says_what_is_there(host: Connected, settings: Path) -> None:
    await run(host.client, "true")
    end = time.monotonic() + SECONDS
    while (said := await asked(settings, "status"))["api"]["failing"] and time.monotonic() < end:
        pass  # on a loaded machine Podman may miss a check's two seconds, and then it says so
    assert said["api"] == {"answers": True, "version": "0.1.0", "healthy": True, "failing": []}
    assert said["capacity"] == {"cpus": 32, "memory_gb": 64}
    assert said["jobs"]["by_state"]["completed"] >= 1
    assert said["jobs"]["draining"] is False
    assert len(said["disk_used_percent"]) == 3
    assert said["units"] is None  # no systemd here; tests/lab has it


async def test_a_drain_is_seen_by_clients_and_survives_nothing_but_resume(
    host: Connected, settings: Path, resumed: None
) -> None:
    client = host.client
    job_id = await submit(client, GATE)
    await until(client, job_id, "running")
    assert (await asked(settings, "drain"))["active"] == [job_id]
    refused = await post_job(client, "true")
    assert (refused.status_code, refused.json()["error"]) == (503, "service_unavailable")
    assert refused.headers["retry-after"] == "30"
    assert (await client.get("/capacity")).json()["draining"] is True
    assert (await asked(settings, "drain"))["active"] == [job_id]  # repeated: the same
    said = await asked(settings, "drain", "--wait", "--timeout", "1s", code=124)
    assert said["active"] == [job_id]
    open_gate(host.stack, job_id)
    said = await asked(settings, "drain", "--wait", "--timeout", "120s")
    assert said == {"draining": True, "active": [], "cancelled": []}
    assert (await row_of(client, job_id))["status"] == "completed"
    assert (await asked(settings, "resume")) == {"draining": False, "was_draining": True}
    assert (await asked(settings, "resume")) == {"draining": False, "was_draining": False}
    assert (await run(client, "true"))["status"] == "completed"


async def test_a_drain_cancels_what_does_not_end(
    host: Connected, settings: Path, resumed: None
) -> None:
    job_id = await submit(host.client, "trap 'echo told; exit 3' TERM; echo ready; " + GATE)
    await says(host.client, job_id, "ready")
    words = ("drain", "--wait", "--timeout", "120s", "--cancel-after", "0s")
    said = await asked(settings, *words)
    assert said == {"draining": True, "active": [], "cancelled": [job_id]}
    assert (await row_of(host.client, job_id))["status"] == "cancelled"
    assert "told" in await output(host.client, job_id)


async def test_a_wrong_drain_is_a_usage_error(host: Connected, settings: Path) -> None:
    await admin(settings, "drain", "--timeout", "1s", code=2)
    await admin(settings, "drain", "--wait", "--timeout", "soon", code=2)
    await admin(settings, "drain", "--wait", "--timeout", "5s", "--cancel-after", "5s", code=2)
    assert (await host.client.get("/capacity")).json()["draining"] is False


async def test_events_of_a_job(host: Connected, settings: Path) -> None:
    job = await run(host.client, "exit 7")
    said = await asked(settings, "events", job["id"])
    assert [e["to"] for e in said["events"]] == ["pending", "starting", "running", "failed"]
    assert said["status"] == "failed"
    said = await asked(settings, "events", "nothing", code=1)
    assert said["error"] == "job_not_found"


async def test_verify_and_vacuum_beside_live_services(host: Connected, settings: Path) -> None:
    await run(host.client, "true")
    said = await asked(settings, "verify")
    assert said["sound"]
    assert said["jobs"] >= 1
    text = await admin(settings, "vacuum")
    assert "before" in text
    assert (await run(host.client, "true"))["status"] == "completed"


async def test_backup_beside_live_services(host: Connected, reachable_path: Path) -> None:
    settings = with_backups(host, reachable_path)
    job = await run(host.client, "true")
    day = None
    while day != (day := datetime.now(UTC).date()):  # over midnight once more, of the new day
        shutil.rmtree(reachable_path / "b", ignore_errors=True)
        said = await asked(settings, "backup")
        again = await asked(settings, "backup")
    assert again["file"] == said["file"]
    listed = await asked(settings, "backup", "--list")
    assert [b["file"] for b in listed["backups"]] == [Path(said["file"]).name]
    checked = await asked(settings, "restore", "latest", "--dry-run")
    assert checked["jobs"] == again["jobs"]
    verified = await asked(settings, "verify", said["file"])
    assert verified["sound"]
    # It can't stop the API here, so it leaves everything as it is.
    refused = await asked(settings, "restore", "latest", code=1)
    assert refused["error"] == "database_in_use"
    assert str(host.stack.api.pid) in refused["message"]
    assert (await row_of(host.client, job["id"]))["status"] == "completed"
    assert (await asked(settings, "restore", "nothing.db", code=1))["error"] == "backup_not_found"


def with_backups(host: Connected, directory: Path) -> Path:
    """Write settings with a backup directory of the test's own."""
    path = directory / "settings.json"
    path.write_text(
        dump(merge(host.stack.settings, {"backup": {"directory": str(directory / "b")}}))
    )
    return path


async def test_a_backup_where_its_owner_can_not_write_is_refused(
    host: Connected, tmp_path: Path
) -> None:
    settings = with_backups(host, tmp_path)  # a directory that only root may enter
    refused = await asked(settings, "backup", code=1)
    assert refused["error"] == "unreadable"
    assert "backup.directory" in refused["message"]


async def test_root_leaves_nothing_of_its_own_in_the_services_way(
    host: Connected, settings: Path
) -> None:
    assert os.geteuid() == 0
    for words in (("status",), ("verify",), ("vacuum",), ("gc",), ("drain",), ("resume",)):
        await admin(settings, *words)
    root = host.stack.layout
    owners = {path: path.stat().st_uid for path in root.database.parent.iterdir()}
    assert set(owners.values()) == {UID}, owners
    assert (await run(host.client, "true"))["status"] == "completed"


async def test_clean_takes_output_and_keeps_the_row(host: Connected, settings: Path) -> None:
    job = await run(host.client, "echo out; echo x >/artifacts/x")
    quick = settings.with_name("quick.json")
    write_for_user(
        quick, dump(merge(host.stack.settings, {"cleanup": {"orphan_grace_seconds": 0.1}}))
    )
    await asyncio.sleep(0.2)
    counted = await asked(quick, "clean", "--older-than", "0s", "--dry-run")
    assert counted["done"]["finish_jobs"] >= 1
    assert (await row_of(host.client, job["id"]))["status"] == "completed"
    done = await asked(quick, "clean", "--older-than", "0s")
    assert done["done"] == {"finish_jobs": counted["done"]["finish_jobs"]}
    assert (await row_of(host.client, job["id"]))["status"] == "cleaned"
    assert (await host.client.get(f"/jobs/{job['id']}/output")).status_code == 410
    assert (await asked(quick, "clean", "--older-than", "0s"))["done"] == {}


async def test_gc_removes_an_orphan_and_leaves_it_when_only_asked(
    host: Connected, settings: Path
) -> None:
    left = host.stack.layout.root / "artifacts" / "feedfeedfeedfeed"
    left.mkdir()
    (left / "x").touch()
    os.chown(left, UID, UID)
    said = await asked(settings, "gc", "--dry-run")
    assert said["done"]["sweep_job_files"] == 1
    assert left.exists()
    said = await asked(settings, "gc")
    assert said["done"]["sweep_job_files"] == 1
    assert not left.exists()
    assert "sweep_job_files" not in (await asked(settings, "gc"))["done"]


async def test_pull_images_names_what_is_not_to_be_had(host: Connected, settings: Path) -> None:
    image = host.settings.jobs.worker.image
    assert await asked(settings, "pull-images", image) == {"present": [image], "failed": {}}
    said = await asked(settings, "pull-images", image, "localhost/nothing:1", code=1)
    assert said == {"present": [image], "failed": {"localhost/nothing:1": "image_not_found"}}
    refused = await asked(settings, "pull-images", "dir:/etc", code=2)
    assert refused["error"] == "invalid_image"


# ------------------------------------------------------------------ stacks of their own


async def test_a_rotation_has_an_overlap_and_no_restart(api: ApiFactory) -> None:
    running = api()
    file, pid = running.stack.layout.token, running.pid
    mode = stat.S_IMODE(file.stat().st_mode)
    old = running.token
    job_id = await submit(running.client, GATE)
    await until(running.client, job_id, "running")
    said = await asked(running.settings_path, "rotate-token", "--show")
    new = said["token"]
    assert file.read_text().split() == [new, old]
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (UID, mode)
    assert [await accepted(running, token) for token in (new, old)] == [200, 200]
    again = await asked(running.settings_path, "rotate-token")
    assert again == {"changed": False, "tokens": 2, "api": said["api"]}
    text = await admin(running.settings_path, "rotate-token", "--finish")
    assert new not in text
    assert old not in text
    assert [await accepted(running, token) for token in (new, old)] == [200, 401]
    assert (await asked(running.settings_path, "rotate-token", "--finish"))["changed"] is False
    assert file.read_text().split() == [new]
    assert running.pid == pid
    assert new not in running.log
    running.client.headers["Authorization"] = f"Bearer {new}"
    open_gate(running.stack, job_id)
    assert (await ended(running.client, job_id))["status"] == "completed"


async def accepted(running: RunningApi, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=running.url, headers=headers, trust_env=False, timeout=SECONDS
    ) as client:
        return (await client.get("/capacity")).status_code


async def test_a_bad_token_file_leaves_the_old_token_in_force(api: ApiFactory) -> None:
    running = api()
    running.stack.layout.token.write_text("short\n")
    await true_soon(lambda: "tokens_not_taken" in running.log, "a warning of the bad file")
    assert await accepted(running, running.token) == 200
    refused = await asked(running.settings_path, "rotate-token", code=78)
    assert "token 1" in refused["message"]


async def test_fail_stuck_when_the_api_does_not(api: ApiFactory) -> None:
    running = api({"jobs": {"starting_seconds": 3600}})
    job_id = await submit(running.client, GATE)
    await until(running.client, job_id, "running")
    running.kill()
    with closing(sqlite3.connect(running.db, timeout=60)) as database, database:
        database.execute("UPDATE jobs SET status = 'starting', started_at = NULL")
        database.execute("DELETE FROM job_events WHERE to_status = 'running'")
    path = running.settings_path
    assert (await asked(path, "fail-stuck"))["jobs"] == []  # not for five minutes yet
    dry = await asked(path, "fail-stuck", "--older-than", "0s", "--dry-run")
    assert [(j["job_id"], j["now"]) for j in dry["jobs"]] == [(job_id, "starting")]
    assert containers(running) == [f"job_{job_id}"]
    said = await asked(path, "fail-stuck", "--older-than", "0s")
    assert [(j["was"], j["now"], j["left"]) for j in said["jobs"]] == [("starting", "failed", None)]
    assert containers(running) == []
    assert (await asked(path, "fail-stuck", job_id, code=1))["error"] == "job_not_stuck"
    running.start()
    row = await row_of(running.client, job_id)
    assert (row["status"], row["error"]) == ("failed", "stuck_in_starting")
    assert row["events"][-1]["why"] == "ended by the administrator: it did not start"
    assert (await running.client.get("/capacity")).json()["reserved"]["cpus"] == 0


async def test_a_cancellation_recorded_while_the_api_lives_is_obeyed(api: ApiFactory) -> None:
    """The database is the truth: recovery heeds what another process wrote."""
    running = api({"jobs": {"recovery_seconds": 0.3}})
    job_id = await submit(running.client, GATE)
    await until(running.client, job_id, "running")
    bad = running.settings_path.with_name("nobody.json")
    # An address at which nobody answers: the drain can't ask the API.
    bad.write_text(dump(merge(running.stack.settings, {"http": {"port": 1}})))
    said: Any = await asked(bad, "drain", "--wait", "--timeout", "120s", "--cancel-after", "0s")
    assert said["cancelled"] == [job_id]
    assert (await ended(running.client, job_id))["status"] == "cancelled"
