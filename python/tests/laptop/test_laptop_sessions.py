"""Every session of docs/cli.md, typed again into a real terminal against a real stack.

``./dev laptop --write -k sessions`` writes what the terminal shows into the document.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from sessions import (
    Terminal,
    blocks,
    cleaned,
    commands,
    difference,
    replaced,
    shape,
)

from flashpods_dev.machine import Machine
from flashpods_dev.stack import MiniStack

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
WRITE = os.environ.get("FLASHPODS_LAPTOP_WRITE") == "1"
# In their order: each goes on where the one before it left project and host.
NAMES = ("configure", "run", "detach", "artifacts", "errors", "agent")
SCREEN_LINES = 24
COLOUR = re.compile(r"\x1b\[(\d+;)*(3|4|9|10)\d(;\d+)*m")  # ECMA-48 8.3.117; bold is none
# What stands in for a model: jobs.agent.command is the host's to choose.
AGENT = """#!/bin/sh
cat >/dev/null
echo 'thinking about it'
sed -i 's/Hello/Good evening/' hello.py
echo 'The greeting is polite now.' >/artifacts/summary.md
"""


@pytest.fixture(scope="module")
def stack(machine: Machine) -> Iterator[MiniStack]:
    """A stack of its own: what is listed is what the sessions made."""
    overrides = {
        "jobs": {"agent": {"command": "sh .agent.sh"}},
        "development": {"pretend_cpus": 16, "pretend_memory_gb": 64},
    }
    with support.stack_of(machine, overrides) as found:
        yield found


@pytest.fixture(scope="module")
def home(stack: MiniStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a small project, and the host's token as somebody handed it over."""
    home = tmp_path_factory.mktemp("home")
    project = home / "project"
    project.mkdir()
    (project / "hello.py").write_text('print("Hello, pods")\n')
    (project / "test_hello.py").write_text(
        "import subprocess, sys\n\n\ndef test_hello():\n"
        '    out = subprocess.check_output([sys.executable, "hello.py"])\n'
        '    assert out.endswith(b"pods\\n")\n'
    )
    (project / ".agent.sh").write_text(AGENT)
    (project / ".gitignore").write_text("flashpods-artifacts/\n*.log\n")
    (home / "token").write_text(stack.layout.token.read_text())
    for words in (
        ("init", "-q", "-b", "main"),
        ("init", "-q", "--bare", ".git/origin.git"),
        ("remote", "add", "origin", "/work/.git/origin.git"),  # where the job sees it
        ("add", "."),
        ("-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "-q", "-m", "Begin"),
        ("push", "-q", ".git/origin.git", "main"),
    ):
        subprocess.run(["git", *words], cwd=project, check=True, timeout=30)
    tools = home / "bin"
    tools.mkdir()
    (tools / "flashpods").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m flashpods.cli.main "$@"\n'
    )
    (tools / "flashpods").chmod(0o755)
    return home


def environment(home: Path, stack: MiniStack) -> dict[str, str]:
    host, port = stack.api_url.removeprefix("http://").split(":")
    return {
        "HOME": str(home),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "HOST": host,
        "PORT": port,
    }


def keep(name: str, text: str) -> None:
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(), name, text))


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text()


def test_every_session_of_the_document_is_run(document: str) -> None:
    kinds = {name: kind for name, (kind, _) in blocks(document).items()}
    assert kinds == {**dict.fromkeys(NAMES, "session"), "top": "screen"}


@pytest.mark.parametrize("name", NAMES)
async def test_sessions(name: str, document: str, home: Path, stack: MiniStack) -> None:
    _, written = blocks(document)[name]
    async with Terminal(home / "project", environment(home, stack)) as terminal:
        for line in commands(written):
            await terminal.type(line)
        shown = cleaned(await terminal.screen(), str(home))
    if WRITE:
        keep(name, shown)
        return
    assert shape(written) == shape(shown), difference(shape(written), shape(shown)) + "\n" + shown


async def test_the_sessions_of_top(document: str, home: Path, stack: MiniStack) -> None:
    async with Terminal(home / "project", environment(home, stack)) as terminal:
        await terminal.type("A=$(flashpods run -d --no-files --cpus 4 'echo one; sleep 600')")
        await terminal.type("B=$(flashpods run -d --no-files --cpus 2 'echo two; sleep 600')")
        await terminal.type("clear")
        await terminal.resize(SCREEN_LINES)
        await terminal.send("flashpods top")
        await terminal.shows("6 of 16 held", "] two", "COMMAND")
        await terminal.key("Down")
        shown = cleaned(await terminal.shows("] one", "2 active"), str(home))
        await terminal.key("k")
        await terminal.shows("] two")
        await terminal.key("q")
        await terminal.ready()
        assert "flashpods top   " not in await terminal.screen()  # the screen before is back
        await terminal.type("flashpods kill $A; flashpods kill $B; flashpods wait $A $B")
    if WRITE:
        keep("top", shown)
        return
    _, written = blocks(document)["top"]
    for text in ("flashpods top", "2 active", "CPUs", "6 of 16 held", "JOB", "COMMAND", "log of"):
        assert text in written
        assert text in shown
    assert len(shown.splitlines()) <= SCREEN_LINES


def watching(home: Path, stack: MiniStack) -> dict[str, str]:
    """Return the environment of one who was configured in no session before."""
    return {
        **environment(home, stack),
        "FLASHPODS_API_URL": stack.api_url,
        "FLASHPODS_API_TOKEN_FILE": str(home / "token"),
    }


async def started(terminal: Terminal) -> str:
    """Start a job that sleeps; return its id."""
    await terminal.type(
        "flashpods run -d --no-files --cpus 1 'echo watched; sleep 600' 2>/dev/null"
    )
    (job,) = re.findall(r"^[0-9a-f]{16}$", await terminal.screen(), re.MULTILINE)
    await terminal.type("clear")
    await terminal.resize(SCREEN_LINES)
    return str(job)


async def test_ps_watch_at_a_terminal(home: Path, stack: MiniStack) -> None:
    env = watching(home, stack)
    async with Terminal(home / "project", env) as terminal:
        job = await started(terminal)
        await terminal.send("flashpods ps --watch --interval 0.2")
        await terminal.shows(job, "running", "ctrl-C ends")
        await asyncio.to_thread(stack.api.kill)
        away = await terminal.shows("as it was", "cannot reach")
        assert job in away  # what was seen last stays in view
        await asyncio.to_thread(stack.api.start)
        await terminal.shows(job, "ctrl-C ends")
        kill = [str(home / "bin/flashpods"), "kill", job]
        await asyncio.to_thread(subprocess.run, kill, env=env, check=True, timeout=60)
        await terminal.hides(f"{job}  running")
        await terminal.hides(job)
        await terminal.key("C-c")
        await terminal.ready()
        assert await terminal.has_cursor()
        await terminal.type("echo code $?")
        assert "code 130" in await terminal.screen()


async def test_top_while_the_host_is_away(home: Path, stack: MiniStack) -> None:
    async with Terminal(home / "project", watching(home, stack)) as terminal:
        job = await started(terminal)
        await terminal.send("flashpods top --interval 0.2")
        await terminal.shows(job, "] watched", "q leaves")
        await asyncio.to_thread(stack.api.kill)
        away = await terminal.shows("as it was", "cannot reach", job, "] watched")
        lines = away.rstrip("\n").splitlines()
        assert len(lines) == SCREEN_LINES
        assert lines[-1].startswith("╰"), away  # the words push nothing off the screen
        await asyncio.to_thread(stack.api.start)
        await terminal.shows("q leaves", "] watched")
        await terminal.key("j", "k", "q")
        await terminal.ready()
        assert await terminal.has_cursor()
        await terminal.type("echo code $?")  # and what is typed is shown again
        assert "$ echo code $?\ncode 0" in await terminal.screen()
        await terminal.type(f"flashpods kill {job}")


async def test_no_colour_where_none_is_wanted(home: Path, stack: MiniStack) -> None:
    env = environment(home, stack)
    escapes = {}
    for name, more in (("colour", {}), ("none", {"NO_COLOR": "1"})):
        async with Terminal(home / "project", {**env, **more}) as terminal:
            await terminal.type("script -qc 'flashpods ps --all' typescript >/dev/null")
            shown = (home / "project/typescript").read_text()
            escapes[name] = COLOUR.search(shown) is not None
        (home / "project/typescript").unlink()
    assert escapes == {"colour": True, "none": False}


async def test_init_asks_at_a_terminal_and_shows_no_token(
    home: Path, stack: MiniStack, tmp_path: Path
) -> None:
    env = {**environment(home, stack), "HOME": str(tmp_path)}
    async with Terminal(home / "project", env) as terminal:
        await terminal.send("flashpods config init --port $PORT")
        await terminal.shows("Host [10.0.0.1]:")
        await terminal.send(env["HOST"])
        await terminal.shows("API token")
        token = stack.layout.token.read_text().strip()
        await terminal.send(token)
        await terminal.ready()
        await terminal.type("flashpods capacity")
        shown = await terminal.screen()
    assert token not in shown
    assert "available" in shown
    assert (tmp_path / ".config/flashpods/token").read_text().strip() == token
