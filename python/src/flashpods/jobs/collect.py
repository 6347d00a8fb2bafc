"""From a dead container to the terminal row: its log, its artifacts, then the state, then tidying.

The order is what makes it safe to be killed anywhere: the output is complete before the terminal
state is shown (or a warning says that its disk did not take it), and the container, which proves
what happened, goes last.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from flashpods import failpoints
from flashpods.errors import FlashpodsError, StaleState, Unavailable
from flashpods.jobs.disk import BUDGET, HOST, Excess
from flashpods.jobs.line import Line
from flashpods.jobs.model import Collected, Job, JobType, Outcome, Phase, UploadState
from flashpods.jobs.monitor import Ending
from flashpods.jobs.states import JobStatus, Trigger

log = structlog.get_logger(__name__)


async def conclude(line: Line, job: Job, ending: Ending) -> bool:
    """Collect a dead (or never started) job's output and end its row; durable when it returns.

    Returns:
        Whether nothing of it is left to recovery.

    Raises:
        StaleState: the row had already ended.
    """
    ran = job.status is JobStatus.RUNNING
    if (
        ending.outcome.error in {BUDGET, HOST}
        or Excess.noted(job.warnings)
        or (ran and line.disk.crowded())  # it may have filled the disk and ended by itself
    ):
        await line.make_room(job)
    if ran:
        await line.show(job, Phase.COLLECTING)
    failpoints.hit("collect.before_drain")
    warnings = list(ending.warnings)
    log_missing = await _drain(line, job)
    warnings += log_missing
    failpoints.hit("collect.after_drain")
    collected = await _collect(line, job) if ran else Collected()
    failpoints.hit("collect.after_artifacts")
    warnings += collected.warnings
    if collected.error is not None:
        if ending.trigger is Trigger.SUCCEED:
            ending = replace(
                ending,
                trigger=Trigger.FAIL,
                outcome=Outcome(exit_code=ending.outcome.exit_code, error=collected.error),
                why=collected.error,
            )
        else:
            warnings.append(f"artifacts: {collected.error}")
    await line.warn(job, warnings)
    failpoints.hit("collect.after_note")
    row = await _end(line, job, ending, collected)
    failpoints.hit("collect.after_end")
    return await tidy(line, row, keep_base=ran) and not log_missing


async def _drain(line: Line, job: Job) -> list[str]:
    """Complete the log; return a warning if its disk does not take it.

    It has tried for a while then, and a job must not hold its resources for that: recovery goes on.
    """
    try:
        await line.logs.drain(job.id)
    except OSError as e:
        log.warning("log_incomplete", job_id=job.id, reason=str(e))
        return [f"the log is incomplete until its disk takes the rest: {e.strerror}"]
    return []


async def _collect(line: Line, job: Job) -> Collected:
    try:
        collected = await line.artifacts.collect(job.id, at=line.clock.now())
    except (Unavailable, OSError) as e:
        collected = Collected(error="artifact_copy_failed", warnings=[f"artifacts: {e}"])
    if collected.error is not None and not collected.artifacts:
        why = [collected.error, *collected.warnings[:3]]
        log.warning("artifacts_not_collected", job_id=job.id, reason="; ".join(why))
    return collected


async def _end(line: Line, job: Job, ending: Ending, collected: Collected) -> Job:
    """Write the terminal state; a cancellation that came in meanwhile wins."""
    try:
        return await line.advance(
            job,
            ending.trigger,
            ending.why,
            outcome=ending.outcome,
            artifacts=collected.artifacts,
        )
    except StaleState:
        fresh = await line.store.get(job.id)
        if fresh is None or fresh.terminal or fresh.cancel_requested_at is None:
            raise
        return await line.advance(
            fresh,
            Trigger.CANCEL,
            "cancelled while it ended",
            outcome=Outcome(exit_code=ending.outcome.exit_code),
            artifacts=collected.artifacts,
        )


async def tidy(line: Line, job: Job, *, keep_base: bool) -> bool:
    """Remove the container and the workspace of an ended job.

    Returns:
        Whether all of it is gone; what is not is left to recovery.
    """
    failpoints.hit("tidy.before_remove")
    try:
        await line.runtime.remove(job.container_name)
    except Unavailable as e:
        log.warning("container_removal_deferred", job_id=job.id, reason=e.message)
        return False  # the workspace stays mounted in it: both go with the next recovery or cleanup
    failpoints.hit("tidy.after_remove")
    try:
        project = await _project(line, job) if keep_base else None
        if project is not None:
            await line.workspaces.keep_as_base(job.id, project, keep=line.policy.bases)
        failpoints.hit("tidy.after_base")
        if not await line.workspaces.discard(job.id):
            log.info("workspace_in_use", job_id=job.id)
            return False
        failpoints.hit("tidy.after_discard")
        if not keep_base:
            await line.artifacts.delete(job.id)
            failpoints.hit("tidy.after_delete")
            if job.files_id is not None:
                await discard_ended_upload(line, job.files_id)
    except (OSError, FlashpodsError) as e:
        log.warning("tidying_deferred", job_id=job.id, reason=str(e))
        return False
    return True


async def discard_ended_upload(line: Line, upload_id: str) -> None:
    """Delete the tree of an upload whose row has ended: its job never took it."""
    upload = await line.uploads.get_upload(upload_id)
    if upload is not None and upload.state in {UploadState.EXPIRED, UploadState.CONSUMED}:
        await line.workspaces.discard_upload(upload_id)


async def _project(line: Line, job: Job) -> str | None:
    """Return the project whose next push may start from this tree, if no job could change it."""
    if job.files_id is None or job.type is not JobType.WORKER or line.policy.bases == 0:
        return None
    upload = await line.uploads.get_upload(job.files_id)
    return upload.project if upload is not None else None
