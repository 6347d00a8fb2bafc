"""Running a program of the host: bounded in time and output, and gone when its caller is."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from flashpods.admin.validation.check import Failed

__all__ = ["Done", "run", "run_json"]

SHOWN_CHARS: Final = 300
OUTPUT_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Done:
    """A program that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The first line of its complaints, cut; for a person."""
        lines = (self.err.strip() or self.out.strip() or f"exit code {self.code}").splitlines()
        return lines[0][:SHOWN_CHARS]


async def run(*argv: str, seconds: float = 15, user: tuple[int, int] | None = None) -> Done:
    """Run a program to its end.

    Args:
        argv: its words; found on PATH.
        seconds: then it is killed.
        user: the uid and gid to run as, without further groups; our own when None.

    Raises:
        Failed: it is not installed, did not end in time, or said too much.
    """
    who = {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            **who,  # type: ignore[arg-type] # passed on to Popen
        )
    except FileNotFoundError:
        raise Failed(f"{argv[0]} is not there", f"put {argv[0]} on the PATH") from None
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        raise Failed(f"{argv[0]} did not end within {seconds:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if len(out) + len(err) > OUTPUT_BYTES:
        raise Failed(f"{argv[0]} wrote more than {OUTPUT_BYTES} bytes")
    assert process.returncode is not None
    return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


async def run_json(*argv: str, seconds: float = 15, user: tuple[int, int] | None = None) -> Any:
    """Run a program that must succeed and print JSON; return what it printed.

    Raises:
        Failed: it did not.
    """
    done = await run(*argv, seconds=seconds, user=user)
    if done.code:
        raise Failed(f"{' '.join(argv[:3])} failed: {done.said}")
    try:
        return json.loads(done.out)
    except ValueError:
        raise Failed(f"{' '.join(argv[:3])} printed no JSON") from None
