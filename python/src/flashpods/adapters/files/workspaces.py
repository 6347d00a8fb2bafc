"""Trees on their way from the rsync module to a job: three directories, moves are renames.

``transfers`` is the rsync module's root and belongs to the user of rsync, a subordinate id of
ours, so what is done there runs in a user namespace (:mod:`tree_tool`). Where the module belongs
to us (a development stack run as root) the same functions run in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

from flashpods.adapters.files import tree_copy, tree_tool
from flashpods.adapters.files.ids import is_job_id, is_upload_id
from flashpods.adapters.files.offload import (
    discard_idle_tree,
    discard_tree,
    in_namespace,
    in_thread,
    ours,
    storage,
)
from flashpods.adapters.files.trees import ASIDE, SPARE, TooLarge
from flashpods.config_base import ConfigError
from flashpods.errors import Conflict, NotFound, cut
from flashpods.jobs.names import PROJECT, UPLOAD_ID, job_id
from flashpods.ports import TreeSize, TreeTooLarge

DEFAULT_SECONDS = 120.0
MOST_ENTRIES = 1_000_000
MOST_LISTED = 100_000


class FileWorkspaces:
    """The real :class:`flashpods.ports.Workspaces`."""

    def __init__(
        self,
        transfers: Path,
        finalized: Path,
        work: Path,
        *,
        seconds: float = DEFAULT_SECONDS,
        most_entries: int = MOST_ENTRIES,
    ) -> None:
        """Build it; nothing is touched yet.

        Args:
            transfers: the root of the rsync module.
            finalized: where finalized trees are, ours alone.
            work: where the jobs' workspaces are, ours alone.
            seconds: the deadline of each call.
            most_entries: files, links and directories a tree may have.
        """
        self._transfers = transfers
        self._finalized = finalized
        self._work = work
        self._seconds = seconds
        self._most = most_entries

    def check(self) -> None:
        """Prove that trees can be moved by rename.

        Raises:
            ConfigError: a directory is missing or not ours to use, or the three are not one mount
                of one file system, or the tools for foreign files are missing.
        """
        seen = {
            "transfers": _mount_of("transfers", self._transfers),
            "finalized": _mount_of("finalized", self._finalized),
            "work": _mount_of("work", self._work),
        }
        if len(set(seen.values())) > 1:
            raise ConfigError(
                f"paths.transfers {self._transfers}, paths.finalized {self._finalized} and "
                f"paths.work {self._work} must be one mount of one file system: trees are moved "
                f"by rename"
            )
        for key, path in (("finalized", self._finalized), ("work", self._work)):
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise ConfigError(f"paths.{key} {path}: not ours to write; chown it to flashpods")
        if not ours(self._transfers):
            for tool in ("unshare", "newuidmap", "newgidmap"):
                if shutil.which(tool) is None:
                    raise ConfigError(
                        f"paths.transfers {self._transfers} belongs to the user of rsync, and "
                        f"{tool} is not on PATH; install util-linux and uidmap"
                    )
            try:
                tree_tool.command()
            except OSError as e:
                raise ConfigError(
                    f"paths.transfers {self._transfers} belongs to the user of rsync: {e.strerror}"
                ) from e

    async def finalize(self, upload_id: str, *, max_bytes: int) -> TreeSize:
        """See :meth:`flashpods.ports.Workspaces.finalize`.

        Raises:
            Conflict: ``upload_in_progress``, a process still has a file of it open for writing.
            InsufficientStorage: no room to rewrite a link.
            Unavailable, OSError: a repeated call continues.
        """
        if not UPLOAD_ID.match(upload_id):
            raise _no_upload(upload_id)
        where = (str(self._transfers), str(self._finalized), upload_id)
        try:
            if ours(self._transfers) and ours(self._transfers / upload_id):
                size, count = await in_thread(
                    self._seconds, tree_tool.finalize, *where, max_bytes, self._most
                )
            else:
                size, count = await in_namespace(
                    self._seconds, "finalize", *where, str(max_bytes), str(self._most)
                )
        except TooLarge:
            raise TreeTooLarge(upload_id) from None
        except FileNotFoundError:
            raise _no_upload(upload_id) from None
        except OSError as e:
            if e.errno == errno.ETXTBSY:
                raise Conflict(
                    f"upload {upload_id} is still being written to; wait, then finalize again",
                    code="upload_in_progress",
                ) from e
            raise storage(e, f"upload {upload_id}") from e
        return TreeSize(size_bytes=size, file_count=count)

    async def copy(self, upload_id: str, target_id: str) -> None:
        """See :meth:`flashpods.ports.Workspaces.copy`. Raises Unavailable, OSError too."""
        if not (UPLOAD_ID.match(upload_id) and UPLOAD_ID.match(target_id)):
            raise _no_upload(upload_id)
        # A finalized tree is ours alone: no namespace is needed.
        where = (str(self._finalized), upload_id, target_id)
        try:
            await in_thread(self._seconds, tree_copy.copy, *where, self._most)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_upload(upload_id) from None
        except TooLarge:
            raise TreeTooLarge(upload_id) from None
        except OSError as e:
            raise storage(e, f"a copy of upload {upload_id}") from e

    async def claim(self, upload_id: str | None, job: str) -> Path | None:
        """See :meth:`flashpods.ports.Workspaces.claim`. Raises InsufficientStorage, OSError."""
        target = self._work / job_id(job)
        source = None
        if upload_id is not None:
            if not UPLOAD_ID.match(upload_id):
                return None
            source = self._finalized / upload_id
        try:
            return await asyncio.to_thread(_claim, source, target)
        except OSError as e:
            raise storage(e, f"the workspace of job {job}") from e

    async def discard_upload(self, upload_id: str) -> None:
        """See :meth:`flashpods.ports.Workspaces.discard_upload`. Raises Unavailable, OSError."""
        if not UPLOAD_ID.match(upload_id):
            return
        for parent in (self._transfers, self._finalized):
            if _left(parent, upload_id):
                await discard_tree(self._seconds, parent, upload_id)

    async def discard(self, job: str) -> bool:
        """See :meth:`flashpods.ports.Workspaces.discard`. Raises Unavailable, OSError."""
        if not _left(self._work, job_id(job)):
            return True
        return await discard_idle_tree(self._seconds, self._work, job)

    async def keep_as_base(self, job: str, project: str, *, keep: int) -> None:
        """See :meth:`flashpods.ports.Workspaces.keep_as_base`.

        A project that can't be a directory's name keeps no base. Raises Unavailable, OSError.
        """
        job_id(job)
        if not PROJECT.match(project) or not _there(self._work / job):
            return
        where = (str(self._work), job, str(self._transfers), project)
        try:
            if ours(self._transfers):
                await in_thread(self._seconds, tree_tool.keep, *where, bases=keep, most=self._most)
            else:
                await in_namespace(self._seconds, "keep", *where, str(keep), str(self._most))
        except TooLarge:
            await self.discard(job)  # too many entries to be worth keeping

    async def base(self, project: str) -> str | None:
        """See :meth:`flashpods.ports.Workspaces.base`."""
        if not PROJECT.match(project):
            return None
        path = self._transfers / tree_tool.BASES / project
        return f"/{tree_tool.BASES}/{project}" if await asyncio.to_thread(_is_tree, path) else None

    async def transferring(self) -> list[tuple[str, datetime]]:
        """See :meth:`flashpods.ports.Workspaces.transferring`.

        The date is the inode's last change: the modification time is the client's to choose.
        """
        return await asyncio.to_thread(_dated, self._transfers)

    async def finalized(self, *, before: datetime | None = None) -> list[str]:
        """See :meth:`flashpods.ports.Workspaces.finalized`; half deleted trees too.

        A tree's date is its inode's last change, which the rename into the directory is.
        """
        dated = await asyncio.to_thread(_dated, self._finalized)
        return [name for name, at in dated if before is None or at < before]

    async def claimed(self) -> list[str]:
        """See :meth:`flashpods.ports.Workspaces.claimed`; half deleted trees too."""
        return [n for n in await asyncio.to_thread(_names, self._work) if is_job_id(n)]

    async def sweep_spares(self, *, before: datetime) -> int:
        """See :meth:`flashpods.ports.Workspaces.sweep_spares`. Raises OSError."""
        return await asyncio.to_thread(_sweep_spares, (self._finalized, self._work), before)

    async def drop_bases(self, *, before: datetime) -> int:
        """See :meth:`flashpods.ports.Workspaces.drop_bases`. Raises Unavailable, OSError.

        A base comes by rename and its owner's change, so its inode's last change is when; its
        modification time is the client's to choose. One that is deleted while a transfer reads it
        costs that transfer time, no file.
        """
        shelf = self._transfers / tree_tool.BASES
        dropped = 0
        for name in await asyncio.to_thread(_names, shelf):
            # Each when its turn comes: a new one may have taken the name meanwhile.
            if await asyncio.to_thread(_old_base, shelf, name, before):
                dropped += await discard_idle_tree(self._seconds, shelf, name)
        return dropped


def _no_upload(upload_id: str) -> NotFound:
    return NotFound(
        f"upload {cut(upload_id)} has no tree; push it with rsync first", code="upload_not_found"
    )


def _mount_of(key: str, path: Path) -> tuple[int, str]:
    """Return (device, mount id): two mounts of one file system do not rename either (rename(2))."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise ConfigError(f"paths.{key} {path}: {e.strerror}") from e
    try:
        about = Path(f"/proc/self/fdinfo/{fd}").read_text()
        mount = next(line for line in about.splitlines() if line.startswith("mnt_id:"))
        return os.fstat(fd).st_dev, mount
    finally:
        os.close(fd)


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def _left(parent: Path, name: str) -> bool:
    """Whether there is something to delete; a child that finds nothing would cost 60 ms."""
    return _there(parent / name) or _there(parent / (ASIDE + name))


def _is_tree(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _claim(source: Path | None, target: Path) -> Path | None:
    if source is None:
        target.mkdir(mode=0o755, exist_ok=True)
        return target
    try:
        source.rename(target)
    except FileNotFoundError:
        return target if _is_tree(target) else None  # claimed before, or nowhere
    except OSError as e:
        if e.errno in {errno.ENOTEMPTY, errno.EEXIST} and _is_tree(target):
            return target
        raise
    return target


def _names(parent: Path) -> list[str]:
    """Return the names in a directory, those on their way out included, sorted; bounded."""
    names: set[str] = set()
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                names.add(entry.name.removeprefix(ASIDE))
                if len(names) >= MOST_LISTED:
                    break
    except FileNotFoundError:
        return []
    return sorted(names)


def _dated(parent: Path) -> list[tuple[str, datetime]]:
    """Return (upload id, its tree's last change) of the trees in a directory."""
    dated = []
    for name in filter(is_upload_id, _names(parent)):
        at = _changed(parent / name) or _changed(parent / (ASIDE + name))
        if at is not None:
            dated.append((name, at))
    return dated


def _changed(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.lstat().st_ctime, UTC)
    except FileNotFoundError:
        return None


def _sweep_spares(parents: tuple[Path, ...], before: datetime) -> int:
    swept = 0
    for parent in parents:
        for name in _names(parent):
            key = name.removeprefix(SPARE)
            if key == name or not (is_upload_id(key) or is_job_id(key)):
                continue
            at = _changed(parent / name)
            if at is not None and at < before:
                (parent / name).unlink(missing_ok=True)
                swept += 1
    return swept


def _old_base(shelf: Path, name: str, before: datetime) -> bool:
    """Whether a name is an old base's, or of what was left of one on its way out."""
    if not PROJECT.match(name.removeprefix(tree_tool.FORMER)):
        return False
    at = _changed(shelf / name) or _changed(shelf / (ASIDE + name))
    return at is not None and at < before
