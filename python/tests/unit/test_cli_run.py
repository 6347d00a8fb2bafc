"""``flashpods run`` against a scripted host: what it prints, its exit codes, ctrl-C."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_rig import DATA, JOB, LOG, Host, answered_by, at_home, call

from flashpods.cli.run import default_project, exit_code
from flashpods.client.client import FlashpodsClient
from flashpods.client.models import Job


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return at_home(monkeypatch, tmp_path)


def test_run(host: Host, tmp_path: Path) -> None:
    result = call("run", "--no-files", "--cpus", "3", "--", "make", "a b")
    assert result.exit_code == 0
    assert result.stdout == LOG
    assert host.bodies[0] | {"client_job_id": "x"} == {
        "type": "worker",
        "command": "make 'a b'",
        "cpus": 3,
        "client_job_id": "x",
    }
    assert (tmp_path / "flashpods-artifacts/j1/out.txt").read_bytes() == DATA
    assert "warning: clamped" in result.stderr
    assert "job j1 completed, exit code 0 after 1.5 s; 1 artifact in" in result.stderr


def test_one_argument_is_a_shell_command_line(host: Host) -> None:
    call("run", "--no-files", "--no-artifacts", "a && b -x")
    assert host.bodies[0]["command"] == "a && b -x"


def test_options_behind_the_command_are_the_commands(host: Host) -> None:
    call("run", "--no-files", "make", "-k", "--json")
    assert host.bodies[0]["command"] == "make -k --json"


def test_run_json_has_one_object_on_stdout(host: Host, tmp_path: Path) -> None:
    result = call("run", "--json", "--no-files", "--artifacts", "out", "true")
    answer = json.loads(result.stdout)
    assert answer["job"]["id"] == "j1"
    assert answer["exit_code"] == 0
    assert answer["artifacts"] == ["out/out.txt"]
    assert LOG in result.stderr


def test_run_detach_prints_the_id(host: Host) -> None:
    assert call("run", "--detach", "--no-files", "true").stdout == "j1\n"
    assert host.requests == [("POST", "/jobs")]
    assert json.loads(call("run", "-d", "--json", "--no-files", "true").stdout)["job_id"] == "j1"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"status": "completed", "exit_code": 0}, 0),
        ({"status": "failed", "exit_code": 1}, 1),
        ({"status": "failed", "exit_code": 127}, 127),
        ({"status": "failed", "exit_code": 137, "error": "oom_killed"}, 137),
        ({"status": "failed", "exit_code": None, "error": "stuck_in_starting"}, 125),
        ({"status": "failed", "exit_code": 0, "error": "artifact_limit_exceeded"}, 125),
        ({"status": "timed_out", "exit_code": 137}, 124),
        ({"status": "cancelled", "exit_code": 137}, 137),
        ({"status": "cancelled", "exit_code": None}, 143),
    ],
)
def test_run_exits_as_the_job_ended(host: Host, row: dict[str, Any], code: int) -> None:
    assert exit_code(Job.from_json(JOB | row)) == code
    host.job |= row
    assert call("run", "--no-files", "--no-artifacts", "x").exit_code == code


def test_run_refused_is_125(host: Host) -> None:
    host.refuse["POST", "/jobs"] = httpx.Response(
        400, json={"error": "invalid_cpus", "message": "cpus is 0; give 1 or more"}
    )
    result = call("run", "--no-files", "--cpus", "0", "x")
    assert result.exit_code == 125
    assert result.stderr == "error: cpus is 0; give 1 or more (invalid_cpus)\n"
    assert result.stdout == ""


def test_an_artifact_that_does_not_come_is_no_success(host: Host) -> None:
    host.artifacts[0]["sha256"] = "0" * 64
    result = call("run", "--no-files", "x")
    assert result.exit_code == 125
    assert "checksum_mismatch" in result.stderr


def test_a_missing_directory_creates_nothing(host: Host) -> None:
    result = call("run", "--dir", "nowhere", "x")
    assert result.exit_code == 125
    assert "invalid_local_path" in result.stderr
    assert host.requests == []


def test_ctrl_c_cancels_the_job_and_shows_its_end(host: Host) -> None:
    host.job["status"] = "running"
    host.on_follow = lambda: os.kill(os.getpid(), signal.SIGINT)
    result = call("run", "--no-files", "x")
    assert result.exit_code == 130
    assert ("DELETE", "/jobs/j1") in host.requests
    assert result.stdout == LOG
    assert "cancelling job j1" in result.stderr


def test_ctrl_c_can_leave_the_job_running(host: Host) -> None:
    host.job["status"] = "running"
    host.on_follow = lambda: os.kill(os.getpid(), signal.SIGINT)
    result = call("run", "--no-files", "--detach-on-interrupt", "x")
    assert result.exit_code == 130
    assert not any(method == "DELETE" for method, _ in host.requests)
    assert "flashpods logs -f j1" in result.stderr


def test_a_second_ctrl_c_leaves_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.job["status"] = "running"
    host.on_follow = lambda: os.kill(os.getpid(), signal.SIGINT)

    async def cancel(self: FlashpodsClient, job_id: str) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(FlashpodsClient, "cancel", cancel)
    result = call("run", "--no-files", "x")
    assert result.exit_code == 130
    assert "left job j1" in result.stderr


def test_ctrl_c_during_the_create_takes_it_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = host.__call__

    async def slow(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(5):
                await asyncio.sleep(0)
        return await inner(request)

    answered_by(slow, monkeypatch)
    result = call("run", "--no-files", "x")
    assert result.exit_code == 130
    assert host.requests == [("POST", "/jobs"), ("DELETE", "/jobs/j1")]


@pytest.mark.parametrize("gone_at", ["POST", "GET"])
def test_a_host_that_goes_away_leaves_a_trace_of_the_job(
    host: Host, monkeypatch: pytest.MonkeyPatch, gone_at: str
) -> None:
    inner = host.__call__

    async def cut(request: httpx.Request) -> httpx.Response:
        if request.method == gone_at:
            raise httpx.ReadError("cut")
        return await inner(request)

    answered_by(cut, monkeypatch)
    result = call("run", "--no-files", "--json", "x")
    assert result.exit_code == 125
    answer = json.loads(result.stdout)
    assert answer["error"] == "host_unreachable"
    if gone_at == "POST":
        assert "flashpods ps" in result.stderr
    else:
        assert answer["details"] == {"job_id": "j1"}
        assert "flashpods attach j1" in result.stderr


def test_default_project_is_the_hosts_alphabet(tmp_path: Path) -> None:
    odd = tmp_path / "ä b/..c" / ("x" * 100)
    name = default_project(odd)
    assert name.isascii()
    assert len(name) <= 64
    assert name != default_project(tmp_path / "other" / ("x" * 100))
    assert default_project(Path("/")).startswith("tree-")
