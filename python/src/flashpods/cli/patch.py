"""``flashpods diff`` and ``apply``: an agent's ``changes.patch``, judged and applied by git(1).

git refuses paths outside of the tree, into ``.git`` and through symbolic links by itself
(``git-apply(1)``, ``--unsafe-paths``), and applies all of a patch or nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, Final

from flashpods.cli.session import Ui
from flashpods.cli.terminal import plain, use_colour, visible
from flashpods.client.client import FlashpodsClient
from flashpods.client.errors import ClientError

__all__ = ["PATCH", "apply_patch", "show_diff"]

PATCH: Final = "changes.patch"
GIT_SECONDS: Final = 120
GIT: Final = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
KEPT_LINES: Final = 20
COLOURS: Final = (
    ("+++", "1"), ("---", "1"), ("diff ", "1"), ("index ", "1"), ("@@", "36"), ("+", "32"),
    ("-", "31"),
)  # fmt: skip


async def show_diff(client: FlashpodsClient, ui: Ui, job_id: str, *, stat: bool) -> int:
    """Print the patch, or which files it changes."""
    async with _fetched(client, job_id) as patch:
        if ui.as_json:
            text = patch.read_bytes().decode("utf-8", "replace")
            ui.emit({"job_id": job_id, "files": await _files(patch), "patch": text})
        elif stat:
            for line in [] if _empty(patch) else await _git(patch.parent, "apply", "--stat", PATCH):
                print(plain(line))
        elif not ui.out_tty:
            with patch.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            colour = use_colour(ui.out_tty)
            with patch.open(encoding="utf-8", errors="replace", newline="\n") as lines:
                for line in lines:
                    print(_coloured(line.rstrip("\n"), colour=colour))
        if _empty(patch) and not ui.as_json:
            ui.note("the agent changed nothing")
    return 0


async def apply_patch(
    client: FlashpodsClient,
    ui: Ui,
    job_id: str,
    directory: Path | None,
    *,
    check: bool,
    three_way: bool,
) -> int:
    """Apply the patch to the tree, or with ``check`` only try to.

    Args:
        client: the host.
        ui: where it is told.
        job_id: the agent's job.
        directory: the tree that was pushed; None for the repository that we stand in, or here.
        check: change nothing.
        three_way: merge what does not apply as it is.

    Raises:
        ClientError: ``patch_does_not_apply`` (nothing changed), ``patch_conflicts`` (merged, with
            marks), ``artifact_not_found``, ``git_missing``, ``invalid_target``.
    """
    where, inner = await _place(directory)
    async with _fetched(client, job_id) as patch:
        files = await _files(patch)
        options = [*(["--3way"] if three_way else []), *([f"--directory={inner}"] if inner else [])]
        if files:
            await _try(where, [*options, "--check", str(patch)], "patch_does_not_apply")
        if files and not check:
            code = "patch_conflicts" if three_way else "patch_does_not_apply"
            await _try(where, [*options, "--whitespace=nowarn", str(patch)], code)
    place = where / inner
    if ui.as_json:
        applied = bool(files) and not check
        ui.emit({"job_id": job_id, "directory": str(place), "applied": applied, "files": files})
        return 0
    if not files:
        ui.note("the agent changed nothing")
    for file in files:
        counts = "binary" if file["added"] is None else f"+{file['added']} -{file['deleted']}"
        ui.note(f"{'would apply' if check else 'applied'} {plain(file['path'])} ({counts})")
    return 0


async def _try(where: Path, arguments: Sequence[str], code: str) -> None:
    try:
        await _git(where, "apply", *arguments)
    except ClientError as error:
        if error.code != "git_failed":
            raise
        said = [line.removeprefix("error: ") for line in error.details["git"]]
        hint = (
            "look for conflict marks"
            if code == "patch_conflicts"
            else "nothing was changed; commit or stash what is in the way, or try --3way"
        )
        raise ClientError(
            code, f"{'; '.join(said[:3])[:400]}; {hint}", details=error.details
        ) from error


async def _place(directory: Path | None) -> tuple[Path, str]:
    """Return where git runs, and the patch's root below that.

    In a repository git runs at its top: elsewhere it would leave out, silently, what lies outside
    of the directory that it stands in.
    """
    start = await asyncio.to_thread(Path(directory or ".").absolute)
    if not await asyncio.to_thread(start.is_dir):
        raise ClientError("invalid_target", f"{start} is no directory; name the tree with -C")
    try:
        (found,) = await _git(start, "rev-parse", "--show-toplevel")
    except (ClientError, ValueError) as error:
        if isinstance(error, ClientError) and error.code != "git_failed":
            raise
        return start, ""
    top = Path(found)
    if directory is None:
        return top, ""
    inner = await asyncio.to_thread(lambda: os.path.relpath(start.resolve(), top.resolve()))
    return top, "" if inner == "." else inner


@asynccontextmanager
async def _fetched(client: FlashpodsClient, job_id: str) -> AsyncIterator[Path]:
    """Give the patch as a file of ours, verified."""
    with TemporaryDirectory(prefix="flashpods-patch-") as directory:
        try:
            patch = await client.download(job_id, PATCH, f"{directory}/")
        except ClientError as error:
            if error.code != "artifact_not_found":
                raise
            raise ClientError(
                "artifact_not_found",
                f"job {job_id} left no {PATCH}: only agents do, unless they fail early; "
                f"see `flashpods logs {job_id}`",
                status=404,
            ) from error
        yield patch


def _empty(patch: Path) -> bool:
    return patch.stat().st_size == 0


async def _files(patch: Path) -> list[dict[str, Any]]:
    """Return each file's path with lines added and deleted (None: binary).

    Outside of any repository: in one, git would leave out what lies outside of where it stands.
    """
    if _empty(patch):
        return []
    files = []
    for row in await _git(patch.parent, "apply", "--numstat", "-z", PATCH, end="\0"):
        added, deleted, path = row.split("\t", 2)
        files.append(
            {
                "path": path,
                "added": None if added == "-" else int(added),
                "deleted": None if deleted == "-" else int(deleted),
            }
        )
    return files


async def _git(where: Path, *arguments: str, end: str = "\n") -> list[str]:
    """Run git and return what it says, ended by ``end`` each.

    Raises:
        ClientError: ``git_missing``; ``git_failed`` with its last lines in the details.
    """
    if shutil.which("git") is None:
        raise ClientError("git_missing", "git is not on the PATH; install it")
    # What a hook that we may run in says of its own repository is not meant for this one.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "FLASHPODS_"))}
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [*GIT, *arguments],
            cwd=where,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # Temporary files lie in no repository, whatever is above them.
            env={**env, "LC_ALL": "C", "GIT_CEILING_DIRECTORIES": gettempdir()},
            timeout=GIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClientError("git_failed", "git took too long", details={"git": []}) from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").splitlines()[:KEPT_LINES]
        shown = [plain(line) for line in lines]
        raise ClientError(
            "git_failed", f"git {arguments[0]}: {'; '.join(shown)[:300]}", details={"git": shown}
        )
    return [line for line in done.stdout.decode("utf-8", "replace").split(end) if line]


def _coloured(line: str, *, colour: bool) -> str:
    text = visible(line, colour=False)
    if not colour:
        return text
    code = next((code for start, code in COLOURS if text.startswith(start)), None)
    return text if code is None else f"\x1b[{code}m{text}\x1b[0m"
