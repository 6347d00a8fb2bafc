"""The shapes of bodies, as JSON Schema (2020-12) for the OpenAPI document.

Answers are serialised by hand on the hot calls; ``tests/integration/test_api_schema.py`` holds real
answers against these shapes, which are closed: a field that is not here is a defect.
"""

from __future__ import annotations

import re
from typing import Any, Final

from flashpods.jobs import names
from flashpods.jobs.agent import COMMAND_FAILED, ENTRYPOINT_ERRORS
from flashpods.jobs.model import JobType, Phase, UploadState
from flashpods.jobs.names import MOST_IMAGE
from flashpods.jobs.states import JobStatus
from flashpods.jobs.submit import MOST_BRANCH, MOST_COMMAND, MOST_TEXT

Schema = dict[str, Any]

UUID4: Final = (
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
)
_END: Final = r"\Z"


def anchored(pattern: re.Pattern[str]) -> str:
    """Write one of our patterns, which are for ``match``, in ECMA-262."""
    return f"^{pattern.pattern.removesuffix(_END)}$"


JOB_ID: Final = anchored(names.JOB_ID)
UPLOAD_ID: Final = anchored(names.UPLOAD_ID)
PROJECT: Final = anchored(names.PROJECT)


def ref(name: str) -> Schema:
    """Refer to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str = "", **more: Any) -> Schema:
    """Describe a string."""
    return {"type": "string", **({"description": description} if description else {}), **more}


def whole(description: str = "", least: int = 0, **more: Any) -> Schema:
    """Describe a whole number of at least ``least``."""
    described = {"description": description} if description else {}
    return {"type": "integer", "minimum": least, **described, **more}


def number(description: str) -> Schema:
    """Describe a number of seconds."""
    return {"type": "number", "minimum": 0, "description": description}


def nullable(schema: Schema) -> Schema:
    """Allow null beside it."""
    if "enum" in schema:
        return {**schema, "type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Describe a closed object."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items: Schema) -> Schema:
    """Describe a list."""
    return {"type": "array", "items": items}


TIME: Final = text("UTC, RFC 3339 with Z", format="date-time")
STATUS: Final = text(enum=[s.value for s in JobStatus])
FLAG: Final[Schema] = {"type": "boolean"}
SHA256: Final = text("hexadecimal", pattern="^[0-9a-f]{64}$")
SIZE: Final = record({"cpus": whole(), "memory_gb": whole()})
GRANTED: Final = record(
    {"cpus": whole(least=1), "memory_gb": whole(least=1), "timeout_minutes": whole(least=1)}
)
WARNINGS: Final = listed(text())

_KEY = text("one job per key while it is not cleaned (UUIDv4)", pattern=UUID4)
_IMAGE = text("image reference; the host's default if absent", minLength=1, maxLength=MOST_IMAGE)
_ASK: Final[dict[str, Schema]] = {
    "client_job_id": nullable(_KEY),
    "files_id": nullable(text("a finalized upload", pattern=UPLOAD_ID)),
    "image": nullable(_IMAGE),
    "cpus": nullable(whole("above the maximum is clamped", 1)),
    "memory_gb": nullable(whole("above the maximum is clamped", 1)),
    "timeout_minutes": nullable(whole("above the maximum is clamped", 1)),
}

REVISION: Final = text(
    "differs when status, phase or cancel_requested do; for since",
    pattern=r"^[a-z_]+(\.[a-z_]+){0,2}$",
    maxLength=64,
)
_AGENT_ERRORS = ", ".join((COMMAND_FAILED, *ENTRYPOINT_ERRORS.values()))
_JOB_ROW: Final[dict[str, Schema]] = {
    "id": text(pattern=JOB_ID),
    "type": text(enum=[t.value for t in JobType]),
    "status": STATUS,
    "phase": nullable(
        text("what an active job is doing within its state", enum=[p.value for p in Phase])
    ),
    "revision": REVISION,
    "command": nullable(text()),
    "task": nullable(text()),
    "git_branch": nullable(text()),
    "files_id": nullable(text()),
    "client_job_id": nullable(text()),
    "image": text(),
    "cpus": whole(least=1),
    "memory_gb": whole(least=1),
    "timeout_minutes": whole(least=1),
    "created_at": TIME,
    "started_at": nullable(TIME),
    "completed_at": nullable(TIME),
    "cancel_requested": {**FLAG, "description": "a DELETE is recorded"},
    "exit_code": nullable({"type": "integer"}),
    "error": nullable(text(f"why it failed; of an agent also {_AGENT_ERRORS}")),
    "warnings": WARNINGS,
}
_JOB_TIMES: Final[dict[str, Schema]] = {
    "elapsed_seconds": number("while active: since it started (before: since it was accepted)"),
    "duration_seconds": number("afterwards: from then to its end"),
    "actual_runtime_seconds": number("timed_out only: how long it ran"),
}
_UPLOAD: Final[dict[str, Schema]] = {
    "upload_id": text(pattern=UPLOAD_ID),
    "state": text(enum=[s.value for s in UploadState]),
}
_CHECK: Final = record(
    {"status": text(enum=["ok", "warning", "failing", "not_configured"])},
    {
        "message": text(),
        "used_percent": {"type": "object", "additionalProperties": {"type": "number"}},
    },
)

COMPONENTS: Final[dict[str, Schema]] = {
    "WorkerRequest": record(
        {
            "type": {"const": "worker"},
            "command": text(
                "run by /bin/sh -c", minLength=1, maxLength=MOST_COMMAND, pattern=r"^[^\x00]*\S"
            ),
        },
        _ASK,
    ),
    "AgentRequest": record(
        {
            "type": {"const": "agent"},
            "task": text(minLength=1, maxLength=MOST_TEXT, pattern=r"^[^\x00]*\S"),
            "git_branch": text("git-check-ref-format(1)", minLength=1, maxLength=MOST_BRANCH),
        },
        {"context": nullable(text(maxLength=MOST_TEXT)), **_ASK},
    ),
    "JobAccepted": record(
        {
            "job_id": text(pattern=JOB_ID),
            "status": STATUS,
            "created": {**FLAG, "description": "false: the key had made this job before"},
            "granted": GRANTED,
            "warnings": WARNINGS,
        }
    ),
    "JobEvent": record({"from": nullable(STATUS), "to": STATUS, "at": TIME, "why": text()}),
    "JobRow": record(_JOB_ROW, _JOB_TIMES),
    "Job": record({**_JOB_ROW, "events": listed(ref("JobEvent"))}, _JOB_TIMES),
    "JobPage": record(
        {
            "jobs": listed(ref("JobRow")),
            "total": whole("all that match, whatever the page"),
            "next_cursor": nullable(text("for the next page; null on the last")),
        }
    ),
    "JobCancelled": record({"job_id": text(pattern=JOB_ID), "status": {"const": "cancelled"}}),
    "UploadReserved": record(
        {
            **_UPLOAD,
            "rsync_url": text(
                "push the tree here", examples=["rsync://10.0.0.1/uploads/upload_…/"]
            ),
            "base": nullable(text("pass to rsync as --copy-dest: the project's former tree")),
            "limits": record({"max_bytes": whole(), "total_bytes": whole()}),
            "expires_at": nullable(TIME),
        }
    ),
    "UploadFinalized": record(
        {
            **_UPLOAD,
            "size_bytes": nullable(whole()),
            "file_count": nullable(whole()),
            "finalized_at": nullable(TIME),
            "expires_at": nullable(TIME),
        }
    ),
    "Upload": record(
        {
            **_UPLOAD,
            "project": nullable(text()),
            "size_bytes": nullable(whole()),
            "file_count": nullable(whole()),
            "created_at": TIME,
            "finalized_at": nullable(TIME),
            "consumed_at": nullable(TIME),
            "expires_at": nullable(TIME),
            "job_id": nullable(text("the job that has claimed it")),
        }
    ),
    "Output": record(
        {
            "output": text("complete lines, each ending in a line feed"),
            "lines": whole(),
            "truncated": {**FLAG, "description": "the log reached its limit"},
            "total_bytes": whole("of complete lines"),
            "offset": whole("where output begins"),
            "next_offset": whole("where to read on"),
        }
    ),
    "StreamEvent": record(
        {
            "id": text("the byte offset after it; resumes the stream", pattern="^[0-9]+$"),
            "data": text(
                "log lines, joined by line feeds; if encoded, a JSON string of lines that each end "
                "with one; at the end a JSON object"
            ),
        },
        {"event": text("message if there is none", enum=["encoded", "end", "message"])},
    ),
    "Artifact": record(
        {
            "name": text(),
            "type": text(enum=["file", "directory"]),
            "size_bytes": whole(),
            "sha256": nullable(SHA256),
            "created_at": TIME,
        }
    ),
    "ArtifactPage": record({"artifacts": listed(ref("Artifact"))}),
    "Health": record(
        {
            "status": text(enum=["healthy", "degraded"]),
            "version": text(),
            "uptime_seconds": number("since the start of the process"),
            "draining": {**FLAG, "description": "POST /jobs answers 503 until it is resumed"},
            "checks": record(dict.fromkeys(("database", "podman", "disk", "identity"), _CHECK)),
        }
    ),
    "Capacity": record(
        {
            "host": SIZE,
            "reserved": SIZE,
            "available": SIZE,
            "running_jobs": whole("jobs that hold resources"),
            "reserve": SIZE,
            "draining": FLAG,
        }
    ),
    "CapacityHistory": record(
        {
            "every_seconds": number("between samples"),
            "samples": listed(
                record(
                    {
                        "at": TIME,
                        "reserved": SIZE,
                        "running_jobs": whole("jobs that hold resources"),
                        "disk_used_percent": {
                            "type": "object",
                            "description": "by tree: work, artifacts, logs",
                            "additionalProperties": {"type": "number"},
                        },
                    }
                )
            ),
        }
    ),
}


def problem(codes: list[str]) -> Schema:
    """Describe the error object with its possible codes."""
    extra: dict[str, Schema] = {}
    if "rate_limited" in codes:
        extra["retry_after_seconds"] = whole(least=1)
    if "insufficient_resources" in codes:
        extra |= {
            "requested": SIZE,
            "available": SIZE,
            "host_capacity": SIZE,
            "running_jobs": whole(),
        }
    return record(
        {
            "error": text(enum=codes),
            "message": text("one sentence for a person, with the remedy"),
            "details": {"type": "object"},
        },
        extra,
    )
