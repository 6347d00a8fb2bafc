"""Requests to the host's API: the token, deadlines, retries, and errors with their codes."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, HostUnreachable
from flashpods.client.retry import Retries, classify, parse_http_date, parse_retry_after

__all__ = ["Answer", "Http", "OnRetry", "Sleep"]

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
MAX_ANSWER_BYTES: Final = 128 << 20  # 10 000 log lines are the largest answer there is
MAX_ERROR_BYTES: Final = 1 << 20

Sleep = Callable[[float], Awaitable[None]]
OnRetry = Callable[[ClientError, float], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer; an empty body is an empty object."""

    status: int
    body: dict[str, Any]


class Http:
    """One connection pool to one host.

    Proxies of the environment are not used: the host is behind a tunnel, and a proxy would read
    the token.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        on_retry: OnRetry | None = None,
    ) -> None:
        """Open the pool.

        Args:
            config: where the host is.
            transport: for tests.
            sleep: waits between tries.
            jitter: returns [0, 1).
            on_retry: is told the error and the seconds until the next try.
        """
        self.config = config
        self.sleep = sleep
        self.clock_skew: float | None = None  # seconds that our clock is ahead of the host's
        self._jitter = jitter
        self._on_retry = on_retry
        self._client = httpx.AsyncClient(
            base_url=config.base_url,
            headers={
                "Authorization": f"Bearer {config.token}",
                "Accept-Encoding": "identity",  # byte cursors, ranges and digests are of the bytes
                "User-Agent": "flashpods-client",
            },
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def retries(self, network_limit: int | None = None) -> Retries:
        """Return a fresh counter for one call."""
        return Retries(self.config.retry, jitter=self._jitter, network_limit=network_limit)

    async def pause(self, retries: Retries, error: ClientError) -> None:
        """Wait before the next try, or raise ``error`` when there is to be none."""
        retryable = error.status is not None or isinstance(error, HostUnreachable)
        delay = retries.next_delay(classify(error.status), error.retry_after) if retryable else None
        if delay is None:
            raise error
        self.tell_retry(error, delay)
        await self.sleep(delay)

    def tell_retry(self, error: ClientError, delay: float) -> None:
        """Tell whoever watches that there will be another try in ``delay`` seconds."""
        if self._on_retry is not None:
            self._on_retry(error, delay)

    async def json(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        read_seconds: float = READ_SECONDS,
        retry: bool = True,
        network_limit: int | None = None,
        accept: frozenset[int] = frozenset(),
    ) -> Answer:
        """Send a request and return its JSON object.

        Args:
            method: the HTTP method.
            path: below the base URL, already quoted.
            params: the query.
            body: the JSON body.
            read_seconds: how long the host may be silent, and with 30 s more, take in all.
            retry: whether to follow the retry table.
            network_limit: tries without an answer, other than the table's.
            accept: statuses over 399 that are answers here, not errors.

        Raises:
            ClientError: the host refused (its code), or ``invalid_answer``.
            HostUnreachable: no answer came.
        """
        retries = self.retries(network_limit)
        while True:
            try:
                return await self._once(
                    method, path, params=params, body=body, read_seconds=read_seconds, accept=accept
                )
            except ClientError as error:
                if not retry:
                    raise
                await self.pause(retries, error)

    async def _once(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None,
        body: dict[str, Any] | None,
        read_seconds: float,
        accept: frozenset[int],
    ) -> Answer:
        stream = self.stream(
            method, path, params=params, body=body, read_seconds=read_seconds, accept=accept
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS + read_seconds + 30), stream as response:
                content = await _read(response, MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise HostUnreachable(f"{self.config.base_url} answers too slowly") from error
        if not content and response.status_code == 204:
            return Answer(204, {})
        return Answer(response.status_code, _object(content))

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        read_seconds: float = READ_SECONDS,
        accept: frozenset[int] = frozenset(),
    ) -> AsyncIterator[httpx.Response]:
        """Send one request, once; yield the response with its body still to come.

        Raises:
            ClientError: the host refused.
            HostUnreachable: no answer came, or the body was cut while it was read.
        """
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, read=read_seconds)
        try:
            async with self._client.stream(
                method, path, params=params, json=body, headers=headers, timeout=timeout
            ) as response:
                self._note_clock(response)
                if not response.is_success and response.status_code not in accept:
                    raise await _refusal(response, self.config.token_source)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise ClientError("invalid_answer", "the host's answer is encoded, unasked")
                yield response
        except httpx.TransportError as error:
            raise HostUnreachable(self._explain(error)) from error

    def _note_clock(self, response: httpx.Response) -> None:
        """Remember how far the clocks are apart; the header's whole seconds show no less than 2."""
        date = parse_http_date(response.headers.get("Date"))
        if date is not None:
            skew = (datetime.now(UTC) - date).total_seconds() - 0.5
            self.clock_skew = skew if abs(skew) >= 2 else 0.0

    def _explain(self, error: Exception) -> str:
        where = self.config.base_url
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return f"cannot reach {where}: {_cause(error)}; are host and tunnel (wg show) up?"
        if isinstance(error, httpx.TimeoutException):
            return f"{where} did not answer in time"
        return f"the connection to {where} was cut: {str(error) or type(error).__name__}"


def _cause(error: BaseException) -> str:
    """Return the system's own words for a failed connection, which lie deep in the chain."""
    found = str(error) or "no answer"
    step: BaseException | None = error
    for _ in range(10):  # chains are short; a cycle is not followed
        if step is None:
            break
        if isinstance(step, BaseExceptionGroup):
            step = step.exceptions[0]
        if isinstance(step, OSError) and step.errno is not None and step.strerror:
            found = os.strerror(step.errno) if step.errno > 0 else step.strerror
        step = step.__cause__ or step.__context__
    return found


async def _read(response: httpx.Response, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > limit:
            raise ClientError("invalid_answer", f"the host's answer is over {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ClientError("invalid_answer", "the host's answer is not JSON") from error
    if not isinstance(value, dict):
        raise ClientError("invalid_answer", "the host's answer is not a JSON object")
    return value


async def _refusal(response: httpx.Response, token_source: str) -> ClientError:
    """Turn an answer that is no success into an error with the host's own code."""
    status = response.status_code
    date = parse_http_date(response.headers.get("Date"))
    retry_after = parse_retry_after(response.headers.get("Retry-After"), date)
    try:
        raw = _object(await _read(response, MAX_ERROR_BYTES))
    except ClientError:
        raw = {}
    code, message = raw.pop("error", None), raw.pop("message", None)
    details = raw.pop("details", None)
    merged = {**(details if isinstance(details, dict) else {}), **raw}
    if not isinstance(code, str):
        code = f"http_{status}"
    if not isinstance(message, str):
        message = f"the host answered {status} without an explanation; is it a Flashpods API?"
    if status == 401:
        message += f"; the token came from {token_source}: compare it with the host's"
    return ClientError(code, message, status=status, details=merged, retry_after=retry_after)
