"""A rolling upgrade: another schema, a job that runs meanwhile, and the way back."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from admin_runs import asked
from running_api import ApiFactory, RunningApi
from support import ended, output, row_of, submit, until

from flashpods_dev.stack import StackError

GATE = "echo begun; while [ ! -e /artifacts/go ]; do sleep 0.05; done; echo over"

# The next version is this one with one more migration: put in as the interpreter starts.
NEXT = """
from flashpods.adapters.sqlite import migrations
step = ("9999_next", ("ALTER TABLE jobs ADD COLUMN note TEXT",))
migrations.STEPS = (*migrations.STEPS, step)
"""


def containers_of(running: RunningApi) -> str:
    done = running.stack.run_podman("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}")
    return str(done.stdout)


async def test_forward_with_a_running_job_and_back_again(
    api: ApiFactory, reachable_path: Path
) -> None:
    running = api()
    (reachable_path / "sitecustomize.py").write_text(NEXT)
    job_id = await submit(running.client, GATE)
    await until(running.client, job_id, "running")
    before = containers_of(running)
    assert job_id in before

    assert running.terminate() == 0
    running.stack.use_api(env={"PYTHONPATH": str(reachable_path)})
    running.start()
    assert (await row_of(running.client, job_id))["status"] == "running"
    assert containers_of(running) == before
    (copy,) = (running.db.parent / "before-upgrade").glob("schema-*.db")
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT status FROM jobs").fetchall() == [("running",)]

    # The older version refuses the newer schema, and says how to go back.
    assert running.terminate() == 0
    running.stack.use_api()
    with pytest.raises(StackError) as refused:
        running.start()
    said = re.search(r"has schema \d+, this version knows \d+: .*restore (\S+)", str(refused.value))
    assert said is not None, refused.value
    assert Path(said[1]) == copy
    # Neither does an administrator's command of the older version touch it.
    assert (await asked(running.settings_path, "resume", code=1))["error"] == "database_unusable"
    findings = (await asked(running.settings_path, "doctor", code=1))["findings"]
    (newer,) = (f for f in findings if f["code"] == "schema_newer")
    assert newer["remedy"][-1] == f"flashpods-admin restore {copy}"

    await asked(running.settings_path, "restore", said[1])
    running.start()
    assert (await row_of(running.client, job_id))["status"] == "running"
    assert containers_of(running) == before
    (running.stack.layout.root / "artifacts" / ".staging" / job_id / "go").touch()
    assert (await ended(running.client, job_id))["status"] == "completed"
    log = await output(running.client, job_id)
    assert (log.count("begun"), log.count("over")) == (1, 1)
