"""What the operations in :mod:`flashpods.api.operations` are built from."""

from __future__ import annotations

from typing import Any, Final

from flashpods.api import schemas as s
from flashpods.api.links import linked

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
JSON: Final = "application/json"

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


def answer(
    status: int, content: dict[str, Any] | None, *headers: str, says: str = ""
) -> dict[str, Any]:
    """Return a response: its content by media type (None: no body), its headers by name."""
    made: dict[str, Any] = {
        "description": says or _DESCRIPTIONS[status],
        "headers": _headers(*headers),
    }
    if content:
        made["content"] = content
    return made


def json_of(name: str, **example: Any) -> dict[str, Any]:
    """Return the content of a JSON body of that schema."""
    media: dict[str, Any] = {"schema": s.ref(name)}
    if example:
        media["example"] = example
    return {JSON: media}


def _error(status: int, codes: list[str], *, head: bool) -> dict[str, Any]:
    headers = {
        401: ("WWW-Authenticate",),
        416: ("Content-Range",),
        429: ("Retry-After",),
        503: ("Retry-After",),
    }.get(status, ())
    return answer(status, None if head else {JSON: {"schema": s.problem(codes)}}, *headers)


def operation(
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
    made: Operation = {
        "operationId": name,
        "summary": summary,
        "responses": {str(status): found for status, found in responses.items()},
        "security": [] if public else [{"bearer": []}],
    }
    if description:
        made["description"] = description
    if parameters:
        made["parameters"] = parameters
    if body:
        made["requestBody"] = body
    return linked(made)


def query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a query parameter."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def header(name: str, description: str) -> dict[str, Any]:
    """Return a header that a request may have."""
    return {"name": name, "in": "header", "description": description, "schema": s.text()}


def path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": schema}
