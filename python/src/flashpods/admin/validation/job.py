"""A job from end to end, as a client sees it: files in, a log and an artifact out."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from flashpods.admin.validation.check import Check, Failed
from flashpods.admin.validation.host import Host
from flashpods.admin.validation.process import run
from flashpods.admin.validation.tidy import to_its_end
from flashpods.client.client import FlashpodsClient
from flashpods.client.errors import ClientError
from flashpods.client.models import CreatedJob, Job

__all__ = ["CHECKS"]

JOB_SECONDS: Final = 90
TIDY_SECONDS: Final = 40
COMMAND: Final = "cat input && cp input /artifacts/output"
NAME: Final = "output"


async def _end_to_end(host: Host) -> str:
    text = secrets.token_hex(16)
    image = {"image": host.choices.image} if host.choices.image else {}
    async with host.client() as client:
        with tempfile.TemporaryDirectory(prefix="flashpods-validate-") as scratch:
            tree = await asyncio.to_thread(_tree, Path(scratch), text)
            upload = await client.push(tree, exclude=())
            # A task, so that whoever interrupts us leaves no job of which nobody knows the id.
            making = asyncio.create_task(
                client.create_job(
                    type="worker",
                    command=COMMAND,
                    files_id=upload.upload_id,
                    cpus=1,
                    memory_gb=1,
                    timeout_minutes=2,
                    **image,
                )
            )
            try:
                made = await asyncio.shield(making)
                ended = await client.wait(made.job_id, timeout=JOB_SECONDS)
                await _judge(client, ended, text, Path(scratch))
            finally:
                await to_its_end(_tidy(host, client, upload.upload_id, making))
    return f"files pushed, run in {ended.duration_seconds or 0:.1f} s, log and artifact came back"


def _tree(scratch: Path, text: str) -> Path:
    tree = scratch / "tree"
    tree.mkdir()
    (tree / "input").write_text(f"{text}\n")
    return tree


async def _judge(client: FlashpodsClient, job: Job, text: str, scratch: Path) -> None:
    if job.status != "completed" or job.exit_code != 0:
        why = job.error or f"exit code {job.exit_code}"
        raise Failed(f"the job is {job.status}: {why}", f"flashpods status {job.id}")
    said = (await client.output(job.id)).output
    if text not in said:
        raise Failed("the job's log lacks what its command printed", "journalctl -u flashpods-api")
    target = await client.download(job.id, NAME, scratch)
    if target.read_text().strip() != text:
        raise Failed("the artifact is not what the job wrote", "journalctl -u flashpods-api")


async def _tidy(
    host: Host, client: FlashpodsClient, upload: str, making: asyncio.Task[CreatedJob]
) -> None:
    """End the job if it has not, delete what it left on disk, and the upload if no job took it."""
    with suppress(ClientError, TimeoutError, Failed):
        async with asyncio.timeout(TIDY_SECONDS):
            try:
                job = (await making).job_id
            except ClientError:
                await client.delete_upload(upload)
                return
            with suppress(ClientError):
                await client.cancel(job)  # 409 if it has ended, as it should
            await client.wait(job, timeout=TIDY_SECONDS / 2)
            words = [sys.executable, "-P", "-m", "flashpods.cleanup_main", "--job", job]
            if host.choices.settings_file is not None:
                words += ["--config", str(host.choices.settings_file)]
            await run(*words, seconds=TIDY_SECONDS / 2, user=host.user())


CHECKS: Final = (
    Check(
        name="end-to-end-job",
        title="end-to-end job",
        run=_end_to_end,
        remedy="journalctl -u flashpods-api -u 'flashpods-rsyncd@*'; flashpods ps",
        seconds=JOB_SECONDS + 30,
    ),
)
