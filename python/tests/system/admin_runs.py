"""Runs flashpods-admin beside a stack, as an operator does: a process of its own, as root."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 300  # a drain waits for a minute


def run(settings: Path, *words: str, env: dict[str, str] | None = None) -> Any:
    """Run a command; return the finished process."""
    name, *rest = words
    return subprocess.run(
        [sys.executable, "-m", "flashpods.admin.main", name, "--settings", str(settings), *rest],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, **(env or {})},
    )


async def admin(settings: Path, *words: str, code: int = 0) -> str:
    """Run a command, without blocking the test's loop; return what it said to the person."""
    done = await asyncio.to_thread(run, settings, *words)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return str(done.stderr)


async def asked(settings: Path, *words: str, code: int = 0) -> Any:
    """Run a command with ``--json``; return what it said to the machine."""
    done = await asyncio.to_thread(run, settings, *words, "--json")
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)
