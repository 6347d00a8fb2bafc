"""The other commands against a scripted host: what they print, where, and their exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from cli_rig import DATA, LOG, Host, answered_by, at_home, call

from flashpods.cli.configure import InitOptions, init_config

COMMANDS = (
    "run", "agent", "ps", "status", "logs", "attach", "wait", "kill", "top", "artifacts",
    "download", "cp", "diff", "apply", "capacity", "health", "uploads push", "uploads reserve",
    "uploads finalize", "uploads show", "uploads rm", "check-config", "doctor", "config init",
    "config show",
)  # fmt: skip


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return at_home(monkeypatch, tmp_path)


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

    answered_by(gone, monkeypatch)
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
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
