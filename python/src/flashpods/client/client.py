"""The one client of the host: what the CLI and the MCP server are made of."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from flashpods.client import download as downloads
from flashpods.client import push as pushes
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, DownloadError
from flashpods.client.extract import extract as unpack
from flashpods.client.follow import RECONNECTS, follow
from flashpods.client.http import Http, OnRetry, Sleep
from flashpods.client.models import Artifact, Capacity, CreatedJob, Job, JobList, Output, Upload
from flashpods.client.rsync import OnProgress

__all__ = ["FlashpodsClient"]

LATE_SECONDS: Final = 5.0  # that an answer may come after the time that it was to wait
LONGEST_WAIT: Final = 60  # the API's own limit for ?wait=


class FlashpodsClient:
    """An asynchronous client; use it as a context manager.

    Every method raises :class:`~flashpods.client.errors.ClientError` with the host's code, or
    :class:`~flashpods.client.errors.HostUnreachable`, after the retries of the contract's table.
    A cancelled call leaves no child process and no file behind; it never ends a job.

        async with FlashpodsClient(ClientConfig.load()) as client:
            upload = await client.push(".")
            job = await client.create_job(
                type="worker", command="make test", files_id=upload.upload_id
            )
            async for text, _ in client.follow(job.job_id):
                print(text, end="")
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        on_retry: OnRetry | None = None,
    ) -> None:
        """Build it; see :class:`~flashpods.client.http.Http` for the arguments."""
        self.config = config
        self._http = Http(
            config, transport=transport, sleep=sleep, jitter=jitter, on_retry=on_retry
        )

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._http.aclose()

    # --- uploads ---

    async def create_upload(self, project: str | None = None) -> Upload:
        """Reserve an upload, to push to by other means than :meth:`push`."""
        return await pushes.create_upload(self._http, project)

    async def finalize(self, upload_id: str) -> Upload:
        """Close an upload to further writing, so that a job can use it."""
        return await pushes.finalize(self._http, upload_id)

    async def delete_upload(self, upload_id: str) -> None:
        """Give an upload up; its own expiry removes what can't be deleted now."""
        await pushes.delete_upload(self._http, upload_id)

    async def copy_upload(self, upload_id: str) -> Upload:
        """Make a second finalized upload of the same files on the host, for another job."""
        return await pushes.copy_upload(self._http, upload_id)

    async def discard_upload(self, upload_id: str) -> None:
        """Delete an upload and its tree.

        Raises:
            ClientError: ``upload_not_found``, ``upload_in_progress``, ``upload_already_consumed``.
        """
        await pushes.discard_upload(self._http, upload_id)

    async def push(
        self,
        path: str | Path,
        *,
        exclude: Sequence[str] | None = None,
        project: str | None = None,
        gitignore: bool | None = None,
        progress: OnProgress | None = None,
    ) -> Upload:
        """Push a directory with rsync and finalize it.

        Args:
            path: the directory.
            exclude: rsync patterns; None takes the configuration's ``default_exclude``.
            project: a name whose next push sends only what changed since this one.
            gitignore: leave out what git ignores too; the directory must be in a repository. None
                takes the configuration's ``gitignore``, for directories that are in one.
            progress: is told how far it is.

        Raises:
            UploadError: ``upload_disk_full``, ``upload_failed``, ``rsync_missing``,
                ``rsync_too_old``, ``invalid_local_path``; with ``gitignore`` also ``git_missing``,
                ``not_a_repository``, ``git_failed``.
        """
        patterns = self.config.default_exclude if exclude is None else exclude
        return await pushes.push(
            self._http,
            path,
            exclude=patterns,
            project=project,
            gitignore=self._gitignore(gitignore),
            on_progress=progress,
        )

    def _gitignore(self, asked: bool | None) -> pushes.Gitignore:
        if asked is None:
            configured = self.config.gitignore
            return pushes.Gitignore.WHERE_GIT if configured else pushes.Gitignore.NO
        return pushes.Gitignore.YES if asked else pushes.Gitignore.NO

    async def get_upload(self, upload_id: str) -> Upload:
        """Return an upload as it is now.

        Raises:
            ClientError: ``upload_not_found`` (404).
        """
        return await pushes.get_upload(self._http, upload_id)

    # --- jobs ---

    async def create_job(self, **fields: Any) -> CreatedJob:
        """Create a job; the fields are those of ``POST /jobs``, None is left out.

        Every retry carries the same ``client_job_id`` (made here unless given), so an answer that
        was lost never makes a second job.
        """
        body = {key: value for key, value in fields.items() if value is not None}
        key = str(body.setdefault("client_job_id", str(uuid.uuid4())))
        answer = await self._http.json("POST", "/jobs", body=body)
        return CreatedJob.from_json(answer.body, key)

    async def get_job(
        self, job_id: str, wait: float | None = None, since: Job | None = None
    ) -> Job:
        """Return the job; with ``wait`` (seconds, at most 60) as soon as its state changes.

        With ``since``, the job as it was last seen, a change that came before this call is not
        missed: the answer comes at once.
        """
        return await self._get_job(job_id, wait, since)

    async def _get_job(
        self, job_id: str, wait: float | None, since: Job | None, network_limit: int | None = None
    ) -> Job:
        params: dict[str, Any] = {}
        read_seconds = 30.0
        if wait is not None:
            params["wait"] = max(0, min(LONGEST_WAIT, int(wait)))
            read_seconds += params["wait"]
            if since is not None and since.revision is not None:
                params["since"] = since.revision
        answer = await self._http.json(
            "GET",
            _job_path(job_id),
            params=params,
            read_seconds=read_seconds,
            network_limit=network_limit,
        )
        return Job.from_json(answer.body)

    async def jobs(
        self,
        status: str | Sequence[str] | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> JobList:
        """Return one page of jobs, newest first; ``status`` is all, active or any states."""
        params: dict[str, Any] = {"limit": limit}
        if status is not None:
            params["status"] = [status] if isinstance(status, str) else list(status)
        if cursor is not None:
            params["cursor"] = cursor
        return JobList.from_json((await self._http.json("GET", "/jobs", params=params)).body)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask for the job's end; returns ``{"job_id", "status"}``.

        A job that is cancelled already is no error: it is what a retry after a lost answer finds.

        Raises:
            ClientError: ``job_already_terminal`` (409) if the job ended by itself.
        """
        try:
            answer = await self._http.json("DELETE", _job_path(job_id))
        except ClientError as error:
            if error.code != "job_already_terminal":
                raise
            job = await self.get_job(job_id)
            if job.status != "cancelled":
                raise
            return {"job_id": job.id, "status": job.status}
        return answer.body

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Return the job once it has ended, or as it is after ``timeout`` seconds.

        Once the host has answered, a time without it is sat out: some three minutes, as
        :meth:`follow` does.
        """
        clock = asyncio.get_running_loop().time
        give_up = None if timeout is None else clock() + timeout
        job = await self.get_job(job_id)
        while not job.terminal:
            left = LONGEST_WAIT if give_up is None else give_up - clock()
            if left <= 0:
                return job
            began = clock()
            before = job
            until = None if give_up is None else max(1, left) + LATE_SECONDS
            try:
                async with asyncio.timeout(until):
                    job = await self._get_job(job_id, max(1, left), before, RECONNECTS)
            except TimeoutError:
                return job  # the host is away; this is how it was seen last
            same = (job.status, job.phase) == (before.status, before.phase)
            if same and clock() - began < 0.5:
                await self._http.sleep(min(1.0, left))  # a host that does not wait is not hammered
        return job

    # --- output and artifacts ---

    async def output(self, job_id: str, tail: int = 100) -> Output:
        """Return the last ``tail`` lines (1 to 10 000) of the job's log."""
        path = f"{_job_path(job_id)}/output"
        return Output.from_json((await self._http.json("GET", path, params={"tail": tail})).body)

    async def read_output(self, job_id: str, offset: int = 0, limit: int = 1 << 20) -> Output:
        """Return a page of the log: whole lines from byte ``offset`` on, about ``limit`` bytes."""
        path = f"{_job_path(job_id)}/output"
        params = {"offset": offset, "limit": limit}
        return Output.from_json((await self._http.json("GET", path, params=params)).body)

    async def follow(
        self, job_id: str, since: int | None = None
    ) -> AsyncGenerator[tuple[str, int], None]:
        """Yield ``(text, cursor)`` from ``since`` on until the job has ended and all was sent.

        ``text`` is whole lines. A cut connection or a restarted API loses and doubles nothing.
        """
        async with aclosing(follow(self._http, _job_path(job_id), since)) as pieces:
            async for piece in pieces:
                yield piece

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """Return what the job left in ``/artifacts``."""
        answer = await self._http.json("GET", f"{_job_path(job_id)}/artifacts")
        items = answer.body.get("artifacts")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ClientError("invalid_answer", "the host's answer has no list of artifacts")
        return [Artifact.from_json(item) for item in items]

    async def download(
        self,
        job_id: str,
        name: str,
        dest: str | Path,
        *,
        extract: bool = False,
        within: str | Path | None = None,
        artifact: Artifact | None = None,
        progress: downloads.OnBytes | None = None,
    ) -> Path:
        """Bring an artifact home, verified; returns its path.

        A directory is saved as ``<name>.tar``, or with ``extract`` unpacked to ``<name>``.

        Args:
            job_id: the job.
            name: the artifact's name.
            dest: a directory to put it into, or the file; see :func:`~.target.open_target`.
            extract: unpack a directory.
            within: a directory that ``dest`` may not leave, not even by a symbolic link on the way.
            artifact: its row, if :meth:`artifacts` was asked already.
            progress: is told bytes so far and bytes in all (None for a directory).

        Raises:
            DownloadError: ``invalid_artifact_name``, ``invalid_target``, ``checksum_mismatch``,
                ``unsafe_archive``, ``download_failed``, ``download_disk_full``.
        """
        downloads.check_name(name)
        path = _job_path(job_id)
        row = artifact or await self._find(job_id, name)
        as_tree = extract and row.type == "directory"
        file_name = f"{name}.tar" if row.type == "directory" and not extract else name
        try:
            with (
                closing(
                    downloads.open_target(dest, downloads.check_name(file_name), within)
                ) as target,
                closing(downloads.PartFile(target)) as part,
            ):
                await downloads.download_to(self._http, f"{path}/artifacts", row, part, progress)
                if as_tree:
                    await asyncio.to_thread(unpack, part, target, name, row.size_bytes)
                else:
                    await asyncio.to_thread(part.keep, target.name)
        except OSError as error:
            raise DownloadError(
                "invalid_target", f"cannot write to {dest}: {error.strerror}"
            ) from error
        return target.path

    async def _find(self, job_id: str, name: str) -> Artifact:
        for artifact in await self.artifacts(job_id):
            if artifact.name == name:
                return artifact
        raise ClientError(
            "artifact_not_found", f"the job has no artifact {name[:80]!r}", status=404
        )

    # --- the host ---

    async def capacity(self) -> Capacity:
        """Return what the host offers to jobs and what is free."""
        return Capacity.from_json((await self._http.json("GET", "/capacity")).body)

    @property
    def clock_skew(self) -> float | None:
        """Seconds that this machine's clock is ahead of the host's, by its last answer."""
        return self._http.clock_skew

    async def health(self) -> dict[str, Any]:
        """Return the host's health; a degraded host is an answer, not an error."""
        answer = await self._http.json("GET", "/health", accept=frozenset({503}))
        return answer.body


def _job_path(job_id: str) -> str:
    if not job_id or len(job_id) > 255 or job_id in {".", ".."}:
        raise ClientError("job_not_found", f"{job_id[:80]!r} is no job's id")
    return f"/jobs/{quote(job_id, safe='')}"
