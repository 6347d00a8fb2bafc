"""What the host answers, as frozen records. Unknown fields are ignored, so that the host may grow.

Times are aware UTC datetimes, sizes are bytes, memory is GiB. ``raw`` keeps the whole answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from flashpods.client.errors import ClientError

__all__ = [
    "ACTIVE",
    "TERMINAL",
    "Artifact",
    "Capacity",
    "CreatedJob",
    "Job",
    "JobEvent",
    "JobList",
    "Output",
    "Size",
    "Upload",
]

ACTIVE: Final = frozenset({"pending", "starting", "running"})
TERMINAL: Final = frozenset(
    {"completed", "failed", "timed_out", "cancelled", "cleaning", "cleaned"}
)

T = TypeVar("T")


def _need(raw: dict[str, Any], key: str, kind: type[T]) -> T:
    """Return a field that must be there, or raise ``invalid_answer``."""
    value = raw.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ClientError(
            "invalid_answer",
            f"the host's answer has no usable {key!r}; is it a Flashpods host of this version?",
        )
    return value


def _maybe(raw: dict[str, Any], key: str, kind: type[T]) -> T | None:
    value = raw.get(key)
    return value if isinstance(value, kind) else None


def _number(raw: dict[str, Any], key: str) -> float | None:
    value = raw.get(key)
    return float(value) if isinstance(value, int | float) else None


def _time(raw: dict[str, Any], key: str) -> datetime | None:
    value = raw.get(key)
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None


def _texts(raw: dict[str, Any], key: str) -> tuple[str, ...]:
    value = raw.get(key)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _dicts(raw: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = raw.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One change of a job's state. ``from_status`` is None for its acceptance."""

    from_status: str | None
    to_status: str
    at: datetime | None
    why: str

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> JobEvent:
        """Read ``{"from", "to", "at", "why"}``."""
        return cls(
            from_status=_maybe(raw, "from", str) or _maybe(raw, "from_status", str),
            to_status=_maybe(raw, "to", str) or _maybe(raw, "to_status", str) or "",
            at=_time(raw, "at"),
            why=_maybe(raw, "why", str) or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job's row."""

    id: str
    status: str
    type: str
    phase: str | None
    revision: str | None  # of status, phase and cancellation; None from an older host
    command: str | None
    task: str | None
    image: str | None
    cpus: int | None
    memory_gb: int | None
    timeout_minutes: int | None
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    elapsed_seconds: float | None  # of an active job
    duration_seconds: float | None  # of an ended one
    exit_code: int | None
    error: str | None
    cancel_requested: bool
    warnings: tuple[str, ...]
    events: tuple[JobEvent, ...]
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def terminal(self) -> bool:
        """Whether nothing of the job runs any more."""
        return self.status in TERMINAL

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Job:
        """Read a row of ``GET /jobs`` or ``GET /jobs/{id}``."""
        return cls(
            id=_need(raw, "id", str),
            status=_need(raw, "status", str),
            type=_maybe(raw, "type", str) or "worker",
            phase=_maybe(raw, "phase", str),
            revision=_maybe(raw, "revision", str),
            command=_maybe(raw, "command", str),
            task=_maybe(raw, "task", str),
            image=_maybe(raw, "image", str),
            cpus=_maybe(raw, "cpus", int),
            memory_gb=_maybe(raw, "memory_gb", int),
            timeout_minutes=_maybe(raw, "timeout_minutes", int),
            created_at=_time(raw, "created_at"),
            started_at=_time(raw, "started_at"),
            completed_at=_time(raw, "completed_at"),
            elapsed_seconds=_number(raw, "elapsed_seconds"),
            duration_seconds=_number(raw, "duration_seconds"),
            exit_code=_maybe(raw, "exit_code", int),
            error=_maybe(raw, "error", str),
            cancel_requested=raw.get("cancel_requested") is True,
            warnings=_texts(raw, "warnings"),
            events=tuple(JobEvent.from_json(item) for item in _dicts(raw, "events")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedJob:
    """The answer to ``POST /jobs``. ``created`` is False for a retry of a known request."""

    job_id: str
    client_job_id: str
    status: str
    created: bool
    granted: dict[str, Any]
    warnings: tuple[str, ...]
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: dict[str, Any], client_job_id: str) -> CreatedJob:
        """Read ``{"job_id", "status", "created", "granted", "warnings"}``."""
        return cls(
            job_id=_need(raw, "job_id", str),
            client_job_id=client_job_id,
            status=_need(raw, "status", str),
            created=raw.get("created") is True,
            granted=_maybe(raw, "granted", dict) or {},
            warnings=_texts(raw, "warnings"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList:
    """One page of ``GET /jobs``, newest first."""

    jobs: tuple[Job, ...]
    total: int
    next_cursor: str | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> JobList:
        """Read ``{"jobs", "total", "next_cursor"}``."""
        _need(raw, "jobs", list)
        cursor = raw.get("next_cursor")
        return cls(
            jobs=tuple(Job.from_json(item) for item in _dicts(raw, "jobs")),
            total=_maybe(raw, "total", int) or 0,
            next_cursor=None if cursor is None else str(cursor),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A tree on the host. ``sent_bytes`` is what went over the wire to bring it there."""

    upload_id: str
    state: str
    rsync_url: str | None = None
    base: str | None = None  # the previous tree of the same project, for --copy-dest
    max_bytes: int | None = None
    size_bytes: int | None = None
    file_count: int | None = None
    expires_at: datetime | None = None
    sent_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Upload:
        """Read the answer of ``POST /uploads``, of its finalize or of ``GET /uploads/{id}``."""
        limits = _maybe(raw, "limits", dict) or {}
        return cls(
            upload_id=_need(raw, "upload_id", str),
            state=_need(raw, "state", str),
            rsync_url=_maybe(raw, "rsync_url", str),
            base=_maybe(raw, "base", str),
            max_bytes=_maybe(limits, "max_bytes", int),
            size_bytes=_maybe(raw, "size_bytes", int),
            file_count=_maybe(raw, "file_count", int),
            expires_at=_time(raw, "expires_at"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A piece of a job's log. Offsets are bytes of the log file."""

    output: str
    lines: int
    truncated: bool
    total_bytes: int
    next_offset: int | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Output:
        """Read the answer of ``GET /jobs/{id}/output``."""
        return cls(
            output=_need(raw, "output", str),
            lines=_maybe(raw, "lines", int) or 0,
            truncated=raw.get("truncated") is True,
            total_bytes=_maybe(raw, "total_bytes", int) or 0,
            next_offset=_maybe(raw, "next_offset", int),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One top-level name of a job's ``/artifacts``. A directory has no ``sha256``."""

    name: str
    type: str
    size_bytes: int
    sha256: str | None
    created_at: datetime | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Artifact:
        """Read one item of ``GET /jobs/{id}/artifacts``."""
        return cls(
            name=_need(raw, "name", str),
            type=_need(raw, "type", str),
            size_bytes=_need(raw, "size_bytes", int),
            sha256=_maybe(raw, "sha256", str),
            created_at=_time(raw, "created_at"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """CPUs and GiB of memory."""

    cpus: int
    memory_gb: int

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Size:
        """Read ``{"cpus", "memory_gb"}``."""
        return cls(cpus=_maybe(raw, "cpus", int) or 0, memory_gb=_maybe(raw, "memory_gb", int) or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What admission sees: the host's size, what jobs hold, what is free, what is kept back."""

    host: Size
    reserved: Size
    available: Size
    reserve: Size
    running_jobs: int
    draining: bool
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Capacity:
        """Read the answer of ``GET /capacity``."""

        def size(key: str) -> Size:
            return Size.from_json(_maybe(raw, key, dict) or {})

        return cls(
            host=size("host"),
            reserved=size("reserved"),
            available=size("available"),
            reserve=size("reserve"),
            running_jobs=_maybe(raw, "running_jobs", int) or 0,
            draining=raw.get("draining") is True,
            raw=raw,
        )
