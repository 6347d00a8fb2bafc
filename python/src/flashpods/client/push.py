"""Bringing a directory to the host: reserve an upload, rsync, finalize."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final
from urllib.parse import urlsplit

from flashpods.client import rsync
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, UploadError
from flashpods.client.gitignore import ignored_patterns
from flashpods.client.http import Http
from flashpods.client.models import Upload
from flashpods.client.retry import Failure, Retries

__all__ = [
    "Gitignore",
    "copy_upload",
    "create_upload",
    "delete_upload",
    "discard_upload",
    "finalize",
    "get_upload",
    "push",
    "target_url_of",
]

# The host may wait 30 s for a turn, and then has two minutes.
FINALIZE_READ_SECONDS: Final = 180.0
# The daemon's last act for a transfer comes just after our rsync has ended.
IN_PROGRESS_SECONDS: Final = 15.0
IN_PROGRESS_DELAY: Final = 0.05
CLEAN_UP_SECONDS: Final = 5.0

# A copy of flashpods.jobs.names, which is the host's.
_UPLOAD_ID = re.compile(r"upload_[A-Za-z0-9_-]{12,64}\Z")
_BASE = re.compile(r"(/[A-Za-z0-9_.-]+)+\Z")


async def create_upload(http: Http, project: str | None = None) -> Upload:
    """Reserve an upload; ``project`` names the tree whose last version may serve as its base."""
    body = {} if project is None else {"project": project}
    upload = Upload.from_json((await http.json("POST", "/uploads", body=body)).body)
    if not _UPLOAD_ID.match(upload.upload_id):
        raise ClientError("invalid_answer", "the host's upload id is not one")
    return upload


async def finalize(http: Http, upload_id: str) -> Upload:
    """Close the upload to further writing.

    An upload of ours that is finalized already is what a retry after a lost answer finds: that
    is success too. While the daemon still ends the transfer, wait a little and ask again.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + IN_PROGRESS_SECONDS
    delay = IN_PROGRESS_DELAY
    while True:
        try:
            answer = await http.json(
                "POST",
                f"/uploads/{_checked(upload_id)}/finalize",
                read_seconds=FINALIZE_READ_SECONDS,
            )
        except ClientError as error:
            if error.code == "upload_already_finalized":
                answer = await http.json("GET", f"/uploads/{upload_id}")
            elif error.code == "upload_in_progress" and clock() + delay < give_up:
                await http.sleep(delay)
                delay = min(delay * 2, 1.0)
                continue
            else:
                raise
        return Upload.from_json(answer.body)


async def copy_upload(http: Http, upload_id: str) -> Upload:
    """Copy a finalized upload on the host; a copy whose answer was lost expires by itself."""
    answer = await http.json(
        "POST", f"/uploads/{_checked(upload_id)}/copy", read_seconds=FINALIZE_READ_SECONDS
    )
    return Upload.from_json(answer.body)


async def get_upload(http: Http, upload_id: str) -> Upload:
    """Return an upload as it is now."""
    return Upload.from_json((await http.json("GET", f"/uploads/{_checked(upload_id)}")).body)


async def discard_upload(http: Http, upload_id: str) -> None:
    """Delete an upload and its tree, or say why not."""
    await http.json("DELETE", f"/uploads/{_checked(upload_id)}")


def _checked(upload_id: str) -> str:
    if not _UPLOAD_ID.match(upload_id):
        raise ClientError("upload_not_found", f"{upload_id[:80]!r} is no upload's id", status=404)
    return upload_id


async def delete_upload(http: Http, upload_id: str) -> None:
    """Give an upload up; what can't be deleted now expires by itself."""
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(CLEAN_UP_SECONDS):
            await http.json("DELETE", f"/uploads/{upload_id}", retry=False)


class Gitignore(Enum):
    """Whether a push leaves out what git ignores."""

    NO = "no"
    WHERE_GIT = "where_git"  # if git has a say in the directory
    YES = "yes"  # or the push fails


def check_source(path: str | Path) -> Path:
    """Return the absolute path of a directory that can be pushed.

    Raises:
        UploadError: ``invalid_local_path``.
    """
    source = Path(path).expanduser().absolute()
    if not source.is_dir():
        what = "is not a directory" if source.exists() else "does not exist"
        raise UploadError("invalid_local_path", f"{source} {what}; name the directory to push")
    return source


async def push(
    http: Http,
    path: str | Path,
    *,
    exclude: Sequence[str],
    project: str | None = None,
    gitignore: Gitignore = Gitignore.NO,
    on_progress: rsync.OnProgress | None = None,
) -> Upload:
    """Push a directory and finalize it; returns the finalized upload.

    Network trouble is retried as the retry table says, each time into the same upload, so that
    what arrived stays. A push that fails or is cancelled kills rsync and gives its upload up.

    Raises:
        UploadError: ``upload_disk_full``, ``upload_failed``, ``rsync_missing``,
            ``invalid_local_path``; with ``gitignore`` also those of
            :func:`flashpods.client.gitignore.ignored_patterns`.
        ClientError: the host refused the upload or its finalize.
    """
    source = await asyncio.to_thread(check_source, path)
    program = await rsync.probe_rsync()
    ignored = await _ignored(source, gitignore)
    upload = await create_upload(http, project)
    try:
        url = target_url_of(http.config, upload)
        base = upload.base if upload.base and _BASE.match(upload.base) else None
        with _listed(ignored) as exclude_from:
            command = rsync.build_command(
                program, source, url, exclude=exclude, base=base, exclude_from=exclude_from
            )
            result = await _run_with_retries(http, command, on_progress)
        done = await finalize(http, upload.upload_id)
    except (ClientError, asyncio.CancelledError):
        await asyncio.shield(delete_upload(http, upload.upload_id))
        raise
    return replace(
        done,
        rsync_url=upload.rsync_url,
        base=base,
        sent_bytes=result.sent_bytes,
        warnings=tuple(result.errors),
    )


async def _ignored(source: Path, gitignore: Gitignore) -> list[str]:
    if gitignore is Gitignore.NO:
        return []
    try:
        return await ignored_patterns(source)
    except UploadError as error:
        if gitignore is Gitignore.WHERE_GIT and error.code == "not_a_repository":
            return []
        raise


@contextmanager
def _listed(patterns: Sequence[str]) -> Iterator[Path | None]:
    """Give a file that holds the patterns for rsync's ``--from0``; None if there are none."""
    if not patterns:
        yield None
        return
    with NamedTemporaryFile(prefix="flashpods-exclude-") as file:
        file.write(b"".join(os.fsencode(pattern) + b"\0" for pattern in patterns))
        file.flush()
        yield Path(file.name)


def target_url_of(config: ClientConfig, upload: Upload) -> str:
    """Return the URL that rsync writes to.

    Raises:
        ClientError: ``invalid_answer`` if the host's rsync URL is not one.
    """
    base = config.rsync_base(upload.rsync_url or f"rsync://{config.api_host}/uploads")
    parts = urlsplit(base)
    if parts.scheme != "rsync" or not parts.hostname or re.search(r"[\s\x00-\x1f]", base):
        raise ClientError("invalid_answer", f"the rsync URL {base[:80]!r} is not one")
    # A host that names the module has the upload's directory added; one that names it stays.
    if parts.path.rstrip("/").endswith(f"/{upload.upload_id}"):
        return base.rstrip("/") + "/"
    return f"{base.rstrip('/')}/{upload.upload_id}/"


async def _run_with_retries(
    http: Http, command: list[str], on_progress: rsync.OnProgress | None
) -> rsync.RsyncResult:
    retries = http.retries()
    while True:
        result = await rsync.run_rsync(command, on_progress)
        ending = rsync.judge(result)
        if ending is rsync.Ending.DONE:
            return result
        error = _failure(ending, result)
        await _pause(http, retries, ending, error)


async def _pause(http: Http, retries: Retries, ending: rsync.Ending, error: UploadError) -> None:
    kind = {
        rsync.Ending.NETWORK: Failure.NETWORK,
        rsync.Ending.BUSY: Failure.BUSY,
    }.get(ending, Failure.FINAL)
    delay = retries.next_delay(kind)
    if delay is None:
        raise error
    http.tell_retry(error, delay)
    await http.sleep(delay)


def _failure(ending: rsync.Ending, result: rsync.RsyncResult) -> UploadError:
    details = {"rsync_code": result.code, "rsync_errors": list(result.errors)}
    if ending is rsync.Ending.DISK_FULL:
        return UploadError(
            "upload_disk_full",
            "the host has no room for the tree; exclude what the job does not need, or ask for "
            "its uploads to be cleaned",
            details=details,
        )
    hint = "; is the tunnel up?" if ending is rsync.Ending.NETWORK else ""
    return UploadError("upload_failed", f"rsync failed: {result.reason}{hint}", details=details)
