"""``flashpods run``: push, create, follow, fetch, and end as the job ended.

Ctrl-C does what it does to a command that runs here: the job is cancelled, its last output is
shown, and a second ctrl-C leaves without waiting for that. With ``--detach-on-interrupt`` the
first one leaves the job running. A terminal that is closed, or a laptop that dies, leaves it
running too.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from flashpods.cli.bars import download_bar, upload_bar
from flashpods.cli.session import (
    EXIT_INTERRUPTED,
    EXIT_RUN_FAILED,
    EXIT_TIMED_OUT,
    EXIT_USAGE,
    Command,
    Ui,
    execute,
)
from flashpods.cli.units import human_bytes, human_seconds
from flashpods.client.client import FlashpodsClient
from flashpods.client.errors import ClientError, ConfigError, HostUnreachable
from flashpods.client.models import CreatedJob, Job, Upload
from flashpods.client.project import default_project
from flashpods.client.rsync import OnProgress
from flashpods.client.target import ARTIFACTS_DIR, held_within

__all__ = [
    "PushOptions",
    "RunOptions",
    "default_project",
    "execute_job",
    "execute_run",
    "exit_code",
    "push_tree",
    "run_job",
]

LAST_REQUEST_SECONDS: Final = 5.0
CANCELLED: Final = 128 + signal.SIGTERM

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """What a command line says of the tree to push."""

    directory: Path
    exclude: list[str]
    default_exclude: bool = True
    with_git: bool = False  # an agent works on the repository, not on the files alone
    gitignore: bool | None = None
    project: str | None = None

    def patterns(self, defaults: Sequence[str]) -> list[str]:
        """Return the rsync patterns to leave out; ``defaults`` are the configuration's."""
        mine = [
            p
            for p in (defaults if self.default_exclude else ())
            if not (self.with_git and p == ".git")
        ]
        return [*mine, f"/{ARTIFACTS_DIR}", *self.exclude]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line of ``run`` or ``agent`` says; ``fields`` are those of the job."""

    fields: dict[str, Any]
    push: PushOptions | None  # None: no files
    upload_id: str | None = None
    artifacts: Path | None = None  # None: flashpods-artifacts/<job id>
    fetch_artifacts: bool = True
    detach: bool = False
    detach_on_interrupt: bool = False
    timestamps: bool = True


class _Interrupted(Exception):
    """Ctrl-C came while something could still be taken back."""


@dataclass(slots=True)
class _Interrupts:
    """Counts SIGINT and SIGTERM while it is installed."""

    first: asyncio.Event = field(default_factory=asyncio.Event)
    second: asyncio.Event = field(default_factory=asyncio.Event)

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.hit)

    def remove(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def hit(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def exit_code(job: Job) -> int:
    """Return what ``run`` exits with for a job that has ended."""
    if job.status == "timed_out":
        return EXIT_TIMED_OUT
    code = job.exit_code
    if job.status == "cancelled":
        return code or CANCELLED
    if job.status == "failed":
        return code or EXIT_RUN_FAILED  # no code, or 0 with an error: not the command's failure
    return 0 if code is None else code


def execute_run(options: RunOptions, *, as_json: bool) -> int:
    """Run the command against the configured host; return the process's exit code."""
    return execute_job(lambda client, ui: run_job(client, ui, options), as_json=as_json)


def execute_job(command: Command, *, as_json: bool) -> int:
    """Run what ends with a job's exit code: no failure of ours may look like the job's."""
    return execute(
        command,
        as_json=as_json,
        overrides={ConfigError: EXIT_USAGE, ClientError: EXIT_RUN_FAILED},
    )


async def push_tree(
    client: FlashpodsClient, ui: Ui, options: PushOptions, on_progress: OnProgress | None
) -> Upload:
    """Push what the options say, and tell how much that was."""
    upload = await client.push(
        options.directory,
        exclude=options.patterns(client.config.default_exclude),
        project=options.project or default_project(options.directory),
        gitignore=options.gitignore,
        progress=on_progress,
    )
    size = human_bytes(upload.size_bytes or 0)
    sent = "" if upload.sent_bytes is None else f", {human_bytes(upload.sent_bytes)} sent"
    ui.note(f"uploaded {upload.file_count} files, {size}{sent}")
    return upload


async def run_job(client: FlashpodsClient, ui: Ui, options: RunOptions) -> int:
    """Run the command and return the exit code."""
    interrupts = _Interrupts()
    interrupts.install()
    try:
        return await _Run(client, ui, options, interrupts).go()
    except _Interrupted:
        return EXIT_INTERRUPTED
    finally:
        interrupts.remove()


class _Run:
    def __init__(
        self, client: FlashpodsClient, ui: Ui, options: RunOptions, interrupts: _Interrupts
    ) -> None:
        self._client = client
        self._ui = ui
        self._options = options
        self._interrupts = interrupts

    async def go(self) -> int:
        upload = await self._push()
        job = await self._create(upload)
        if self._options.detach:
            if self._ui.as_json:
                self._ui.emit({**job.raw, "upload": None if upload is None else upload.raw})
            else:
                print(job.job_id)
            return 0
        try:
            if not await self._follow(job.job_id):
                return EXIT_INTERRUPTED
            ended = await self._until(self._interrupts.second, self._client.wait(job.job_id))
        except HostUnreachable as error:
            error.details["job_id"] = job.job_id
            self._ui.note(f"job {job.job_id} goes on: `flashpods attach {job.job_id}`")
            raise
        if ended is None:
            return self._leave(job.job_id)
        if self._interrupts.first.is_set():
            self._finish(ended, upload, [], EXIT_INTERRUPTED)
            return EXIT_INTERRUPTED
        paths, whole = await self._fetch(ended)
        code = exit_code(ended)
        if not whole and code == 0:
            code = EXIT_RUN_FAILED
        self._finish(ended, upload, paths, code)
        return code

    async def _until(self, event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of ``work``, or None if the event comes first: then it is cancelled."""
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            watch.cancel()
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, ClientError):
                    await task

    async def _push(self) -> Upload | None:
        options = self._options.push
        if options is None:
            return None
        with upload_bar(self._ui) as on_progress:
            upload = await self._until(
                self._interrupts.first, push_tree(self._client, self._ui, options, on_progress)
            )
        if upload is None:
            raise _Interrupted
        return upload

    async def _create(self, upload: Upload | None) -> CreatedJob:
        files = self._options.upload_id if upload is None else upload.upload_id
        task = asyncio.ensure_future(
            self._client.create_job(**self._options.fields, files_id=files)
        )
        try:
            job = await self._until(self._interrupts.first, _shielded(task))
        except HostUnreachable:
            self._ui.note("the host may have made the job all the same: look with `flashpods ps`")
            raise
        if job is None:
            await self._take_back(task)
            raise _Interrupted
        for warning in job.warnings:
            self._ui.note(f"warning: {warning}")
        self._ui.note(f"job {job.job_id}")
        return job

    async def _take_back(self, task: asyncio.Task[CreatedJob]) -> None:
        """Ctrl-C came while the job was asked for: learn whether it is there, and cancel it."""
        done, _ = await asyncio.wait({task}, timeout=LAST_REQUEST_SECONDS)
        if not done:
            task.cancel()
            with suppress(asyncio.CancelledError, ClientError):
                await task
            self._ui.note("the host did not answer: look with `flashpods ps` for a job left there")
            return
        with suppress(ClientError):
            await self._cancel(task.result().job_id)

    async def _cancel(self, job_id: str) -> None:
        try:
            async with asyncio.timeout(LAST_REQUEST_SECONDS * 2):
                await self._client.cancel(job_id)
        except TimeoutError:
            self._ui.note(f"the host did not answer: try `flashpods kill {job_id}`")
        except ClientError as error:
            if error.code != "job_already_terminal":
                self._ui.note(f"could not cancel: {error}; try `flashpods kill {job_id}`")

    async def _follow(self, job_id: str) -> bool:
        """Show the output to its end; False if the user left before."""
        writer = self._ui.log_writer(
            timestamps=self._options.timestamps, to_stderr=self._ui.as_json
        )
        task = asyncio.ensure_future(_copy(self._client, job_id, writer.write))
        try:
            finished = await self._until(self._interrupts.first, _shielded(task))
            if finished is not None:
                return True
            if self._options.detach_on_interrupt:
                self._leave(job_id)
                return False
            self._ui.note(f"cancelling job {job_id} (ctrl-C again leaves without waiting)")
            await self._until(self._interrupts.second, self._cancel(job_id))
            if await self._until(self._interrupts.second, _shielded(task)) is None:
                self._leave(job_id)
                return False
            return True
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, ClientError):
                    await task

    def _leave(self, job_id: str) -> int:
        self._ui.note(
            f"left job {job_id}; `flashpods logs -f {job_id}` follows it, "
            f"`flashpods kill {job_id}` ends it"
        )
        return EXIT_INTERRUPTED

    async def _fetch(self, job: Job) -> tuple[list[Path], bool]:
        """Bring the artifacts home; return where they are, and whether all came."""
        if not self._options.fetch_artifacts:
            return [], True
        interrupted = self._interrupts.first
        listed = await self._until(interrupted, self._client.artifacts(job.id))
        if listed is None:
            raise _Interrupted
        if not listed:
            return [], True
        directory = self._options.artifacts or Path(ARTIFACTS_DIR) / job.id
        paths: list[Path] = []
        for artifact in listed:
            with download_bar(self._ui, artifact.name) as on_bytes:
                path = await self._until(
                    interrupted, self._download(job.id, artifact.name, directory, on_bytes)
                )
            if interrupted.is_set():
                raise _Interrupted
            if path is not None:
                paths.append(path)
        return paths, len(paths) == len(listed)

    async def _download(
        self,
        job_id: str,
        name: str,
        directory: Path,
        on_bytes: Callable[[int, int | None], None] | None,
    ) -> Path | None:
        try:
            within = held_within(directory)
            path = await self._client.download(
                job_id, name, f"{directory}/", within=within, progress=on_bytes
            )
            return path if within is None else path.relative_to(within)
        except ClientError as error:
            self._ui.note(f"error: artifact {name}: {error}")
            return None

    def _finish(self, job: Job, upload: Upload | None, paths: list[Path], code: int) -> None:
        if self._ui.as_json:
            self._ui.emit(
                {
                    "job": job.raw,
                    "upload": None if upload is None else upload.raw,
                    "artifacts": [str(path) for path in paths],
                    "exit_code": code,
                }
            )
        for warning in job.warnings:
            self._ui.note(f"warning: {warning}")
        count = f"{len(paths)} artifact{'' if len(paths) == 1 else 's'}"
        where = f"; {count} in {paths[0].parent}" if paths else ""
        how = f", exit code {job.exit_code}" if job.exit_code is not None else ""
        why = f", {job.error}" if job.error else ""
        took = human_seconds(job.duration_seconds)
        self._ui.note(
            f"job {job.id} {job.status}{how}{why}{f' after {took}' if took else ''}{where}"
        )


async def _shielded(task: asyncio.Task[T]) -> T:
    """Wait for a task that outlives the waiting."""
    return await asyncio.shield(task)


async def _copy(client: FlashpodsClient, job_id: str, write: Callable[[str], None]) -> bool:
    async with aclosing(client.follow(job_id)) as pieces:
        async for text, _ in pieces:
            write(text)
    return True
