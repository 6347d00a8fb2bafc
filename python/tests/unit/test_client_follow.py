"""Following a log through cut connections: no line lost, none doubled."""

import asyncio
import collections
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flashpods.api.stream import to_event
from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, HostUnreachable
from flashpods.client.follow import SseParser

LOG = (
    "[10:00:00.000] one\n[10:00:00.001] \n[10:00:00.002] zwei ü€😀\n"
    "[10:00:00.003] data: not a field\n[10:00:00.004] 10%\r20%\n[10:00:00.005] last\n"
).encode()


def frames(log: bytes, offset: int, per_event: int = 2) -> bytes:
    """Return the event stream of a log from an offset on, as the API sends it."""
    out = bytearray(b": keep-alive\n\n")
    lines = [line + b"\n" for line in log[offset:].split(b"\n")[:-1]]
    for start in range(0, len(lines), per_event):
        group = b"".join(lines[start : start + per_event])
        offset += len(group)
        out += to_event(group.decode(), offset)
    return bytes(out + b'event: end\ndata: {"status": "completed", "exit_code": 0}\n\n')


class Cut(httpx.AsyncByteStream):
    def __init__(self, data: bytes, clean: bool, step: int) -> None:
        self.data, self.clean, self.step = data, clean, step

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), self.step):
            yield self.data[start : start + self.step]
        if not self.clean:
            raise httpx.ReadError("cut")


class Host:
    """Serves LOG; the n-th connection is cut after cuts[n] bytes, later ones not at all."""

    def __init__(self, cuts: list[int], *, clean: bool = False, step: int = 7) -> None:
        self.cuts, self.clean, self.step = list(cuts), clean, step
        self.offsets: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        offset = int(request.headers["Last-Event-ID"])
        assert request.url.params["offset"] == str(offset)
        self.offsets.append(offset)
        data = frames(LOG, offset)
        if self.cuts:
            return httpx.Response(200, stream=Cut(data[: self.cuts.pop(0)], self.clean, self.step))
        return httpx.Response(200, stream=Cut(data, True, self.step))


Handler = Callable[[httpx.Request], httpx.Response]


async def nap(seconds: float) -> None:
    await asyncio.sleep(0)


def client(handler: Handler) -> FlashpodsClient:
    config = ClientConfig(token="t")
    return FlashpodsClient(config, transport=httpx.MockTransport(handler), sleep=nap)


async def collect(handler: Handler, since: int | None = None) -> tuple[bytes, list[int]]:
    text, cursors = "", []
    async with client(handler) as c:
        async for piece, cursor in c.follow("j", since):
            text += piece
            cursors.append(cursor)
    return text.encode(), cursors


async def test_a_stream_that_is_not_cut() -> None:
    text, cursors = await collect(Host([]))
    assert text == LOG
    assert cursors == sorted(set(cursors))
    assert cursors[-1] == len(LOG)


@pytest.mark.parametrize("clean", [True, False])
async def test_a_cut_at_every_byte(clean: bool) -> None:
    for at in range(len(frames(LOG, 0))):
        host = Host([at], clean=clean)
        text, _ = await collect(host)
        assert text == LOG, at
        assert len(host.offsets) == 2, at


@settings(max_examples=80, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 600), max_size=9),
    clean=st.booleans(),
    step=st.integers(1, 100),
)
def test_any_cuts_in_a_row(cuts: list[int], clean: bool, step: int) -> None:
    text, _ = asyncio.run(collect(Host(cuts, clean=clean, step=step)))
    assert text == LOG


async def test_since_continues() -> None:
    _, cursors = await collect(Host([]))
    text, _ = await collect(Host([]), cursors[0])
    assert text == LOG[cursors[0] :]


async def test_events_that_were_seen_are_not_shown_again() -> None:
    whole = frames(LOG, 0)
    calls = 0

    def stubborn(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        cut = whole[: len(whole) // 2] if calls == 1 else whole
        return httpx.Response(200, stream=Cut(cut, True, 7))  # ignores the cursor

    text, _ = await collect(stubborn)
    assert text == LOG


async def test_refusals_while_the_api_restarts() -> None:
    host = Host([120])
    failures: list[int | Exception] = [
        httpx.ConnectError("refused"),
        503,
        502,
        httpx.ConnectError("refused"),
        httpx.ConnectError("refused"),
        httpx.ConnectError("refused"),
        httpx.ConnectError("refused"),
    ]

    def handler(request: httpx.Request) -> httpx.Response:
        if host.offsets and failures:
            step = failures.pop(0)
            if isinstance(step, Exception):
                raise step
            return httpx.Response(step, json={"error": "service_unavailable", "message": "m"})
        return host(request)

    text, _ = await collect(handler)
    assert text == LOG


async def test_a_host_that_never_comes_back_ends_it() -> None:
    calls = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(200, stream=Cut(b"", True, 1))

    with pytest.raises(HostUnreachable):
        await collect(handler)
    assert calls == 11


async def test_a_host_that_was_never_there_ends_it_sooner() -> None:
    calls = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        raise httpx.ConnectError("refused")

    with pytest.raises(HostUnreachable):
        await collect(handler)
    assert calls == 4


async def test_a_job_without_a_log_yet_is_waited_for() -> None:
    host = Host([])
    states = ["pending", "starting"]
    asked: list[dict[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/output"):
            asked.append(dict(request.url.params))
            state = states.pop(0)
            row = {"id": "j", "status": state, "type": "w", "revision": state}
            return httpx.Response(200, json=row)
        if states:
            return httpx.Response(404, json={"error": "logs_not_available", "message": "m"})
        return host(request)

    text, _ = await collect(handler)
    assert text == LOG
    assert asked == [{}, {"wait": "30", "since": "pending"}]


async def test_a_job_that_began_before_it_was_waited_for_is_not_waited_for() -> None:
    host = Host([])
    asked: list[dict[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/output"):
            asked.append(dict(request.url.params))
            return httpx.Response(200, json={"id": "j", "status": "running", "type": "w"})
        if not asked:
            return httpx.Response(404, json={"error": "logs_not_available", "message": "m"})
        return host(request)

    text, _ = await collect(handler)
    assert text == LOG
    assert asked == [{}]


@pytest.mark.parametrize("late_log", [True, False])
async def test_a_job_that_ended_while_it_was_waited_for(late_log: bool) -> None:
    host = Host([])
    asked = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        if not request.url.path.endswith("/output"):
            return httpx.Response(200, json={"id": "j", "status": "failed", "type": "w"})
        asked += 1
        if asked == 1 or not late_log:
            return httpx.Response(404, json={"error": "logs_not_available", "message": "m"})
        return host(request)

    text, _ = await collect(handler)
    assert text == (LOG if late_log else b"")
    assert asked == 2


@pytest.mark.parametrize(("status", "code"), [(404, "job_not_found"), (410, "logs_deleted")])
async def test_what_the_host_refuses_ends_it(status: int, code: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"error": code, "message": "m"})

    with pytest.raises(ClientError) as caught:
        await collect(handler)
    assert caught.value.code == code


LINE = st.text(
    st.characters(exclude_characters="\n", codec="utf-8")
    | st.sampled_from("\r\0\u2028\u2029\x85\x0b\x0c\x1c\ufeff␍")
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINE, min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 60))
@example(["50%\r100%", "dos\r", "\r", "", "\0", "\u2028", "\x85", "\r\r"], 2, 1)
@example(["data: {}", "event: encoded", '"x"', ": no comment", "id: 9"], 1, 3)
def test_any_text_arrives_as_it_was_written(lines: list[str], per_event: int, step: int) -> None:
    log = "".join(f"{line}\n" for line in lines).encode()

    def handler(request: httpx.Request) -> httpx.Response:
        offset = int(request.headers["Last-Event-ID"])
        return httpx.Response(200, stream=Cut(frames(log, offset, per_event), True, step))

    text, cursors = asyncio.run(collect(handler))
    assert text == log
    assert cursors[-1] == len(log)


@pytest.mark.parametrize("data", ["", "no json", "5", "null", '["x"]', '"cut', "[" * 100_000])
async def test_an_encoded_event_without_a_text_is_refused(data: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=f"id: 4\nevent: encoded\ndata: {data}\n\n".encode())

    with pytest.raises(ClientError) as caught:
        await collect(handler)
    assert caught.value.code == "invalid_answer"


async def test_an_event_of_an_unknown_type_is_passed_over() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"id: 1\nevent: news\ndata: x\n\n" + frames(LOG, 0))

    text, _ = await collect(handler)
    assert text == LOG


async def test_an_event_without_a_cursor_is_refused() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"data: x\n\n")

    with pytest.raises(ClientError) as caught:
        await collect(handler)
    assert caught.value.code == "invalid_answer"


def test_the_parser_drops_what_is_not_complete() -> None:
    parser = SseParser()
    assert parser.feed(b"id: 4\ndata: abc\n") == []
    (event,) = parser.feed(b"\nid: 9\ndata: never ended")
    assert (event.type, event.id, event.data) == ("message", "4", "abc")


def test_the_parser_reads_crlf_and_other_fields() -> None:
    parser = SseParser()
    (event,) = parser.feed(b": hi\r\nretry: 5\r\nevent: end\r\ndata:{}\r\n\r\n")
    assert event.type == "end"
    assert json.loads(event.data) == {}


def test_the_parser_bounds_an_event() -> None:
    parser = SseParser()
    line = b"data: " + b"x" * (1 << 20) + b"\n"
    with pytest.raises(ClientError) as caught:
        collections.deque(map(parser.feed, [line] * 70), maxlen=0)
    assert caught.value.code == "invalid_answer"
