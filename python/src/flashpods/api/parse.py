"""Reads queries and bodies strictly: what is not understood is refused, by name."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request

from flashpods.api.middleware import BODY
from flashpods.errors import BadRequest, cut

_WHOLE: Final = re.compile(r"[0-9]{1,18}\Z")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?\Z")
_CURSOR: Final = re.compile(r"s([0-9]{1,18})\Z")


class Query:
    """The query of a request; each parameter at most once unless read with :meth:`many`."""

    def __init__(self, request: Request, allowed: Iterable[str]) -> None:
        """Parse it.

        Raises:
            BadRequest: a parameter that the call does not know, or that is not valid UTF-8.
        """
        self._values: dict[str, list[str]] = {}
        raw: bytes = request.scope["query_string"]
        if not raw:
            return
        allowed = tuple(allowed)
        try:
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64
            )
        except ValueError:
            raise BadRequest(
                "the query is not valid; give at most 64 parameters in percent-encoded UTF-8"
            ) from None
        for name, value in pairs:
            if name not in allowed:
                known = f"allowed are {', '.join(allowed)}" if allowed else "this call takes none"
                raise BadRequest(f"unknown query parameter {cut(name)}; {known}")
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        """Return whether the parameter is there."""
        return name in self._values

    def many(self, name: str) -> list[str]:
        """Return every value of a repeatable parameter."""
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """Return the value; None if absent. Raises BadRequest if it comes twice."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise BadRequest(f"the query parameter {name} comes {len(values)} times; give it once")
        return values[0]

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """Return a whole number between ``least`` and ``most``."""
        text = self.one(name)
        if text is None:
            return default
        number = int(text) if _WHOLE.match(text) else None
        if number is None or not least <= number <= most:
            raise BadRequest(f"{name} is {cut(text)}; give a whole number from {least} to {most}")
        return number

    def seconds(self, name: str, most: float) -> float:
        """Return a number of seconds from 0 to ``most``; 0 if absent."""
        text = self.one(name)
        if text is None:
            return 0.0
        number = float(text) if _DECIMAL.match(text) else math.inf
        if number > most:
            raise BadRequest(f"{name} is {cut(text)}; give seconds from 0 to {most:g}")
        return number

    def flag(self, name: str) -> bool:
        """Return ``true`` or ``false``; False if absent."""
        text = self.one(name)
        if text not in {None, "true", "false"}:
            raise BadRequest(f"{name} is {cut(text)}; give true or false")
        return text == "true"


def no_query(request: Request) -> None:
    """Refuse any query parameter."""
    if request.scope["query_string"]:
        Query(request, ())


def to_cursor(seq: int) -> str:
    """Return the opaque cursor of a list position."""
    return base64.urlsafe_b64encode(b"s%d" % seq).rstrip(b"=").decode()


def from_cursor(text: str) -> int:
    """Return the list position of a cursor. Raises BadRequest for anything we did not make."""
    try:
        found = _CURSOR.match(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
    except ValueError:
        found = None
    if found is None or to_cursor(int(found[1])) != text:
        raise BadRequest(f"cursor is {cut(text)}; give the next_cursor of a former answer")
    return int(found[1])


def json_body(request: Request, *, empty: Any = None) -> Any:
    """Return the body's JSON value, ``empty`` if there is no body.

    As JSON parsers commonly do, the last of two equal keys counts. NaN, infinities and lone
    surrogates are refused by orjson.

    Raises:
        BadRequest: not JSON, or declared as something else.
    """
    raw: bytes = request.scope.get(BODY, b"")
    kind = request.headers.get("content-type")
    if kind is not None and kind.partition(";")[0].strip().lower() != "application/json":
        raise BadRequest(f"Content-Type is {cut(kind)}; send application/json")
    if not raw and empty is not None:
        return empty
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise BadRequest(
            f"the body is not JSON: {e.msg} at character {e.pos}; send one JSON object"
        ) from None
