"""``/ui``: the page for a person. Static files, open to whoever reaches the API.

They hold no data and no secret: all that the page shows it asks of the API, with the token that
the person gives it, as any client does. So a browser can load it, which can't send the header.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request

from flashpods.api import operations
from flashpods.api.context import Context
from flashpods.api.parse import no_query
from flashpods.errors import NotFound, cut
from flashpods.web.reply import Header, Reply
from flashpods.web.routing import add

STATIC: Final = Path(__file__).with_name("static")
PAGE: Final = "index.html"
KINDS: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

# Nothing inline, nothing from elsewhere, no HTML from strings, in nobody's frame. An artifact is
# saved from a blob: URL, which is no fetch.
POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final[tuple[Header, ...]] = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cache-control", b"no-cache"),
)


class Page:
    """The files, read once."""

    def __init__(self, directory: Path = STATIC) -> None:
        """Read them."""
        self._replies = {
            file.name: Reply(
                200, file.read_bytes(), (*HEADERS, (b"content-type", KINDS[file.suffix]))
            )
            for file in directory.iterdir()
            if file.suffix in KINDS
        }

    async def page(self, request: Request) -> Reply:
        """Answer the page itself; a query is refused, so that nobody puts the token there."""
        no_query(request)
        return self._replies[PAGE]

    async def file(self, request: Request) -> Reply:
        """Answer one of its parts."""
        no_query(request)
        name: str = request.scope["path_params"]["file"]
        reply = self._replies.get(name)
        if reply is None or name == PAGE:
            raise NotFound(f"the page has no part {cut(name)}; it begins at /ui")
        return reply


def register(app: FastAPI, context: Context) -> None:  # noqa: ARG001 - as all parts are called
    """Add the calls."""
    page = Page()
    add(app, "GET", "/ui", page.page, operations.GET_UI)
    add(app, "GET", "/ui/{file}", page.file, operations.GET_UI_FILE)
