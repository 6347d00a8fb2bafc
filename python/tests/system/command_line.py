"""The real ``flashpods`` command against a stack: a process of its own, as on a laptop."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_rs

from flashpods.cli.schemas import SCHEMAS
from flashpods_dev.stack import MiniStack

SECONDS = 240  # for a command: a wait of the MCP server takes 95 s at most


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Laptop:
    """A home directory with a token's file, and the command in it."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stack: MiniStack, home: Path, **settings: Any) -> Laptop:
        """Configure a laptop for the stack; ``settings`` go into its ``config.json``."""
        place = home / ".config" / "flashpods"
        place.mkdir(parents=True, exist_ok=True)
        values = {"api_url": stack.api_url, "retry_base_delay_ms": 200, **settings}
        (place / "config.json").write_text(json.dumps(values))
        (place / "token").write_text(stack.layout.token.read_text())
        (place / "token").chmod(0o600)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"}
        return cls(home, env)

    async def start(
        self,
        *words: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = asyncio.subprocess.DEVNULL,
        wrap: tuple[str, ...] = (),
    ) -> asyncio.subprocess.Process:
        """Start the command; the caller ends it."""
        return await asyncio.create_subprocess_exec(
            *wrap,
            *(sys.executable, "-m", "flashpods.cli.main", *words),
            cwd=cwd or self.home,
            env={**self.env, **(env or {})},
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(
        self,
        *words: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        seconds: float = SECONDS,
        wrap: tuple[str, ...] = (),
    ) -> Done:
        """Run the command to its end."""
        given = asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
        process = await self.start(*words, cwd=cwd, env=env, stdin=given, wrap=wrap)
        return await finish(process, stdin, seconds)

    async def json(self, schema: str, *words: str, code: int = 0, **options: Any) -> Any:
        """Run ``words --json``; return what it prints, which fits the schema of that name."""
        done = await self.run(*words, "--json", **options)
        assert done.code == code, done
        (line,) = done.out.splitlines()
        answer = json.loads(line)
        fits(schema, answer)
        return answer


def fits(schema: str, answer: Any) -> None:
    """Hold an answer against a schema of ours; raises jsonschema_rs.ValidationError."""
    jsonschema_rs.validator_for(SCHEMAS[schema]).validate(answer)


async def finish(
    process: asyncio.subprocess.Process, stdin: str | None = None, seconds: float = SECONDS
) -> Done:
    """Wait for the command's end; it is killed when that takes too long."""
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate(None if stdin is None else stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())
