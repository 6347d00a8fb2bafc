"""Pushing a tree with the laptop's own rsync(1): the command, its progress, what its end means."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from flashpods.client.errors import UploadError

__all__ = [
    "Ending",
    "Progress",
    "Rsync",
    "RsyncResult",
    "build_command",
    "judge",
    "parse_progress",
    "probe_rsync",
    "run_rsync",
]

# Links, modes and times travel; owners, devices, sockets and FIFOs do not. Directories stay
# usable by their owner, and no set-uid, set-gid or sticky bit leaves the laptop.
ARCHIVE: Final = (
    "-rlpt",
    "--no-owner",
    "--no-group",
    "--no-devices",
    "--no-specials",
    "--chmod=Du+rwx,a-s,a-t",
)
REPORT: Final = ("--info=progress2,stats1", "--no-h", "--outbuf=N", "--no-inc-recursive")
TIMEOUT_SECONDS: Final = 60  # of silence
CONNECT_SECONDS: Final = 10
TOTAL_SECONDS: Final = 40 * 60.0  # an upload that is not finalized expires before that
STOP_SECONDS: Final = 2.0
VERSION_SECONDS: Final = 10.0
KEPT_ERROR_LINES: Final = 20
MAX_LINE_BYTES: Final = 4096

# rsync(1), EXIT VALUES: socket I/O, protocol stream cut, timeouts of data and of connecting.
NETWORK_CODES: Final = frozenset({10, 12, 30, 35})
NANOSECONDS: Final = (3, 1, 3)  # from then on --modify-window=-1 compares times in full
# What a connection that is cut before the transfer ends with, which is code 5, as refusals are
# (clientserver.c); a refusal says @ERROR instead.
CUT_EARLY: Final = ("did not see server greeting", "didn't get server startup line")
VANISHED: Final = 24  # source files went away while they were read: the rest arrived
# What the daemon says when its hook refuses; the hook's own line follows (clientserver.c).
REFUSED: Final = "pre-xfer exec returned failure"
# How the hook's refusals end that pass by themselves: an earlier try's transfer, a busy database.
PASSING: Final = ("; wait for it to end", "; try again")

_PROGRESS = re.compile(rb"^\s*(\d+)\s+(\d+)%.*?(?:to-chk=(\d+)/(\d+))?\)?\s*$")
_SENT = re.compile(rb"^sent (\d+) bytes")
_NO_SPACE = re.compile(r"(No space left on device|Disk quota exceeded) \(\d+\)$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a push is: bytes of file content handled, and the part of the whole, 0 to 1."""

    bytes: int
    fraction: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Rsync:
    """The program and its version."""

    path: str
    version: tuple[int, ...]


class Ending(Enum):
    """What an rsync that has ended means for the upload."""

    DONE = "done"
    NETWORK = "network"
    BUSY = "busy"
    DISK_FULL = "disk_full"
    FAILED = "failed"


@dataclass(slots=True)
class RsyncResult:
    """What rsync said. ``errors`` are the last lines of its error output."""

    code: int = 0
    sent_bytes: int | None = None
    disk_full: bool = False
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_ERROR_LINES))

    @property
    def refusal(self) -> str | None:
        """The line of the host's hook, if that is what ended the push."""
        lines = list(self.errors)
        for place, line in enumerate(lines[:-1]):
            if REFUSED in line:
                return lines[place + 1]
        return None

    @property
    def reason(self) -> str:
        """The line that says most: the first complaint, not rsync's closing summary."""
        if self.refusal is not None:
            return self.refusal
        lines = [line for line in self.errors if line.startswith(("rsync: ", "@ERROR"))]
        chosen = next((x for x in lines if x.startswith("@ERROR")), None) or (lines or [""])[0]
        return chosen.removeprefix("rsync: ") or f"rsync ended with code {self.code}"


def judge(result: RsyncResult) -> Ending:
    """Return what an rsync's end means (contract, section 9)."""
    if result.code in {0, VANISHED}:
        return Ending.DONE
    if result.disk_full:  # first: a full receiver also cuts the stream, which looks like code 12
        return Ending.DISK_FULL
    if result.refusal is not None:  # also where the cut that follows it looks like the network
        return Ending.BUSY if result.refusal.endswith(PASSING) else Ending.FAILED
    if result.code in NETWORK_CODES or any(cut in x for x in result.errors for cut in CUT_EARLY):
        return Ending.NETWORK
    if any("max connections" in line for line in result.errors):
        return Ending.BUSY
    return Ending.FAILED


async def probe_rsync() -> Rsync:
    """Return this machine's rsync, which can report its progress (3.1, 2013, or later).

    Raises:
        UploadError: ``rsync_missing`` or ``rsync_too_old``, with the remedy.
    """
    path = shutil.which("rsync")
    remedy = "install it (apt install rsync, brew install rsync, nix profile install nixpkgs#rsync)"
    if path is None:
        raise UploadError("rsync_missing", f"rsync is not on the PATH; {remedy}")
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise UploadError(
            "rsync_missing", f"{path} can't be started: {error.strerror}; {remedy}"
        ) from error
    try:
        async with asyncio.timeout(VERSION_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise UploadError("rsync_missing", f"{path} --version does not end; {remedy}") from error
    finally:
        await _stop(process)
    found = re.match(rb"rsync\s+version v?(\d+)\.(\d+)(?:\.(\d+))?", output)
    version = (0, 0, 0) if found is None else tuple(int(part or 0) for part in found.groups())
    if version < (3, 1):
        # macOS calls "openrsync" rsync; it has neither these options nor these exit codes.
        raise UploadError("rsync_too_old", f"{path} is not rsync 3.1 or later; {remedy}")
    return Rsync(path, version)


def build_command(
    rsync: str | Rsync,
    source: Path,
    url: str,
    *,
    exclude: Sequence[str],
    base: str | None,
    exclude_from: Path | None = None,
) -> list[str]:
    """Return the argument list that makes ``url`` hold what ``source`` holds.

    Args:
        rsync: the program.
        source: absolute, so that no colon in it reads as a host.
        url: the upload's directory.
        exclude: patterns.
        base: the former tree's path in the module; what is unchanged there is not sent.
        exclude_from: a file of further patterns, each ended by NUL.
    """
    program = Rsync(rsync, (0, 0, 0)) if isinstance(rsync, str) else rsync
    command = [program.path, *ARCHIVE, *REPORT, "--partial"]
    command += [f"--timeout={TIMEOUT_SECONDS}", f"--contimeout={CONNECT_SECONDS}"]
    command += [f"--exclude={pattern}" for pattern in exclude]
    if exclude_from is not None:
        command += ["--from0", f"--exclude-from={exclude_from}"]
    if base is not None:
        command.append(f"--copy-dest={base}")
        if program.version >= NANOSECONDS:
            # Else a file that was changed twice within a second, to the same size, is "unchanged".
            command.append("--modify-window=-1")
    return [*command, "--", f"{source}/".replace("//", "/"), url]


async def run_rsync(command: list[str], on_progress: OnProgress | None = None) -> RsyncResult:
    """Run rsync to its end; a cancelled call kills it first.

    Raises:
        UploadError: ``upload_failed`` if it can't be started or runs over 40 minutes.
    """
    # The child needs no token, and messages must be in the language that judge() reads.
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLASHPODS_")}
    env["LC_ALL"] = "C"
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,  # ctrl-C is ours to handle; rsync is told by _stop()
        )
    except OSError as error:
        raise UploadError("upload_failed", f"cannot start rsync: {error}") from error
    result = RsyncResult()
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(TOTAL_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(_read_output(process.stdout, result, on_progress))
            group.create_task(_read_errors(process.stderr, result))
            group.create_task(process.wait())
    except TimeoutError as error:
        minutes = TOTAL_SECONDS / 60
        raise UploadError("upload_failed", f"rsync ran over {minutes:.0f} minutes") from error
    finally:
        await _stop(process)
    assert process.returncode is not None
    result.code = process.returncode
    return result


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the child if it still runs: SIGTERM, 2 s, SIGKILL."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    waiting = asyncio.ensure_future(process.wait())
    try:
        done, _ = await asyncio.wait({waiting}, timeout=STOP_SECONDS)
    except asyncio.CancelledError:
        done = set()
    if not done:
        with suppress(ProcessLookupError):
            process.kill()
        await waiting


async def _read_lines(stream: asyncio.StreamReader, take: Callable[[bytes], None]) -> None:
    """Hand over every line (ended by CR or LF), the long ones cut."""
    rest = b""
    while chunk := await stream.read(65536):
        *lines, rest = re.split(rb"[\r\n]", rest + chunk)
        for line in lines:
            take(line[:MAX_LINE_BYTES])
        rest = rest[:MAX_LINE_BYTES]
    if rest:
        take(rest)


async def _read_output(
    stream: asyncio.StreamReader, result: RsyncResult, on_progress: OnProgress | None
) -> None:
    best = 0.0

    def take(line: bytes) -> None:
        nonlocal best
        if found := _SENT.match(line):
            result.sent_bytes = int(found[1])
        elif on_progress is not None and (progress := parse_progress(line)) is not None:
            best = max(best, progress.fraction)
            on_progress(Progress(progress.bytes, best))

    await _read_lines(stream, take)


def parse_progress(line: bytes) -> Progress | None:
    """Read a line of ``--info=progress2``; None if it is something else.

    The percentage counts the bytes sent, ``to-chk`` the files still to look at; an unchanged tree
    moves only the second, one huge file only the first, so the larger part is the truth.
    """
    found = _PROGRESS.match(line)
    if found is None:
        return None
    fraction = int(found[2]) / 100
    if found[4] is not None and int(found[4]) > 0:
        fraction = max(fraction, 1 - int(found[3]) / int(found[4]))
    return Progress(int(found[1]), min(fraction, 1.0))


async def _read_errors(stream: asyncio.StreamReader, result: RsyncResult) -> None:
    def take(line: bytes) -> None:
        text = _CONTROL.sub("?", line.decode("utf-8", "replace")).strip()
        if not text:
            return
        result.errors.append(text)
        if _NO_SPACE.search(text) and "[sender]" not in text:
            result.disk_full = True

    await _read_lines(stream, take)
