"""Each call's OpenAPI operation: parameters, bodies, every status with its shape and its codes."""

from __future__ import annotations

from typing import Any, Final

from flashpods.api import schemas as s
from flashpods.jobs.states import JobStatus

Operation = dict[str, Any]

_DESCRIPTIONS: Final = {
    200: "Done",
    201: "Created",
    204: "Gone as asked",
    206: "The range",
    304: "As the client has it",
    400: "The request is wrong; change it",
    401: "No token, or not one of the host's",
    404: "There is no such thing, or not yet",
    409: "The state of the thing forbids it",
    410: "It has been deleted, or has expired",
    413: "The body is too large",
    416: "The range is malformed or beyond the end",
    429: "Too often, or too much at once; wait",
    500: "Our fault; the journal has the details",
    503: "Not now; ask again",
    507: "A disk or quota is full",
}
_LIMITS: Final = ("X-Request-Id", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_COMMON: Final[dict[int, list[str]]] = {
    400: ["invalid_request"],
    401: ["missing_authorization", "malformed_authorization", "invalid_token"],
    413: ["request_too_large"],
    429: ["rate_limited"],
    500: ["internal_error"],
    503: ["service_unavailable"],
}
_JSON: Final = "application/json"

HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's, if it was 1 to 128 of A-Z a-z 0-9 . _ -; else a new one",
        "required": True,
        "schema": s.text(pattern="^[A-Za-z0-9._-]{1,128}$"),
    },
    "X-RateLimit-Limit": {
        "description": "Requests a second for this client",
        "required": True,
        "schema": s.whole(least=1),
    },
    "X-RateLimit-Remaining": {
        "description": "Requests that may be sent at once now",
        "required": True,
        "schema": s.whole(),
    },
    "X-RateLimit-Reset": {
        "description": "Seconds until the whole burst is there again",
        "required": True,
        "schema": s.whole(),
    },
    "Retry-After": {"description": "Seconds to wait", "schema": s.whole(least=1)},
    "WWW-Authenticate": {"required": True, "schema": s.text()},
    "Location": {"description": "The new thing's path", "schema": s.text()},
    "ETag": {"description": "The SHA-256, quoted; files only", "schema": s.text()},
    "Repr-Digest": {"description": "RFC 9530, sha-256; files only", "schema": s.text()},
    "Accept-Ranges": {"schema": {"type": "string", "enum": ["bytes"]}},
    "Content-Range": {"required": True, "schema": s.text(pattern="^bytes .*/[0-9]+$")},
    "Content-Disposition": {"schema": s.text()},
    "X-Content-Type-Options": {"schema": {"type": "string", "enum": ["nosniff"]}},
}


def _headers(*names: str) -> dict[str, Any]:
    return {n: {"$ref": f"#/components/headers/{n}"} for n in (*_LIMITS, *names)}


def _answer(
    status: int, content: dict[str, Any] | None, *headers: str, says: str = ""
) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": says or _DESCRIPTIONS[status],
        "headers": _headers(*headers),
    }
    if content:
        answer["content"] = content
    return answer


def _json(name: str, **example: Any) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": s.ref(name)}
    if example:
        media["example"] = example
    return {_JSON: media}


def _error(status: int, codes: list[str], *, head: bool) -> dict[str, Any]:
    headers = {
        401: ("WWW-Authenticate",),
        416: ("Content-Range",),
        429: ("Retry-After",),
        503: ("Retry-After",),
    }.get(status, ())
    return _answer(status, None if head else {_JSON: {"schema": s.problem(codes)}}, *headers)


def _operation(
    name: str,
    summary: str,
    *,
    answers: dict[int, dict[str, Any]],
    errors: dict[int, list[str]] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    description: str = "",
    head: bool = False,
    public: bool = False,
) -> Operation:
    """Build an operation; the errors that every call has are added."""
    codes = {status: list(found) for status, found in _COMMON.items()}
    if public:
        del codes[401]
    for status, found in (errors or {}).items():
        codes.setdefault(status, []).extend(found)
    for status in answers:
        codes.pop(status, None)
    responses = {**answers, **{st: _error(st, c, head=head) for st, c in sorted(codes.items())}}
    operation: Operation = {
        "operationId": name,
        "summary": summary,
        "responses": {str(status): answer for status, answer in responses.items()},
        "security": [] if public else [{"bearer": []}],
    }
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    return operation


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": s.text()}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_JOB: Final = _path("job_id", s.text(pattern=s.JOB_ID))
_UPLOAD: Final = _path("upload_id", s.text(pattern=s.UPLOAD_ID))
_NAME: Final = _path(
    "name", s.text("a name of the list, percent-encoded", minLength=1, maxLength=255)
)
_NO_JOB: Final = {404: ["job_not_found"]}
_FULL: Final = {507: ["insufficient_storage"]}

POST_UPLOAD: Final = _operation(
    "reserve_upload",
    "Reserve an upload id",
    description="Push the tree with rsync to `rsync_url`, then finalize.",
    body={
        "required": False,
        "content": {
            _JSON: {
                "schema": s.record(
                    {},
                    {
                        "project": s.nullable(
                            s.text(
                                "whose last tree may serve as base",
                                pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                            )
                        )
                    },
                ),
                "example": {"project": "flashpods"},
            }
        },
    },
    answers={201: _answer(201, _json("UploadReserved"), "Location")},
    errors={409: ["upload_exists"], **_FULL},
)
FINALIZE_UPLOAD: Final = _operation(
    "finalize_upload",
    "Close an upload to writing and measure it",
    parameters=[_UPLOAD],
    answers={200: _answer(200, _json("UploadFinalized"))},
    errors={
        404: ["upload_not_found"],
        409: ["upload_in_progress", "upload_already_finalized", "upload_already_consumed"],
        410: ["upload_expired"],
        **_FULL,
    },
)
GET_UPLOAD: Final = _operation(
    "get_upload",
    "Show an upload",
    parameters=[_UPLOAD],
    answers={200: _answer(200, _json("Upload"))},
    errors={404: ["upload_not_found"], **_FULL},
)
DISCARD_UPLOAD: Final = _operation(
    "discard_upload",
    "Expire an upload and delete its tree",
    parameters=[_UPLOAD],
    answers={204: _answer(204, None)},
    errors={
        404: ["upload_not_found"],
        409: ["upload_in_progress", "upload_already_consumed"],
        **_FULL,
    },
)
POST_JOB: Final = _operation(
    "submit_job",
    "Submit a job",
    description="Values above the type's maximum are clamped; `granted` says what the job has.",
    body={
        "required": True,
        "content": {
            _JSON: {
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
        201: _answer(201, _json("JobAccepted"), "Location"),
        200: _answer(200, _json("JobAccepted"), "Location", says="The key's job, as it is"),
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
LIST_JOBS: Final = _operation(
    "list_jobs",
    "List jobs, newest first",
    parameters=[
        {
            **_query(
                "status",
                "Repeatable; `active` is pending, starting and running; all if absent",
                s.listed(s.text(enum=["all", "active", *(st.value for st in JobStatus)])),
            ),
            "style": "form",
            "explode": True,
        },
        _query("limit", "How many", s.whole(least=1, maximum=100, default=20)),
        _query("cursor", "The `next_cursor` of the page before", s.text()),
    ],
    answers={200: _answer(200, _json("JobPage"))},
)
GET_JOB: Final = _operation(
    "get_job",
    "Show a job",
    parameters=[
        _JOB,
        _query(
            "wait",
            "Seconds: answer when status, phase or cancel_requested has changed, or then",
            {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
        ),
    ],
    answers={200: _answer(200, _json("Job"))},
    errors=_NO_JOB,
)
CANCEL_JOB: Final = _operation(
    "cancel_job",
    "Cancel a job",
    description="Recorded durably. The job is `cancelled` once its container is dead and its "
    "output collected; until then it shows `cancel_requested`, and a repeated call is 200 again.",
    parameters=[_JOB],
    answers={200: _answer(200, _json("JobCancelled"))},
    errors={**_NO_JOB, 409: ["job_already_terminal"], **_FULL},
)
GET_OUTPUT: Final = _operation(
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
        _query("tail", "The last lines", s.whole(least=1, maximum=10_000, default=100)),
        _query("offset", "Page or stream from this byte", s.whole(maximum=2**53 - 1)),
        _query("limit", "A page's bytes; one line at least", s.whole(least=1, maximum=1024**2)),
        _query("follow", "Stream until the job has ended", {"type": "boolean", "default": False}),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Stream on after this event; wins over offset",
            "schema": s.text(pattern="^[0-9]{1,15}$"),
        },
    ],
    answers={
        200: _answer(
            200,
            {
                **_json("Output"),
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
LIST_ARTIFACTS: Final = _operation(
    "list_artifacts",
    "List a job's artifacts",
    parameters=[_JOB],
    answers={200: _answer(200, _json("ArtifactPage"))},
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
    _header("If-None-Match", "ETags the client has"),
    _header("Range", "One byte range; several are answered with the whole"),
    _header("If-Range", "The ETag for which the range is meant"),
]
GET_ARTIFACT: Final = _operation(
    "download_artifact",
    "Download an artifact",
    description="A file supports one byte range a request; a directory comes as a tar stream.",
    parameters=[_JOB, _NAME, *_CONDITIONS],
    answers={
        200: _answer(200, _BYTES, *_FILE_HEADERS),
        206: _answer(206, {"application/octet-stream": {}}, *_FILE_HEADERS, "Content-Range"),
        304: _answer(304, None, "ETag"),
    },
    errors={**_NO_ARTIFACT, 416: ["range_not_satisfiable"]},
)
HEAD_ARTIFACT: Final = _operation(
    "head_artifact",
    "Show an artifact's headers",
    parameters=[_JOB, _NAME, _CONDITIONS[0]],
    answers={200: _answer(200, None, *_FILE_HEADERS), 304: _answer(304, None, "ETag")},
    errors=_NO_ARTIFACT,
    head=True,
)
_DEGRADED: Final = "Degraded: `checks` says what fails; or the service is not ready"
GET_HEALTH: Final = _operation(
    "health",
    "Say whether the host can take and run jobs",
    answers={
        200: _answer(200, _json("Health")),
        503: _answer(503, _json("Health"), says=_DEGRADED),
    },
    public=True,
)
HEAD_HEALTH: Final = _operation(
    "head_health",
    "The same, by status alone",
    answers={200: _answer(200, None), 503: _answer(503, None, says=_DEGRADED)},
    head=True,
    public=True,
)
GET_CAPACITY: Final = _operation(
    "capacity",
    "Show what admission sees",
    parameters=[],
    answers={200: _answer(200, _json("Capacity"))},
)
GET_OPENAPI: Final = _operation(
    "openapi",
    "This document",
    answers={200: _answer(200, {_JSON: {"schema": {"type": "object"}}})},
)
