"""From a request's body to an accepted job: validation first, then one transaction of the store."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from flashpods import failpoints
from flashpods.errors import BadRequest, InsufficientStorage, NotFound, cut
from flashpods.jobs.admission import Bounds, grant
from flashpods.jobs.model import Capacity, Job, JobType, NewJob
from flashpods.jobs.names import MOST_IMAGE, UPLOAD_ID, valid_image
from flashpods.ports import Clock, DiskGauge, JobStore

MOST_COMMAND: Final = 10_000  # characters, at most 40 kB: an argument holds 128 KiB (execve(2))
MOST_TEXT: Final = 100_000  # bytes of UTF-8: an environment variable holds 128 KiB (execve(2))
MOST_BRANCH: Final = 250  # bytes: git keeps it as a file, and locks it as that name and .lock

Unit = Literal["bytes", "characters"]

FIELDS: Final = frozenset(
    {
        "client_job_id",
        "type",
        "command",
        "task",
        "context",
        "git_branch",
        "files_id",
        "image",
        "cpus",
        "memory_gb",
        "timeout_minutes",
    }
)
_OF_WORKER: Final = frozenset({"command"})
_OF_AGENT: Final = frozenset({"task", "context", "git_branch"})

_UUID4 = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z", re.IGNORECASE
)
# git-check-ref-format(1), for a branch name.
_NO_BRANCH = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|^[-/.]|[/.]\Z|^@\Z|^HEAD\Z"
)


def _text(
    body: Mapping[str, Any],
    field: str,
    most: int,
    *,
    unit: Unit = "bytes",
    missing: str | None = None,
) -> str:
    """Return a text field that Linux can pass to a process, or refuse it by name.

    ``most`` counts characters, or bytes of its UTF-8.
    """
    value = body.get(field)
    if missing and (value is None or (isinstance(value, str) and not value.strip())):
        raise BadRequest(f"{field} is missing or empty; a {body['type']} needs it", code=missing)
    if not isinstance(value, str):
        raise BadRequest(f"{field} is {cut(value)}; give a string")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{field} holds a lone surrogate; give valid Unicode") from None
    if "\0" in value:
        raise BadRequest(f"{field} is {cut(value)}; it must not hold a NUL character")
    size = len(value) if unit == "characters" else len(encoded)
    if size > most:
        raise BadRequest(f"{field} is {size} {unit} long; at most {most} are allowed")
    return value


def _client_job_id(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _UUID4.match(value):
        raise BadRequest(
            f"client_job_id is {cut(value)}; give a UUIDv4", code="invalid_client_job_id"
        )
    return value.lower()


def _image(value: Any, default: str) -> str:
    if value is None:
        return default
    if not isinstance(value, str) or not valid_image(value):
        raise BadRequest(
            f"image is {cut(value)}; give a reference like python:3.12 or "
            f"registry.example/name:tag, without a transport, at most {MOST_IMAGE} characters",
            code="invalid_image",
        )
    return value


def _branch(body: Mapping[str, Any]) -> str:
    branch = _text(body, "git_branch", MOST_BRANCH, missing="missing_git_branch")
    if _NO_BRANCH.search(branch):
        raise BadRequest(
            f"git_branch is {cut(branch)}; give a valid branch name (git-check-ref-format(1))"
        )
    return branch


def _job_type(body: Mapping[str, Any]) -> JobType:
    try:
        return JobType(str(body.get("type")))
    except ValueError:
        raise BadRequest(
            f"type is {cut(body.get('type'))}; give worker or agent", code="invalid_job_type"
        ) from None


def _check_fields(body: Mapping[str, Any], kind: JobType) -> None:
    foreign = _OF_AGENT if kind is JobType.WORKER else _OF_WORKER
    for field in body:
        if field not in FIELDS:
            raise BadRequest(f"unknown field {cut(field)}; allowed are {', '.join(sorted(FIELDS))}")
        if field in foreign and body[field] is not None:
            raise BadRequest(f"{field} does not belong to a {kind.value}; leave it out")


class _Work(NamedTuple):
    """What the job is to do: a worker's field, or an agent's."""

    command: str | None = None
    task: str | None = None
    context: str | None = None
    git_branch: str | None = None


def _work(body: Mapping[str, Any], kind: JobType) -> _Work:
    if kind is JobType.WORKER:
        missing = "missing_command"
        return _Work(_text(body, "command", MOST_COMMAND, unit="characters", missing=missing))
    task = _text(body, "task", MOST_TEXT, missing="missing_task")
    branch = _branch(body)
    said = body.get("context") is not None
    context = _text(body, "context", MOST_TEXT) if said else None
    return _Work(task=task, context=context, git_branch=branch)


def _files_id(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and UPLOAD_ID.match(value)):
        raise NotFound(
            f"files_id is {cut(value)}; no upload has such an id", code="upload_not_found"
        )
    return value


def _fingerprint(body: Mapping[str, Any]) -> str:
    """Hash the request without its key, so that one key can't stand for two requests."""
    said = {k: v for k, v in body.items() if k != "client_job_id" and v is not None}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def parse(
    body: Any, *, bounds: Mapping[JobType, Bounds], images: Mapping[JobType, str], host: Capacity
) -> NewJob:
    """Check a ``POST /jobs`` body and clamp what it asks for.

    Raises:
        BadRequest: with the contract's code (section 5), naming field, value and remedy.
        NotFound: ``upload_not_found`` for a ``files_id`` that no upload can have.
    """
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {cut(body)}; send one JSON object")
    kind = _job_type(body)
    _check_fields(body, kind)
    work = _work(body, kind)
    key = _client_job_id(body.get("client_job_id"))
    image = _image(body.get("image"), images[kind])
    files_id = _files_id(body.get("files_id"))
    granted, warnings = grant(
        cpus=body.get("cpus"),
        memory_gb=body.get("memory_gb"),
        timeout_minutes=body.get("timeout_minutes"),
        bounds=bounds[kind],
        host=host,
    )
    return NewJob(
        id=secrets.token_hex(8),
        client_job_id=key,
        request_sha256=_fingerprint(body),
        type=kind,
        command=work.command,
        task=work.task,
        context=work.context,
        git_branch=work.git_branch,
        files_id=files_id,
        image=image,
        grant=granted,
        warnings=tuple(warnings),
    )


class Submitter:
    """The use case behind ``POST /jobs``."""

    def __init__(
        self,
        *,
        store: JobStore,
        clock: Clock,
        disk: DiskGauge,
        critical: float,
        capacity: Capacity,
        bounds: Mapping[JobType, Bounds],
        images: Mapping[JobType, str],
        accepted: Callable[[Job], None],
    ) -> None:
        """Build it; ``critical`` is a used fraction, ``accepted`` starts a new job on its line."""
        self._store = store
        self._clock = clock
        self._disk = disk
        self._critical = critical
        self._bounds = bounds
        self._images = images
        self._accepted = accepted
        self.capacity = capacity

    async def submit(self, body: Any) -> tuple[Job, bool]:
        """Accept a job, or return the one that the same key made before.

        Returns:
            The job, and whether this call created it.

        Raises:
            FlashpodsError: see :func:`parse` and :meth:`flashpods.ports.JobStore.submit`;
                InsufficientStorage when a tree's disk is above the critical threshold.
        """
        new = parse(body, bounds=self._bounds, images=self._images, host=self.capacity)
        failpoints.hit("submit.before_commit")
        job, created = await self._store.submit(
            new, capacity=self.capacity, at=self._clock.now(), refuse=self._disk_trouble()
        )
        failpoints.hit("submit.after_commit")
        if created:
            self._accepted(job)
        failpoints.hit("submit.after_begin")
        return job, created

    def _disk_trouble(self) -> InsufficientStorage | None:
        full = {path: used for path, used in self._disk.usage().items() if used >= self._critical}
        if not full:
            return None
        worst, used = max(full.items(), key=lambda item: item[1])
        return InsufficientStorage(
            f"the disk of {worst} is {used:.0%} full, jobs stop at {self._critical:.0%}; "
            f"free space on the host (flashpods-cleanup) and try again",
            details={"used_percent": {path: round(100 * u, 1) for path, u in full.items()}},
        )
