"""The life of an upload: reserve, finalize, discard.

Finalize follows the rule of every act here: state first (no transfer may begin), then the act
(measure, disarm, rename), then the state (finalized). Each step finds its way after a crash.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import Final

from flashpods import failpoints
from flashpods.bulkhead import Bulkhead
from flashpods.errors import BadRequest, Conflict, Gone, InsufficientStorage, NotFound, cut
from flashpods.jobs.model import FinalTree, Upload, UploadState
from flashpods.jobs.names import PROJECT, UPLOAD_ID
from flashpods.ports import Clock, TreeTooLarge, UploadStore, Workspaces

TURN_SECONDS: Final = 30.0  # for a turn at a tree, which then has its own deadline
DELETIONS_AT_ONCE: Final = 4  # each is a process, or a thread, of its own


def check_upload_id(upload_id: str) -> str:
    """Return the id if an upload could have it; NotFound ``upload_not_found`` if not."""
    if not UPLOAD_ID.match(upload_id):
        raise NotFound(f"no upload has the id {cut(upload_id)}", code="upload_not_found")
    return upload_id


class Uploads:
    """The use cases behind ``/uploads``."""

    def __init__(
        self,
        *,
        store: UploadStore,
        workspaces: Workspaces,
        clock: Clock,
        max_bytes: int,
        total_bytes: int,
        max_files: int,
        finalize_within: timedelta,
        use_within: timedelta,
    ) -> None:
        """Build it; the bounds are those of contract section 3."""
        self._store = store
        self._workspaces = workspaces
        self._clock = clock
        self._finalize_within = finalize_within
        self._use_within = use_within
        # The total quota is read before a tree moves: two at once would both fit and pass it.
        self._finalizing = Bulkhead(
            1, seconds=TURN_SECONDS, work="other uploads are being finalized"
        )
        # Each fills the disk: two at once only slow each other.
        self._copying = Bulkhead(1, seconds=TURN_SECONDS, work="other uploads are being copied")
        self._deleting = Bulkhead(
            DELETIONS_AT_ONCE, seconds=TURN_SECONDS, work="other uploads are being deleted"
        )
        self.max_bytes = max_bytes
        self.total_bytes = total_bytes
        self.max_files = max_files

    async def reserve(self, project: object = None) -> tuple[Upload, str | None]:
        """Reserve an id.

        Returns:
            The upload, and the path of the project's base in the rsync module, if it has one.

        Raises:
            BadRequest: the project's name is not 1 to 64 characters of ``[A-Za-z0-9._-]``.
        """
        if project is not None and not (isinstance(project, str) and PROJECT.match(project)):
            raise BadRequest(
                f"project is {cut(project)}; give 1 to 64 letters, digits, dots, dashes, "
                f"underscores, beginning with a letter or digit"
            )
        name = project if isinstance(project, str) else None
        now = self._clock.now()
        failpoints.hit("reserve.before_commit")
        upload = await self._store.reserve(
            f"upload_{secrets.token_urlsafe(16)}",
            project=name,
            at=now,
            expires_at=now + self._finalize_within,
        )
        failpoints.hit("reserve.after_commit")
        return upload, await self._workspaces.base(name) if name else None

    async def get(self, upload_id: str) -> Upload:
        """Return the upload.

        Raises:
            NotFound: ``upload_not_found``.
        """
        upload = await self._store.get_upload(check_upload_id(upload_id))
        if upload is None:
            await self._adopt(upload_id)
            upload = await self._store.get_upload(upload_id)
        if upload is None:
            raise NotFound(f"there is no upload {upload_id}", code="upload_not_found")
        return upload

    async def _adopt(self, upload_id: str) -> None:
        """Give a tree in the rsync module that no row knows a row, dated by its directory."""
        for found, since in await self._workspaces.transferring():
            if found == upload_id:
                await self._store.adopt(
                    upload_id, at=since, expires_at=since + self._finalize_within
                )

    async def finalize(self, upload_id: str) -> Upload:
        """Close the upload, disarm its tree and move it out of the rsync module.

        Raises:
            NotFound: ``upload_not_found`` (no row, or no tree: nothing was pushed).
            Conflict: ``upload_in_progress``, ``upload_already_finalized``,
                ``upload_already_consumed``.
            Gone: ``upload_expired``.
            InsufficientStorage: the tree, or all finalized trees together, pass their quota; the
                upload stays open, so that a smaller tree can be pushed.
            Unavailable: others took too long before it, or the work itself did; ask again.
        """
        upload = await self.get(upload_id)
        if upload.state is UploadState.UPLOADING:
            self._refuse_cut_short(upload)
        async with self._finalizing.place():
            return await self._finalize(upload_id)

    def _refuse_cut_short(self, upload: Upload) -> None:
        """Refuse a tree whose transfer was ended for its size: part of it is missing.

        The rsync hook's watcher leaves figures above the quota in the row; no later push into it
        is let in, so they stay true.
        """
        for have, most, what in (
            (upload.size_bytes, self.max_bytes, "bytes"),
            (upload.file_count, self.max_files, "files and directories"),
        ):
            if have is not None and have > most:
                raise InsufficientStorage(
                    f"upload {upload.id} holds {have} {what}, the limit is {most}; exclude what "
                    f"the job does not need and push again under a new id",
                    details={"max_bytes": self.max_bytes, "max_files": self.max_files},
                )

    async def _finalize(self, upload_id: str) -> Upload:
        failpoints.hit("finalize.before_begin")
        await self._store.begin_finalize(upload_id, at=self._clock.now())
        failpoints.hit("finalize.after_begin")
        used = sum(u.size_bytes or 0 for u in await self._store.uploads("finalized"))
        left = max(self.total_bytes - used, 0)
        try:
            size = await self._workspaces.finalize(upload_id, max_bytes=min(self.max_bytes, left))
        except TreeTooLarge as e:
            await self._store.abort_finalize(upload_id)
            raise InsufficientStorage(
                f"upload {upload_id} is over what may be finalized now: {self.max_bytes} bytes or "
                f"{self.max_files} files and directories for one, {left} bytes left for all; "
                f"exclude what the job does not need and push again",
                details={
                    "max_bytes": self.max_bytes,
                    "max_files": self.max_files,
                    "total_left_bytes": left,
                },
            ) from e
        except (NotFound, Conflict):
            await self._store.abort_finalize(upload_id)
            raise
        failpoints.hit("finalize.after_move")
        now = self._clock.now()
        try:
            tree = FinalTree(
                at=now,
                expires_at=now + self._use_within,
                size_bytes=size.size_bytes,
                file_count=size.file_count,
                total_quota_bytes=self.total_bytes,
            )
            done = await self._store.complete_finalize(upload_id, tree)
        except InsufficientStorage:
            # Only if another process finalized meanwhile; the tree has left the module, so it goes.
            await self._store.abort_finalize(upload_id)
            await self._store.expire(upload_id, at=now)
            await self._workspaces.discard_upload(upload_id)
            raise
        failpoints.hit("finalize.after_complete")
        return done

    async def copy(self, upload_id: str) -> Upload:
        """Make a second finalized upload of the same files, for another job.

        The copy belongs to no project, counts against the quota and expires like any upload.

        Raises:
            NotFound: ``upload_not_found``.
            Conflict: ``upload_not_finalized``, ``upload_already_consumed`` (also when a job took
                the source while it was copied: no copy is left).
            Gone: ``upload_expired``.
            InsufficientStorage: all finalized uploads would pass their quota, or no room.
            Unavailable: others took too long before it, or the work itself did; no copy is left.
        """
        source = self._copyable(await self.get(upload_id))
        async with self._copying.place():
            now = self._clock.now()
            size = source.size_bytes or 0
            used = sum(u.size_bytes or 0 for u in await self._store.uploads("finalized"))
            if used + size > self.total_bytes:
                raise InsufficientStorage(
                    f"a copy of upload {upload_id} takes {size} bytes, {self.total_bytes - used} "
                    f"are left for all uploads; wait for jobs to take theirs",
                    details={"total_left_bytes": max(0, self.total_bytes - used)},
                )
            made = await self._store.reserve(
                f"upload_{secrets.token_urlsafe(16)}",
                project=None,
                at=now,
                expires_at=now + self._finalize_within,
            )
            # From here no transfer may begin in it, and the reaper knows it as being worked on.
            await self._store.begin_finalize(made.id, at=now)
            failpoints.hit("copy.after_begin")
            try:
                return await self._fill(made.id, source)
            except BaseException:
                await asyncio.shield(self._give_up(made.id))
                raise

    def _copyable(self, upload: Upload) -> Upload:
        """Return an upload that is finalized and no job's, or raise what it is instead."""
        if upload.overdue(self._clock.now()):
            raise Gone(
                f"upload {upload.id} has expired; push the files again under a new id",
                code="upload_expired",
            )
        if upload.state is UploadState.UPLOADING:
            raise Conflict(
                f"upload {upload.id} is not finalized; POST /uploads/{upload.id}/finalize first",
                code="upload_not_finalized",
            )
        if upload.state is UploadState.CONSUMED or upload.job_id is not None:
            raise Conflict(
                f"upload {upload.id} belongs to a job; copy it before a job takes it, or push "
                f"the files again",
                code="upload_already_consumed",
            )
        return upload

    async def _fill(self, made: str, source: Upload) -> Upload:
        try:
            await self._workspaces.copy(source.id, made)
        except TreeTooLarge as e:
            raise InsufficientStorage(
                f"upload {source.id} has over {self.max_files} files and directories, which the "
                f"host no longer takes; push less",
                details={"max_files": self.max_files},
            ) from e
        failpoints.hit("copy.after_copy")
        # An upload that a job has taken never becomes free again: one that is free now was free
        # all along, so what was copied is what was finalized.
        self._copyable(await self.get(source.id))
        now = self._clock.now()
        tree = FinalTree(
            at=now,
            expires_at=now + self._use_within,
            size_bytes=source.size_bytes or 0,
            file_count=source.file_count or 0,
            total_quota_bytes=self.total_bytes,
        )
        return await self._store.complete_finalize(made, tree)

    async def _give_up(self, made: str) -> None:
        await self._store.abort_finalize(made)
        await self._store.expire(made, at=self._clock.now())
        await self._workspaces.discard_upload(made)

    async def discard(self, upload_id: str) -> None:
        """Expire the upload and delete its tree; an expired one is fine.

        Raises:
            NotFound: ``upload_not_found``.
            Conflict: ``upload_already_consumed`` or ``upload_in_progress``.
            Unavailable: others took too long before it; or the deletion itself did, of an upload
                that is expired by then.
        """
        async with self._deleting.place():
            await self._discard(upload_id)

    async def _discard(self, upload_id: str) -> None:
        upload = await self.get(upload_id)
        if upload.state is not UploadState.EXPIRED:
            expired = await self._store.expire(upload_id, at=self._clock.now())
            if expired is None:
                claimed = upload.state is UploadState.CONSUMED or upload.job_id is not None
                raise Conflict(
                    f"upload {upload_id} "
                    + ("belongs to a job" if claimed else "is being written to")
                    + "; it can't be deleted now",
                    code="upload_already_consumed" if claimed else "upload_in_progress",
                )
        failpoints.hit("discard.after_expire")
        await self._workspaces.discard_upload(upload_id)
        failpoints.hit("discard.after_delete")
