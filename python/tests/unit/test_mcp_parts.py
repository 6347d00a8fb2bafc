"""The pieces of the MCP server that need no host."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from flashpods.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, ConfigError, HostUnreachable, UploadError
from flashpods.mcp import failures, spawning, waiting
from flashpods.mcp.failures import unknown_arguments
from flashpods.mcp.host import Host, isolated
from flashpods.mcp.http import HttpOptions, app, read_token
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import Files
from flashpods.mcp.server import FlashpodsServer


async def test_progress_strictly_increases_whatever_the_clock_does() -> None:
    told: list[tuple[float, float | None]] = []

    async def send(value: float, total: float | None, _message: str | None) -> None:
        told.append((value, total))

    times: Iterator[float] = iter([100.0, 101.0, 101.0, 99.0, 103.0, 200.0])
    progress = Progress(send, lambda: next(times))
    for _ in range(5):
        await progress.tell("x", 50)
    assert told == [(1.0, 50), (1.001, 50), (1.002, 50), (3.0, 50), (100.0, 100.0)]
    progress.mute()
    await progress.tell("x")
    assert len(told) == 5


async def test_a_cancelled_call_cleans_up_with_awaits() -> None:
    """As under the SDK: an anyio scope cancels every await, again and again."""
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            await asyncio.to_thread(steps.append, "cleaned")

    with anyio.move_on_after(0.05):
        await isolated(work())
    assert steps == ["cleaned"]


def test_excludes_of_an_agent_keep_git() -> None:
    default = (".git", "node_modules")
    files = Files(local_path=".")
    home = "/flashpods-artifacts"  # what came home from earlier jobs
    assert spawning.excludes(files, default) == ([".git", "node_modules", home], [])
    assert spawning.excludes(files, default, keep_git=True) == (["node_modules", home], [])
    asked = Files(local_path=".", exclude=["/.git/", "**/.git", ".gitignore", "x/.git/hooks"])
    kept, warnings = spawning.excludes(asked, default, keep_git=True)
    assert kept == [".gitignore", "x/.git/hooks", home]
    assert warnings
    assert spawning.excludes(asked, default) == ([*(asked.exclude or ()), home], [])


def test_the_home_directory_is_not_pushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to("/")
    for path in ("/", "~", str(tmp_path), str(tmp_path / "x" / ".."), str(tmp_path / "link")):
        with pytest.raises(UploadError, match="secrets"):
            spawning.source(Files(local_path=path))
    assert spawning.source(Files(local_path=str(tmp_path / "x"))) == tmp_path / "x"


@pytest.mark.parametrize(("said", "shown"), [("is it up?", "is it up? Next: "), ("gone", "gone. ")])
def test_a_failure_says_what_to_do_next(said: str, shown: str) -> None:
    answer = failures.as_dict(ClientError("host_unreachable", said))
    assert answer["message"].startswith(shown)
    assert failures.as_dict(ClientError("invalid_cpus", said))["message"] == said


def test_unknown_arguments_name_the_near_one() -> None:
    assert unknown_arguments(["command"], ["command", "cpus"]) is None
    said = unknown_arguments(["cpu"], ["command", "cpus"])
    assert said is not None
    assert "did you mean cpus?" in said


async def test_a_wait_for_a_host_that_is_away_ends_in_time() -> None:
    def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no tunnel")

    told: list[str] = []

    async def send(_value: float, _total: float | None, message: str | None) -> None:
        told.append(message or "")

    config = ClientConfig(token="t", retry_max_attempts=0)
    async with FlashpodsClient(config, transport=httpx.MockTransport(away)) as client:
        with pytest.raises(HostUnreachable):
            async with asyncio.timeout(30):
                await waiting.wait(client, "j", 1.5, Progress(send))
    assert "does not answer" in told[0]
    assert waiting.LONGEST + waiting.GRACE < 100  # what a client waits for is 120 s


async def test_a_wait_misses_no_change_between_two_looks() -> None:
    rows = [("running", "r1"), ("running", "r1"), ("completed", "r2")]
    asked: list[str] = []

    def host(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.query.decode())
        status, revision = rows[min(len(asked), len(rows)) - 1]
        return httpx.Response(200, json={"id": "j", "status": status, "revision": revision})

    config = ClientConfig(token="t")
    async with FlashpodsClient(config, transport=httpx.MockTransport(host)) as client:
        job = await waiting.wait(client, "j", 60)
    assert job.status == "completed"
    assert asked == ["", "wait=5&since=r1", "wait=5&since=r1"]


# ------------------------------------------------------------------ HTTP

TOKEN = "0123456789abcdef"
CALL: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "server/discover",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "server/discover",
}


def no_config() -> Any:
    raise ConfigError("none here", code="missing_token")


async def ask(options: HttpOptions, url: str = "http://127.0.0.1:8765", **headers: str) -> int:
    """POST a call as a client would; return the status."""
    server = FlashpodsServer(Host(no_config))
    transport = httpx.ASGITransport(app=app(server, options))
    async with (
        server.session_manager.run(),
        httpx.AsyncClient(transport=transport, base_url=url) as client,
    ):
        answer = await client.post("/mcp", json=CALL, headers={**HEADERS, **headers})
        return answer.status_code


async def test_http_answers_loopback_and_no_browser() -> None:
    options = HttpOptions()
    assert await ask(options) == 200
    assert await ask(options, "http://localhost:8765") == 200
    assert await ask(options, "http://evil.example:8765") == 421  # a rebound name
    assert await ask(options, Origin="http://evil.example") == 403
    assert await ask(options, Origin="http://localhost:3000") == 403
    assert await ask(options, Origin="http://127.0.0.1:8765") == 200  # its own
    told = HttpOptions(allow_origins=("http://localhost:6274",))
    assert await ask(told, Origin="http://localhost:6274") == 200


async def test_http_with_a_token() -> None:
    options = HttpOptions(token=TOKEN)
    assert await ask(options) == 401
    assert await ask(options, Authorization="Bearer wrong") == 401
    assert await ask(options, Authorization=f"Bearer {TOKEN}") == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_beyond_loopback_needs_a_token_and_names(host: str) -> None:
    with pytest.raises(ConfigError, match="FLASHPODS_MCP_TOKEN"):
        HttpOptions(host=host).check()
    with pytest.raises(ConfigError, match="--allow-host"):
        HttpOptions(host=host, token=TOKEN).check()
    HttpOptions(host=host, token=TOKEN, allow_hosts=("build.lan",)).check()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.3.3", "::1", "[::1]", "localhost"])
def test_loopback_is_fine_alone(host: str) -> None:
    HttpOptions(host=host).check()


def test_the_token_of_http(tmp_path: Path) -> None:
    assert read_token({}) is None
    assert read_token({"FLASHPODS_MCP_TOKEN": TOKEN}) == TOKEN
    file = tmp_path / "t"
    file.write_text(f"{TOKEN}\n")
    assert read_token({"FLASHPODS_MCP_TOKEN_FILE": str(file)}) == TOKEN
    with pytest.raises(ConfigError, match="16"):
        read_token({"FLASHPODS_MCP_TOKEN": "short"})
    with pytest.raises(ConfigError, match="cannot read"):
        read_token({"FLASHPODS_MCP_TOKEN_FILE": str(tmp_path / "none")})


# ------------------------------------------------------------------ the command


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flashpods.mcp.main", *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_loads_no_sdk_and_a_wrong_option_is_told() -> None:
    code = (
        "import sys; from flashpods.mcp.main import _parser; _parser(); print('mcp' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout == "False\n"
    assert "FLASHPODS_API_TOKEN" in command("--help").stdout
    for wrong in (("--token", "x"), ("--port", "0"), ("--http", "--host", "0.0.0.0")):
        done = command(*wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr


SDK = "from mcp.server.mcpserver import MCPServer; MCPServer()"
OURS = "from flashpods.mcp.server import build; build()"
LOADED = """
import sys
print(*{name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
print(*(name for name in sys.modules if name.startswith("flashpods.")))
"""


def loaded(code: str) -> list[set[str]]:
    """Return what is loaded then: packages that are not Python's own, and our modules."""
    done = subprocess.run(
        [sys.executable, "-c", code + LOADED],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_a_start_loads_the_sdk_and_hardly_more() -> None:
    """Clients start it with each session, and wait for it."""
    sdk, _ = loaded(SDK)
    packages, ours = loaded(OURS)
    assert packages - sdk == {"flashpods"}
    late = {"api", "cli", "adapters", "client.client", "client.http", "client.download", "mcp.http"}
    assert not {f"flashpods.{name}" for name in late} & ours


def test_it_ends_when_the_client_has_left() -> None:
    done = command()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


HIDE = """
import importlib, sys, tomllib
from packaging.requirements import Requirement
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
named = [Requirement(text).name for text in project["optional-dependencies"]["host"]]
# What the SDK of the laptop's side brings itself.
brought = {"cryptography", "pydantic", "pyjwt", "uvicorn"}
for name in set(named) - brought:
    sys.modules[name.replace("-", "_")] = None  # importing it fails
for module in ("cli.main", "cli.run", "client.client", "mcp.main", "mcp.server", "mcp.http"):
    importlib.import_module(f"flashpods.{module}")
try:
    importlib.import_module("flashpods.api.main")
except ImportError:
    print("only the host needs them")
"""


def test_the_laptop_needs_nothing_of_the_hosts_dependencies() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    done = subprocess.run(
        [sys.executable, "-c", HIDE, str(project)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "only the host needs them\n"), done.stderr
