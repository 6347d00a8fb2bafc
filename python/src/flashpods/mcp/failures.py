"""Every failure of a tool as ``{"error", "message"}`` that a model can act on."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterable
from typing import Any, Final

from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import CallToolResult, TextContent
from pydantic import ValidationError

from flashpods.client.errors import ClientError

__all__ = ["as_dict", "as_result", "invalid_arguments", "unknown_arguments"]

log = logging.getLogger(__name__)

SHOWN: Final = 5
MAX_DETAILS: Final = 2000  # characters

# What to do next, where the host's own message does not know the tools.
_REMEDIES: Final = {
    "insufficient_resources": "wait for a job to end (wait_for_job, list_jobs status=active), ask "
    "for fewer cpus or memory_gb, or use spawn_many, which queues",
    "host_unreachable": "nothing is known to have changed on the host; jobs that ran go on. Tell "
    "the user if it lasts",
    "missing_token": "this is for the user to do; no tool can",
    "invalid_token": "this is for the user to do: the token is not the host's",
    "upload_failed": "no job was made; correct what it names and call the tool again",
    "upload_disk_full": "no job was made; leave more out with files.exclude",
    "insufficient_storage": "no job was made; push less, or tell the user that the host is full",
    "rsync_missing": "no job was made; this is for the user to do",
    "logs_not_available": "wait_for_job tells when it has started",
    "artifacts_not_available": "wait_for_job first",
    "artifact_not_found": "get_job_artifacts lists the names",
    "job_not_found": "list_jobs shows the ids",
    "logs_deleted": "logs are kept for a day after a job's end",
    "artifacts_deleted": "artifacts are kept for an hour after a job's end; run it again",
    "invalid_target": "give save_to another path",
}


def as_dict(error: ClientError) -> dict[str, Any]:
    """Return the failure for a model: the host's code and words, and what to do next."""
    message = error.message
    if remedy := _REMEDIES.get(error.code):
        message += f"{'' if message.endswith(('.', '?', '!')) else '.'} Next: {remedy}."
    answer: dict[str, Any] = {"error": error.code, "message": message}
    if error.details and len(json.dumps(error.details, default=str)) <= MAX_DETAILS:
        answer["details"] = error.details
    return answer


def unknown_arguments(given: Iterable[str], known: Iterable[str]) -> str | None:
    """Return what is wrong with argument names that the tool does not have, or None."""
    names = sorted(known)
    wrong = [name for name in given if name not in names]
    if not wrong:
        return None
    close = difflib.get_close_matches(wrong[0], names, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"unknown argument {', '.join(wrong[:SHOWN])[:200]}{hint} It takes {', '.join(names)}"


def invalid_arguments(error: ValidationError) -> str:
    """Return which arguments are wrong, with their values."""
    faults = []
    for fault in error.errors(include_url=False)[:SHOWN]:
        where = ".".join(str(part) for part in fault["loc"]) or "arguments"
        given = "" if fault["type"] == "missing" else f" (it is {str(fault['input'])[:80]!r})"
        faults.append(f"{where}: {fault['msg']}{given}")
    return "; ".join(faults)


def as_result(name: str, error: ToolError) -> CallToolResult:
    """Return the tool's result for a failure; what nobody foresaw is logged with its trace."""
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return failed(as_dict(cause))
    if isinstance(cause, ValidationError) and not isinstance(error, UnexpectedToolError):
        return failed({"error": "invalid_arguments", "message": invalid_arguments(cause)})
    if isinstance(cause, OSError):  # of this machine: a directory that has gone, a full disk
        return failed({"error": "local_failure", "message": f"the laptop's own: {cause}"})
    if cause is None and not isinstance(error, UnexpectedToolError):
        return failed({"error": "unknown_tool", "message": str(error)})
    log.error("tool %r failed", name, exc_info=cause or error)
    what = type(cause or error).__name__
    return failed(
        {
            "error": "internal_error",
            "message": f"flashpods-mcp itself failed in {name} ({what}); its standard error has "
            f"the trace. Jobs are not affected: list_jobs shows them",
        }
    )


def failed(answer: dict[str, Any]) -> CallToolResult:
    """Return a result that the model reads as a failure."""
    text = json.dumps(answer, ensure_ascii=False, default=str)
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
