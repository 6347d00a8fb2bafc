"""The command line against a scripted host: what it prints, where, and its exit codes."""

import asyncio
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from flashpods.cli.configure import InitOptions, init_config
from flashpods.cli.main import app
from flashpods.cli.run import default_project, exit_code
from flashpods.client.client import FlashpodsClient
from flashpods.client.models import Job

LOG = "[10:00:00.000] hello\n[10:00:00.001] \x1b[31mred\x1b[0m\n"
DATA = b"artifact"
COMMANDS = (
    "run", "agent", "ps", "status", "logs", "attach", "wait", "kill", "top", "artifacts",
    "download", "cp", "diff", "apply", "capacity", "health", "uploads push", "uploads reserve",
    "uploads finalize", "uploads show", "uploads rm", "check-config", "doctor", "config init",
    "config show",
)  # fmt: skip
JOB: dict[str, Any] = {
    "id": "j1",
    "type": "worker",
    "status": "completed",
    "command": "make\ntest \x1b[2J[bold]",
    "image": "i",
    "cpus": 2,
    "memory_gb": 4,
    "timeout_minutes": 30,
    "created_at": "2025-01-01T10:00:00.000Z",
    "duration_seconds": 1.5,
    "exit_code": 0,
    "error": None,
    "warnings": [],
    "events": [{"from": None, "to": "pending", "at": "2025-01-01T10:00:00.000Z", "why": "posted"}],
}


class Host:
    """Answers every call of the API for one job."""

    def __init__(self) -> None:
        self.job = dict(JOB)
        self.draining = False
        self.artifacts = [
            {
                "name": "out.txt",
                "type": "file",
                "size_bytes": len(DATA),
                "sha256": hashlib.sha256(DATA).hexdigest(),
                "created_at": "2025-01-01T10:00:00.000Z",
            }
        ]
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.deleted = asyncio.Event()
        self.on_follow: Callable[[], None] | None = None
        self.refuse: dict[tuple[str, str], httpx.Response] = {}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.requests.append((request.method, str(request.url.raw_path.decode())))
        if request.content:
            self.bodies.append(json.loads(request.content))
        if (request.method, path) in self.refuse:
            return self.refuse[request.method, path]
        if request.method == "DELETE":
            self.job |= {"status": "cancelled", "exit_code": 143}
            self.deleted.set()
            return httpx.Response(200, json={"job_id": "j1", "status": "cancelled"})
        if request.method == "POST":
            body = {"job_id": "j1", "status": "pending", "created": True, "warnings": ["clamped"]}
            return httpx.Response(201, json=body)
        if path.endswith("/output"):
            return await self.output(request)
        return httpx.Response(200, **self.look(path))

    def look(self, path: str) -> dict[str, Any]:
        if path.endswith("/artifacts"):
            return {"json": {"artifacts": self.artifacts}}
        if "/artifacts/" in path:
            return {"content": DATA}
        if path == "/jobs":
            return {"json": {"jobs": [self.job], "total": 1, "next_cursor": None}}
        if path == "/health":
            return {"json": {"status": "healthy", "draining": self.draining}}
        return {"json": self.job}

    async def output(self, request: httpx.Request) -> httpx.Response:
        if "follow" not in request.url.params:
            body = {"output": LOG, "lines": 2, "truncated": False, "total_bytes": len(LOG)}
            return httpx.Response(200, json=body)
        if self.on_follow is not None:
            self.on_follow()
            await self.deleted.wait()
        data = LOG.removesuffix("\n").replace("\n", "\ndata: ")
        events = f"id: {len(LOG)}\ndata: {data}\n\nevent: end\ndata: {{}}\n\n"
        return httpx.Response(200, content=events.encode())


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    found = Host()

    async def nap(seconds: float) -> None:
        await asyncio.sleep(0)

    made = functools.partial(FlashpodsClient, transport=httpx.MockTransport(found), sleep=nap)
    monkeypatch.setattr("flashpods.client.client.FlashpodsClient", made)
    monkeypatch.setenv("FLASHPODS_API_TOKEN", "the-secret-token")
    monkeypatch.setenv("FLASHPODS_CONFIG", str(tmp_path / "none.json"))
    monkeypatch.chdir(tmp_path)
    return found


def call(*args: str) -> Any:
    result = CliRunner().invoke(app, list(args))
    assert "the-secret-token" not in result.output
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


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


def test_ctrl_c_during_the_create_takes_it_back(host: Host) -> None:
    inner = host.__call__

    async def slow(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(5):
                await asyncio.sleep(0)
        return await inner(request)

    made = functools.partial(FlashpodsClient, transport=httpx.MockTransport(slow))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flashpods.client.client.FlashpodsClient", made)
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

    async def nap(seconds: float) -> None:
        await asyncio.sleep(0)

    made = functools.partial(FlashpodsClient, transport=httpx.MockTransport(cut), sleep=nap)
    monkeypatch.setattr("flashpods.client.client.FlashpodsClient", made)
    result = call("run", "--no-files", "--json", "x")
    assert result.exit_code == 125
    answer = json.loads(result.stdout)
    assert answer["error"] == "host_unreachable"
    if gone_at == "POST":
        assert "flashpods ps" in result.stderr
    else:
        assert answer["details"] == {"job_id": "j1"}
        assert "flashpods attach j1" in result.stderr


def test_ps(host: Host) -> None:
    result = call("ps")
    assert host.requests == [("GET", "/jobs?limit=20&status=active"), ("GET", "/health")]
    assert "j1" in result.stdout
    assert result.stderr == ""
    assert "make test [bold]" in result.stdout
    assert "\x1b" not in result.stdout
    call("ps", "--all", "--limit", "5")
    call("ps", "--status", "failed", "--status", "timed_out")
    assert host.requests[2:] == [
        ("GET", "/jobs?limit=5&status=all"),
        ("GET", "/health"),
        ("GET", "/jobs?limit=20&status=failed&status=timed_out"),
        ("GET", "/health"),
    ]
    assert json.loads(call("ps", "--json").stdout)["jobs"] == [host.job]


def test_ps_says_that_the_host_drains(host: Host) -> None:
    host.draining = True
    assert call("ps").stderr == "the host is draining: it takes no new jobs\n"
    assert json.loads(call("ps", "--json").stdout)["draining"] is True


def test_status(host: Host) -> None:
    result = call("status", "j1")
    assert "completed" in result.stdout
    assert "posted" in result.stdout
    assert "\x1b" not in result.stdout
    assert json.loads(call("status", "--json", "j1").stdout) == host.job


def test_logs(host: Host) -> None:
    assert call("logs", "j1").stdout == LOG
    assert call("logs", "-f", "j1").stdout == LOG
    assert call("logs", "--no-timestamps", "j1").stdout == "hello\n\x1b[31mred\x1b[0m\n"
    assert json.loads(call("logs", "--json", "j1").stdout)["output"] == LOG
    (line,) = call("logs", "-f", "--json", "j1").stdout.splitlines()
    assert json.loads(line) == {"text": LOG, "cursor": len(LOG)}
    assert host.requests[0] == ("GET", "/jobs/j1/output?tail=100")


def test_artifacts_and_download(host: Host, tmp_path: Path) -> None:
    assert "out.txt" in call("artifacts", "j1").stdout
    assert json.loads(call("artifacts", "j1", "--json").stdout) == {"artifacts": host.artifacts}
    result = call("download", "j1", "out.txt", "--to", "sub/", "--json")
    assert json.loads(result.stdout)["path"] == "sub/out.txt"
    assert (tmp_path / "sub/out.txt").read_bytes() == DATA


def test_a_link_that_the_tree_brought_is_not_gone_through(host: Host, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").symlink_to(outside)
    (tmp_path / "flashpods-artifacts").symlink_to(outside)
    for words in (("--artifacts", "out"), ()):
        result = call("run", "--no-files", *words, "true")
        assert (result.exit_code, result.stdout) == (125, LOG)
        assert "must be a directory and no link" in result.stderr
        assert "(invalid_target)" in result.stderr
    for copy in (("cp", "j1:", "out"), ("cp", "j1:out.txt", "out")):
        result = call(*copy)
        assert result.exit_code == 1
        assert "(invalid_target)" in result.stderr
    assert list(outside.iterdir()) == []
    assert call("cp", "j1:", "out/").exit_code == 0  # said with a slash, so meant
    assert (outside / "out.txt").read_bytes() == DATA


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "..", "a\\b", " a", "x" * 256])
def test_hostile_names_of_a_host_are_refused(host: Host, tmp_path: Path, name: str) -> None:
    """Those that it lists itself: ``cp JOB:`` and ``run`` take every name of the list."""
    host.artifacts[0]["name"] = name
    result = call("cp", "j1:", "out", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]) == (1, "invalid_artifact_name")
    result = call("run", "--no-files", "--artifacts", "out", "true")
    assert (result.exit_code, result.stdout) == (125, LOG)
    assert "(invalid_artifact_name)" in result.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not [path for _, path in host.requests if "/artifacts/" in path]


def test_kill(host: Host) -> None:
    assert call("kill", "j1").exit_code == 0
    assert json.loads(call("kill", "j1", "--json").stdout)["status"] == "cancelled"


@pytest.mark.parametrize("command", ["status", "logs", "artifacts", "kill"])
def test_an_error_is_one_line_or_one_object(host: Host, command: str) -> None:
    refusal = httpx.Response(404, json={"error": "job_not_found", "message": "no\njob \x1b[2Jx"})
    for method, path in (
        ("GET", "/jobs/zz"),
        ("GET", "/jobs/zz/output"),
        ("GET", "/jobs/zz/artifacts"),
        ("DELETE", "/jobs/zz"),
    ):
        host.refuse[method, path] = refusal
    result = call(command, "zz")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no job x (job_not_found)\n"
    result = call(command, "zz", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"] == "job_not_found"
    assert result.stderr == ""


def test_the_host_can_not_be_reached(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def nap(seconds: float) -> None:
        await asyncio.sleep(0)

    made = functools.partial(FlashpodsClient, transport=httpx.MockTransport(gone), sleep=nap)
    monkeypatch.setattr("flashpods.client.client.FlashpodsClient", made)
    assert call("ps").exit_code == 3
    assert "(host_unreachable)" in call("ps").stderr
    assert call("run", "--no-files", "x").exit_code == 125


def test_a_bad_configuration_is_a_usage_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASHPODS_API_TOKEN")
    for command in (["ps"], ["run", "--no-files", "x"]):
        result = call(*command)
        assert result.exit_code == 2
        assert "(missing_token)" in result.stderr
    assert call("nonsense").exit_code == 2
    assert call("run").exit_code == 2
    assert call("logs", "--tail", "0", "j").exit_code == 2


def test_what_contradicts_itself_is_a_usage_error(host: Host, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("n")
    for words in (
        ("run", "--no-files", "--upload", "upload_0123456789ab", "x"),
        ("run", "--artifacts", "a", "--no-artifacts", "x"),
        ("agent", "-b", "b", "--context", "c", "--context-file", "notes", "x"),
        ("wait", *(f"job{n}" for n in range(51))),
    ):
        result = call(*words)
        assert result.exit_code == 2, words
        assert "not both" in result.stderr or "the most" in result.stderr
    assert host.requests == []


def test_a_working_directory_that_has_gone_is_told(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("FLASHPODS_API_URL", "http://127.0.0.1:1")
    result = call("run", "x")
    assert result.exit_code == 125
    assert "No such file or directory (local_failure)" in result.stderr
    assert json.loads(call("cp", "j1:out.txt", "--json").stdout)["error"] == "invalid_target"
    assert "go to one that exists" in call("doctor").stdout


def test_ctrl_c_at_a_question_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> str:
        raise typer.Abort

    monkeypatch.setenv("FLASHPODS_CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setattr("typer.prompt", interrupted)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    options = InitOptions(host=None, port=None, gitignore=None, token_stdin=False, force=False)
    assert init_config(options, as_json=False) == 130
    assert list(tmp_path.iterdir()) == []


def test_help_teaches_by_example() -> None:
    text = call("--help").stdout
    for word in ("Examples:", "Exit codes:", "124", "125", "130", "FLASHPODS_API_TOKEN"):
        assert word in text
    for command in COMMANDS:
        shown = call(*command.split(), "--help").stdout
        assert f"Examples:\n    flashpods {command}" in shown
        assert "--json" in shown


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nobodys(closed: str, tmp_path: Path) -> None:
    line = f"exec {sys.executable} -m flashpods.cli.main capacity {closed}"
    env = {"HOME": str(tmp_path), "FLASHPODS_API_TOKEN": "t", "FLASHPODS_PORT": "x"}
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=env, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert (b"api_port" in done.stderr) == ("2>&-" not in closed)


def test_help_loads_nothing_slow() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from flashpods.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'httpx', 'rich', 'pydantic'} & set(sys.modules), 'slow imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=20)


def test_default_project_is_the_hosts_alphabet(tmp_path: Path) -> None:
    odd = tmp_path / "ä b/..c" / ("x" * 100)
    name = default_project(odd)
    assert name.isascii()
    assert len(name) <= 64
    assert name != default_project(tmp_path / "other" / ("x" * 100))
    assert default_project(Path("/")).startswith("tree-")
