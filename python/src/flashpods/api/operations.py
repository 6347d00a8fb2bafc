"""Each call's OpenAPI operation: parameters, bodies, every status with its shape and its codes."""

from __future__ import annotations

from typing import Any, Final

from flashpods.api import schemas as s
from flashpods.api.openapi_parts import JSON, answer, header, json_of, operation, path, query
from flashpods.jobs.states import JobStatus

_JOB: Final = path("job_id", s.text(pattern=s.JOB_ID))
_UPLOAD: Final = path("upload_id", s.text(pattern=s.UPLOAD_ID))
_NAME: Final = path(
    "name", s.text("a name of the list, percent-encoded", minLength=1, maxLength=255)
)
_NO_JOB: Final = {404: ["job_not_found"]}
_FULL: Final = {507: ["insufficient_storage"]}

POST_UPLOAD: Final = operation(
    "reserve_upload",
    "Reserve an upload id",
    description="Push the tree with rsync to `rsync_url`, then finalize.",
    body={
        "required": False,
        "content": {
            JSON: {
                "schema": s.record(
                    {},
                    {
                        "project": s.nullable(
                            s.text(
                                "whose last tree may serve as base",
                                pattern=s.PROJECT,
                            )
                        )
                    },
                ),
                "example": {"project": "flashpods"},
            }
        },
    },
    answers={201: answer(201, json_of("UploadReserved"), "Location")},
    errors={409: ["upload_exists"], **_FULL},
)
FINALIZE_UPLOAD: Final = operation(
    "finalize_upload",
    "Close an upload to writing and measure it",
    parameters=[_UPLOAD],
    answers={200: answer(200, json_of("UploadFinalized"))},
    errors={
        404: ["upload_not_found"],
        409: ["upload_in_progress", "upload_already_finalized", "upload_already_consumed"],
        410: ["upload_expired"],
        **_FULL,
    },
)
COPY_UPLOAD: Final = operation(
    "copy_upload",
    "Make a second finalized upload of the same files",
    description="A job takes its upload: for a second job on the same files copy it first.",
    parameters=[_UPLOAD],
    answers={201: answer(201, json_of("Upload"), "Location")},
    errors={
        404: ["upload_not_found"],
        409: ["upload_not_finalized", "upload_already_consumed"],
        410: ["upload_expired"],
        **_FULL,
    },
)
GET_UPLOAD: Final = operation(
    "get_upload",
    "Show an upload",
    parameters=[_UPLOAD],
    answers={200: answer(200, json_of("Upload"))},
    errors={404: ["upload_not_found"], **_FULL},
)
DISCARD_UPLOAD: Final = operation(
    "discard_upload",
    "Expire an upload and delete its tree",
    parameters=[_UPLOAD],
    answers={204: answer(204, None)},
    errors={
        404: ["upload_not_found"],
        409: ["upload_in_progress", "upload_already_consumed"],
        **_FULL,
    },
)
POST_JOB: Final = operation(
    "submit_job",
    "Submit a job",
    description="Values above the type's maximum are clamped; `granted` says what the job has.",
    body={
        "required": True,
        "content": {
            JSON: {
                "schema": {"oneOf": [s.ref("WorkerRequest"), s.ref("AgentRequest")]},
                "examples": {
                    "worker": {
                        "value": {"type": "worker", "command": "make test", "timeout_minutes": 10}
                    },
                    "agent": {
                        "value": {"type": "agent", "task": "Fix the tests", "git_branch": "fix"}
                    },
                },
            }
        },
    },
    answers={
        201: answer(201, json_of("JobAccepted"), "Location"),
        200: answer(200, json_of("JobAccepted"), "Location", says="The key's job, as it is"),
    },
    errors={
        400: [
            "invalid_job_type",
            "missing_command",
            "missing_task",
            "missing_git_branch",
            "invalid_client_job_id",
            "invalid_image",
            "invalid_cpus",
            "invalid_memory",
            "invalid_timeout",
        ],
        404: ["upload_not_found"],
        409: ["upload_not_finalized", "upload_already_consumed", "idempotency_conflict"],
        429: ["insufficient_resources"],
        **_FULL,
    },
)
LIST_JOBS: Final = operation(
    "list_jobs",
    "List jobs, newest first",
    parameters=[
        {
            **query(
                "status",
                "Repeatable; `active` is pending, starting and running; all if absent",
                s.listed(s.text(enum=["all", "active", *(st.value for st in JobStatus)])),
            ),
            "style": "form",
            "explode": True,
        },
        query("limit", "How many", s.whole(least=1, maximum=100, default=20)),
        query("cursor", "The `next_cursor` of the page before", s.text()),
    ],
    answers={200: answer(200, json_of("JobPage"))},
)
GET_JOB: Final = operation(
    "get_job",
    "Show a job",
    parameters=[
        _JOB,
        query(
            "wait",
            "Seconds: answer when status, phase or cancel_requested has changed, or then",
            {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
        ),
        query(
            "since",
            "With wait: the revision that you know. Answers at once if the job has another by now, "
            "so that no change between two calls is missed",
            s.REVISION,
        ),
    ],
    answers={200: answer(200, json_of("Job"))},
    errors=_NO_JOB,
)
CANCEL_JOB: Final = operation(
    "cancel_job",
    "Cancel a job",
    description="Recorded durably. The job is `cancelled` once its container is dead and its "
    "output collected; until then it shows `cancel_requested`, and a repeated call is 200 again.",
    parameters=[_JOB],
    answers={200: answer(200, json_of("JobCancelled"))},
    errors={**_NO_JOB, 409: ["job_already_terminal"], **_FULL},
)
_TAIL: Final = (
    "The last lines: the newest that fit in 4 MiB, one at least; `lines` says how many there are"
)
GET_OUTPUT: Final = operation(
    "get_output",
    "Read or follow a job's log",
    description="One way at a time: `tail`, or a page by `offset` and `limit`, or `follow`. A "
    "stream is server-sent events: each is a batch of lines, one `data:` line a log line, with the "
    "byte offset after them as `id`, which resumes it (`Last-Event-ID`). A batch that holds a "
    "carriage return, which no `data:` line can, is `event: encoded`, and its data is one JSON "
    "string: the batch's text, line feeds included. Comments are heartbeats. `event: end` carries "
    "`status`, `exit_code` and `error` of the ended job and is the last; a stream that ends "
    "without it is to be resumed.",
    parameters=[
        _JOB,
        query("tail", _TAIL, s.whole(least=1, maximum=10_000, default=100)),
        query("offset", "Page or stream from this byte", s.whole(maximum=2**53 - 1)),
        query("limit", "A page's bytes; one line at least", s.whole(least=1, maximum=1024**2)),
        query("follow", "Stream until the job has ended", {"type": "boolean", "default": False}),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Stream on after this event; wins over offset",
            "schema": s.text(pattern="^[0-9]{1,15}$"),
        },
    ],
    answers={
        200: answer(
            200,
            {
                **json_of("Output"),
                "text/event-stream": {
                    "schema": s.ref("StreamEvent"),
                    "example": "id: 21\ndata: [12:00:00.000] hello\n\n"
                    'id: 45\nevent: encoded\ndata: "[12:00:00.250] 50%\\r100%\\n"\n\n'
                    'id: 45\nevent: end\ndata: {"status":"completed","exit_code":0,"error":null}'
                    "\n\n",
                },
            },
        )
    },
    errors={404: ["job_not_found", "logs_not_available"], 410: ["logs_deleted"]},
)
_NO_ARTIFACTS: Final = {
    404: ["job_not_found", "artifacts_not_available"],
    410: ["artifacts_deleted"],
    503: ["copy_in_progress"],
}
LIST_ARTIFACTS: Final = operation(
    "list_artifacts",
    "List a job's artifacts",
    parameters=[_JOB],
    answers={200: answer(200, json_of("ArtifactPage"))},
    errors=_NO_ARTIFACTS,
)
_FILE_HEADERS: Final = (
    "ETag",
    "Repr-Digest",
    "Accept-Ranges",
    "Content-Disposition",
    "X-Content-Type-Options",
)
_BYTES: Final[dict[str, Any]] = {"application/octet-stream": {}, "application/x-tar": {}}
_NO_ARTIFACT: Final = {
    **_NO_ARTIFACTS,
    400: ["invalid_artifact_name"],
    404: [*_NO_ARTIFACTS[404], "artifact_not_found"],
}
_CONDITIONS: Final = [
    header("If-None-Match", "ETags the client has"),
    header("Range", "One byte range; several are answered with the whole"),
    header("If-Range", "The ETag for which the range is meant"),
]
GET_ARTIFACT: Final = operation(
    "download_artifact",
    "Download an artifact",
    description="A file supports one byte range a request; a directory comes as a tar stream.",
    parameters=[_JOB, _NAME, *_CONDITIONS],
    answers={
        200: answer(200, _BYTES, *_FILE_HEADERS),
        206: answer(206, {"application/octet-stream": {}}, *_FILE_HEADERS, "Content-Range"),
        304: answer(304, None, "ETag"),
    },
    errors={**_NO_ARTIFACT, 416: ["range_not_satisfiable"]},
)
HEAD_ARTIFACT: Final = operation(
    "head_artifact",
    "Show an artifact's headers",
    parameters=[_JOB, _NAME, _CONDITIONS[0]],
    answers={200: answer(200, None, *_FILE_HEADERS), 304: answer(304, None, "ETag")},
    errors=_NO_ARTIFACT,
    head=True,
)
_DEGRADED: Final = "Degraded: `checks` says what fails; or the service is not ready"
GET_HEALTH: Final = operation(
    "health",
    "Say whether the host can take and run jobs",
    answers={
        200: answer(200, json_of("Health")),
        503: answer(503, json_of("Health"), says=_DEGRADED),
    },
    public=True,
)
HEAD_HEALTH: Final = operation(
    "head_health",
    "The same, by status alone",
    answers={200: answer(200, None), 503: answer(503, None, says=_DEGRADED)},
    head=True,
    public=True,
)
GET_CAPACITY: Final = operation(
    "capacity",
    "Show what admission sees",
    parameters=[],
    answers={200: answer(200, json_of("Capacity"))},
)
GET_HISTORY: Final = operation(
    "capacity_history",
    "Show what was reserved and how full the disks were, oldest first",
    description="The last six hours of this process, a sample a minute.",
    parameters=[],
    answers={200: answer(200, json_of("CapacityHistory"))},
)
GET_UI: Final = operation(
    "ui",
    "A page for a person",
    description="Static, and open: it holds no data. Whoever opens it gives it the token.",
    parameters=[],
    answers={200: answer(200, {"text/html": {}})},
    public=True,
)
GET_UI_FILE: Final = operation(
    "ui_file",
    "A part of the page",
    parameters=[path("file", s.text("a file of the page", pattern="^[a-z]{1,16}[.][a-z]{2,4}$"))],
    answers={
        200: answer(200, {"text/css": {}, "text/javascript": {}, "image/svg+xml": {}}),
    },
    errors={404: ["not_found"]},
    public=True,
)
GET_OPENAPI: Final = operation(
    "openapi",
    "This document",
    answers={200: answer(200, {JSON: {"schema": {"type": "object"}}})},
)
