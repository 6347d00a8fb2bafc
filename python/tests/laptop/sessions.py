"""The sessions of docs/cli.md: read from it, run in a real terminal (tmux), compared by shape.

A session is a block of the document behind a comment that names it::

    <!-- session: first -->
    ```console
    $ flashpods ps
    …

Its lines that begin with ``$`` are typed; all of the block is what the terminal then shows. A
comment ``<!-- screen: NAME -->`` marks what a full-screen command shows.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

COLUMNS: Final = 100
LINES: Final = 200  # of a session; nothing may scroll away
SECONDS: Final = 120
BLOCK: Final = re.compile(
    r"<!-- (?P<kind>session|screen): (?P<name>[a-z-]+) -->\n```console\n(?P<text>.*?)```\n",
    re.DOTALL,
)

# What differs from run to run, longest forms first.
MASKS: Final = (
    (re.compile(r"/\S*/(?=\.config)"), "~/"),
    (re.compile(r"/\S*/(?=project\b)"), "~/"),
    (re.compile(r"upload_[A-Za-z0-9_-]{12,64}"), "UPLOAD"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "JOB"),
    (re.compile(r"\b[0-9a-f]{7,8}\b(?=\.\.|$)"), "COMMIT"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z?"), "TIME"),
    (re.compile(r"\[?\d\d:\d\d:\d\d(\.\d{3})?\]?"), "CLOCK"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "HOST:PORT"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h)( \d\d (s|min))?(?![\w])"), "DURATION"),
    (re.compile(r"\b\d+\.\d\ds\b"), "DURATION"),
    (re.compile(r"\b\d+(\.\d+)? (B|kB|MB|GB)\b"), "SIZE"),
    (re.compile(r"\brsync, version [\d.]+"), "rsync, version V"),
    (re.compile(r"\d+(\.\d+)* GB"), "SIZE"),
    (re.compile(r"[ \t]+"), " "),
)
# Only where cgroup v2 has no controllers is a job's row told so.
NOT_OURS: Final = re.compile(r"^(warning:? .*)?limits are not enforced|^warning .*limits are not")


def blocks(document: str) -> dict[str, tuple[str, str]]:
    """Return each session's kind and text by its name."""
    return {m["name"]: (m["kind"], m["text"]) for m in BLOCK.finditer(document)}


def commands(text: str) -> list[str]:
    """Return what is typed in a session."""
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


def replaced(document: str, name: str, text: str) -> str:
    """Return the document with a session's text replaced."""

    def put(found: re.Match[str]) -> str:
        if found["name"] != name:
            return found[0]
        return f"<!-- {found['kind']}: {name} -->\n```console\n{text}```\n"

    return BLOCK.sub(put, document)


def cleaned(screen: str, home: str = "/home/me") -> str:
    """Return what the document shows of a screen: no blanks at the ends, no foreign warnings."""
    lines = [line.rstrip() for line in screen.replace(home, "~").splitlines()]
    lines = [line for line in lines if not NOT_OURS.match(line)]
    while lines and lines[-1] in {"", "$"}:
        lines.pop()
    return "\n".join(lines) + "\n"


def shape(text: str) -> list[str]:
    """Return the lines with all masked that differs from run to run."""
    lines = []
    for line in cleaned(text).splitlines():
        for pattern, mask in MASKS:
            line = pattern.sub(mask, line)  # noqa: PLW2901 - one mask after the other
        lines.append(line.strip())
    return lines


class Terminal:
    """A shell in tmux, on a server of its own."""

    def __init__(self, cwd: Path, env: dict[str, str]) -> None:
        self._cwd = cwd
        self._env = env
        self._socket = f"flashpods-{os.getpid()}-{secrets.token_hex(4)}"

    async def __aenter__(self) -> Self:
        # tmux tells us of each prompt: no looking at the screen, no waiting for time to pass.
        ready = f"tmux -L {self._socket} wait-for -S ready"
        rc = self._cwd.parent / f"{self._socket}.rc"
        await asyncio.to_thread(
            rc.write_text, f"PS1='$ '\nPS2=''\nPROMPT_COMMAND='{ready}'\nset +o history\n"
        )
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        await self._tmux(
            *("-f", "/dev/null", "new-session", "-d", *size, "-c", str(self._cwd)),
            *("env", "-i", *(f"{k}={v}" for k, v in self._env.items())),
            *("TERM=screen", "TMUX_TMPDIR=/tmp", "bash", "--noprofile", "--rcfile", str(rc)),
        )
        await self.ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._tmux("kill-server")

    async def type(self, line: str) -> None:
        """Type a line and wait for the next prompt."""
        await self.send(line)
        await self.ready()

    async def send(self, line: str) -> None:
        """Type a line."""
        await self._tmux("send-keys", "-l", line)
        await self._tmux("send-keys", "Enter")

    async def key(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        await self._tmux("send-keys", *keys)

    async def resize(self, lines: int) -> None:
        """Change the terminal's height."""
        await self._tmux("resize-window", "-y", str(lines))

    async def screen(self) -> str:
        """Return what is shown now."""
        return await self._tmux("capture-pane", "-p", "-J")

    async def shows(self, *texts: str) -> str:
        """Wait until all of it is shown; return the screen.

        Raises:
            AssertionError: it is not, in time.
        """
        return await self._until(lambda screen: all(text in screen for text in texts), str(texts))

    async def hides(self, text: str) -> str:
        """Wait until it is shown no longer; return the screen.

        Raises:
            AssertionError: it still is, in the end.
        """
        return await self._until(lambda screen: text not in screen, f"a screen without {text!r}")

    async def has_cursor(self) -> bool:
        """Return whether the cursor is shown."""
        return (await self._tmux("display-message", "-p", "#{cursor_flag}")).strip() == "1"

    async def ready(self) -> None:
        """Wait for a prompt; each is to be waited for."""
        await self._tmux("wait-for", "ready")
        # It came just before the prompt: what is typed now could still stand in front of it.
        await self._until(lambda screen: screen.rstrip("\n").endswith("\n$") or screen[:1] == "$")

    async def _until(self, true: Callable[[str], bool], what: str = "a prompt") -> str:
        end = time.monotonic() + SECONDS
        while True:
            seen = await self.screen()
            if true(seen):
                return seen
            assert time.monotonic() < end, f"not shown: {what}\n{seen}"
            await asyncio.sleep(0.05)

    async def _tmux(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("tmux", "-L", self._socket, *words),
            env={"PATH": os.environ["PATH"], "TMUX_TMPDIR": "/tmp", "LC_ALL": "C.UTF-8"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SECONDS):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, (words, err.decode())
        return out.decode()


def difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Return the first line that differs, for a person."""
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        if a != b:
            return f"line {number}: the document has {a!r}, the terminal {b!r}"
    return f"the document has {len(ours)} lines, the terminal {len(theirs)}"
