"""The one place where an exception becomes an answer: ``{"error", "message", "details", …}``."""

from __future__ import annotations

from traceback import format_exception
from typing import Final

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from flashpods.errors import (
    BadRequest,
    FlashpodsError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    StaleState,
    Unavailable,
)
from flashpods.web.reply import Header, Reply, json_reply

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = "1"


def translate(exc: Exception) -> FlashpodsError:
    """Return the error to answer with; what we did not foresee is an ``internal_error``.

    Only errors of ours carry text from the exception: nothing else may leave the host.
    """
    if isinstance(exc, StaleState):
        # Somebody moved the row between our look and our act; a second look will be right.
        return Unavailable("the job changed at the same moment; send the request again")
    if isinstance(exc, FlashpodsError):
        return exc
    if isinstance(exc, HTTPException):
        if exc.status_code == 405:
            return MethodNotAllowed(
                "this path does not take that method; see the Allow header",
                headers=dict(exc.headers or {}),
            )
        if exc.status_code == 404:
            return NotFound("there is no such path; GET /openapi.json lists them all")
    if isinstance(exc, RequestValidationError):
        return BadRequest("the request does not fit the call; see /openapi.json")
    return InternalError("something failed on the host; its journal has the details by request id")


def problem(error: FlashpodsError) -> Reply:
    """Return the error's answer."""
    headers: list[Header] = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in error.headers.items()
    ]
    if error.status == 503 and not any(name == b"retry-after" for name, _ in headers):
        headers.append((b"retry-after", RETRY_SECONDS.encode()))
    body = {
        **error.extra,
        "error": error.code,
        "message": error.message,
        "details": error.details,
    }
    return json_reply(body, error.status, headers)


def report(
    error: FlashpodsError, exc: Exception, *, request_id: str, method: str, path: str
) -> None:
    """Log one line for a refused or failed request; a traceback only for our own faults.

    The path is cut: it comes from outside. Queries, headers and bodies are never logged.
    """
    fields = {
        "request_id": request_id,
        "method": method,
        "path": path[:200],
        "status": error.status,
        "error": error.code,
    }
    if error.status == 500:
        # Formatted here: a renderer of tracebacks with local variables would log the token.
        log.error("request failed", **fields, traceback="".join(format_exception(exc)))
    elif error.status >= 500:
        log.warning("request failed", **fields, message=error.message)
    else:
        log.info("request refused", **fields)
