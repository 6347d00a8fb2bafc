"""What git would ignore in a tree, as rsync patterns: asked of git itself.

rsync's own ``:- .gitignore`` filter reads another language: it takes ``!keep`` for "forget all
rules", knows no ``.git/info/exclude`` and no global excludes, and leaves out tracked files. git
lists what it ignores instead, whole directories as one name (``git-ls-files(1)``, ``--directory``),
so the list stays short and a file that appears meanwhile is still pushed. Repositories within the
tree, submodules too, have rules of their own and are asked each.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from flashpods.client.errors import UploadError

__all__ = ["ignored_patterns", "to_pattern"]

GIT_SECONDS: Final = 120.0
MAX_LIST_BYTES: Final = 64 << 20
MAX_REPOSITORIES: Final = 1000

# Nothing of the repository's own configuration is executed (fsmonitor would be).
_GIT: Final = ("git", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false")
_LIST: Final = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
_WILD: Final = re.compile(r"([\\*?\[])")


async def ignored_patterns(source: Path) -> list[str]:
    """Return one anchored rsync pattern for each file or directory beneath that git ignores.

    Args:
        source: an absolute directory in a repository's work tree.

    Raises:
        UploadError: ``git_missing``, ``not_a_repository``, or ``git_failed`` with git's words.
    """
    if shutil.which("git") is None:
        raise UploadError("git_missing", "git is not on the PATH; install it, or push without it")
    found: list[bytes] = []
    pending = [b""]
    repositories = 0
    while pending:
        inner = pending.pop()
        repositories += 1
        if repositories > MAX_REPOSITORIES:
            raise UploadError(
                "git_failed", f"{source} holds over {MAX_REPOSITORIES} repositories; exclude some"
            )
        place = Path(os.fsdecode(os.path.join(os.fsencode(source), inner)))  # noqa: PTH118 - bytes
        names = await _list(place)
        if b"./" in names:
            raise UploadError(
                "not_a_repository",
                f"git ignores {place} as a whole; push it without asking git",
            )
        found += [inner + name for name in names]
        skip = {name.rstrip(b"/") for name in names if name.endswith(b"/")}
        nested = await asyncio.to_thread(_repositories, os.fsencode(place), skip)
        pending += [inner + name + b"/" for name in nested]
    return [to_pattern(os.fsdecode(name)) for name in found]


def to_pattern(name: str) -> str:
    """Return the rsync pattern that matches this path from the tree's top, and no other.

    In rsync(1), "PATTERN MATCHING RULES", a backslash escapes only if a wildcard is there.
    """
    if any(c in name for c in "*?["):
        name = _WILD.sub(r"\\\1", name)
    return f"/{name}"


async def _list(place: Path) -> list[bytes]:
    # Variables of a hook that we may run in name another repository.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "FLASHPODS_"))}
    process = await asyncio.create_subprocess_exec(
        *_GIT,
        *_LIST,
        cwd=place,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**env, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(GIT_SECONDS):
            output, errors = await asyncio.gather(
                _bounded(process.stdout, MAX_LIST_BYTES), _bounded(process.stderr, 65536)
            )
            code = await process.wait()
    except TimeoutError as error:
        raise UploadError(
            "git_failed", f"git ls-files in {place} took over {GIT_SECONDS:.0f} s"
        ) from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code == 0:
        return [name for name in output.split(b"\0") if name]
    said = next(iter(errors.decode("utf-8", "replace").splitlines()), "").removeprefix("fatal: ")
    if "not a git repository" in said:
        raise UploadError(
            "not_a_repository",
            f"{place} is in no git repository, so nothing says what is ignored; "
            "push it without asking git",
        )
    raise UploadError("git_failed", f"git ls-files in {place}: {said[:300] or f'code {code}'}")


async def _bounded(stream: asyncio.StreamReader, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(1 << 18):
        size += len(chunk)
        if size > most:
            raise UploadError(
                "git_failed", f"git lists over {most} bytes of ignored names; exclude them yourself"
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _repositories(top: bytes, skip: Sequence[bytes] | set[bytes]) -> list[bytes]:
    """Return the repositories beneath, nearest only, without those in a directory of ``skip``."""
    found: list[bytes] = []
    pending = [b""]
    while pending:
        inner = pending.pop()
        try:
            with os.scandir(os.path.join(top, inner)) as entries:  # noqa: PTH118 - bytes
                for entry in entries:
                    name = inner + entry.name
                    if (
                        entry.name == b".git"
                        or name in skip
                        or not entry.is_dir(follow_symlinks=False)
                    ):
                        continue
                    if os.path.lexists(os.path.join(entry.path, b".git")):  # noqa: PTH118 - bytes
                        found.append(name)
                    else:
                        pending.append(name + b"/")
        except OSError:
            continue  # what can't be read rsync will tell of
    return found
