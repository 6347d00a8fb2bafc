"""How the calls follow from each other: OpenAPI links, by operation and status.

A client, or a tester of the whole, finds from an answer where it can go on.
"""

from __future__ import annotations

from typing import Any, Final

_OF_A_JOB: Final = ("get_job", "cancel_job", "get_output", "list_artifacts")
_OF_AN_UPLOAD: Final = ("get_upload", "finalize_upload", "discard_upload")
_PATH_JOB: Final = {"job_id": "$request.path.job_id"}


def _to(operations: tuple[str, ...], **parameters: str) -> dict[str, Any]:
    return {name: {"operationId": name, "parameters": parameters} for name in operations}


def _submit(files_id: str) -> dict[str, Any]:
    body = {"type": "worker", "command": "ls", "files_id": files_id}
    return {"submit_job": {"operationId": "submit_job", "requestBody": body}}


LINKS: Final[dict[tuple[str, int], dict[str, Any]]] = {
    ("reserve_upload", 201): _to(_OF_AN_UPLOAD, upload_id="$response.body#/upload_id"),
    ("finalize_upload", 200): _to(_OF_AN_UPLOAD, upload_id="$request.path.upload_id")
    | _submit("$response.body#/upload_id"),
    ("get_upload", 200): _to(_OF_AN_UPLOAD, upload_id="$response.body#/upload_id")
    | _submit("$response.body#/upload_id"),
    ("submit_job", 201): _to(_OF_A_JOB, job_id="$response.body#/job_id"),
    ("submit_job", 200): _to(_OF_A_JOB, job_id="$response.body#/job_id"),
    ("list_jobs", 200): _to(_OF_A_JOB, job_id="$response.body#/jobs/0/id")
    | _to(("list_jobs",), cursor="$response.body#/next_cursor"),
    ("get_job", 200): _to(_OF_A_JOB, job_id="$response.body#/id"),
    ("cancel_job", 200): _to(_OF_A_JOB, job_id="$response.body#/job_id"),
    ("get_output", 200): _to(("get_job", "cancel_job", "list_artifacts"), **_PATH_JOB),
    ("list_artifacts", 200): _to(
        ("download_artifact", "head_artifact"), **_PATH_JOB, name="$response.body#/artifacts/0/name"
    ),
}


def linked(operation: dict[str, Any]) -> dict[str, Any]:
    """Add its links to an operation's responses, in place; return it."""
    for status, response in operation["responses"].items():
        if found := LINKS.get((operation["operationId"], int(status))):
            response["links"] = found
    return operation
