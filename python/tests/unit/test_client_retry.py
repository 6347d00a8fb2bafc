"""The retry table of the contract, section 9."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, HostUnreachable
from flashpods.client.retry import Failure, Retries, RetryPolicy, classify, parse_retry_after


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (None, Failure.NETWORK),
        (429, Failure.BUSY),
        (503, Failure.BUSY),
        (500, Failure.SERVER),
        (502, Failure.SERVER),
        (504, Failure.SERVER),
        (507, Failure.FINAL),
        *[(status, Failure.FINAL) for status in (200, 302, 400, 401, 404, 405, 409, 410, 413)],
    ],
)
def test_classify(status: int | None, failure: Failure) -> None:
    assert classify(status) is failure


def test_delays_double_up_to_the_most() -> None:
    retries = Retries(RetryPolicy(5, 1.0, 5.0), jitter=lambda: 1.0)
    delays = [retries.next_delay(Failure.BUSY) for _ in range(6)]
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0, None]


def test_jitter_takes_at_most_half() -> None:
    assert Retries(RetryPolicy(), jitter=lambda: 0.0).next_delay(Failure.BUSY) == 0.5


def test_kinds_have_budgets_of_their_own() -> None:
    retries = Retries(RetryPolicy())
    for failure, count in ((Failure.NETWORK, 3), (Failure.SERVER, 2), (Failure.BUSY, 5)):
        delays = [retries.next_delay(failure) for _ in range(count + 1)]
        assert [delay is None for delay in delays] == [False] * count + [True]
    assert retries.next_delay(Failure.FINAL) is None


def test_retry_after_is_a_lower_bound_and_has_a_limit() -> None:
    retries = Retries(RetryPolicy(), jitter=lambda: 0.5)
    assert retries.next_delay(Failure.BUSY, 20.0) == 20.5
    assert retries.next_delay(Failure.BUSY, 0.1) == 1.5
    assert retries.next_delay(Failure.BUSY, 301.0) is None


def test_zero_attempts_switches_retries_off() -> None:
    assert all(Retries(RetryPolicy(0)).next_delay(kind) is None for kind in Failure)


def test_parse_retry_after() -> None:
    assert parse_retry_after(None) is None
    assert parse_retry_after("7") == 7.0
    assert parse_retry_after("soon") is None
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=50)
    seconds = parse_retry_after(format_datetime(soon, usegmt=True))
    left = (soon - datetime.now(UTC)).total_seconds()
    assert seconds is not None
    assert left <= seconds <= 50
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_a_date_is_compared_with_the_hosts_clock() -> None:
    host_now = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)  # ours is years behind
    later = format_datetime(host_now + timedelta(seconds=9), usegmt=True)
    assert parse_retry_after(later, host_now) == 9.0


class Host:
    """Answers from a script: a status, or an exception of httpx."""

    def __init__(self, *script: int | Exception, headers: dict[str, str] | None = None) -> None:
        self.script = list(script)
        self.headers = headers or {}
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if step >= 400:
            body = {"error": "some_code", "message": "why", "details": {"a": 1}, "requested": 2}
            return httpx.Response(step, json=body, headers=self.headers)
        body = {"job_id": "j1", "status": "pending", "created": True, "granted": {"cpus": 2}}
        return httpx.Response(step, json=body)

    def client(self, **kwargs: object) -> FlashpodsClient:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        return FlashpodsClient(
            ClientConfig(token="t"),
            transport=httpx.MockTransport(self),
            sleep=sleep,
            jitter=lambda: 1.0,
        )


@pytest.mark.parametrize(
    ("step", "tries"),
    [
        (429, 6),
        (503, 6),
        (500, 3),
        (507, 1),
        (400, 1),
        (401, 1),
        (404, 1),
        (409, 1),
        (httpx.ConnectError("refused"), 4),
        (httpx.ReadTimeout("slow"), 4),
        (httpx.RemoteProtocolError("cut"), 4),
    ],
)
async def test_tries_end_with_the_last_error(step: int | Exception, tries: int) -> None:
    host = Host(*[step] * 10)
    async with host.client() as client:
        with pytest.raises(ClientError) as caught:
            await client.create_job(type="worker", command="true")
    assert len(host.requests) == tries
    assert len(host.slept) == tries - 1
    if isinstance(step, int):
        assert caught.value.code == "some_code"
        assert caught.value.status == step
        assert caught.value.details == {"a": 1, "requested": 2}
    else:
        assert isinstance(caught.value, HostUnreachable)


async def test_every_retry_of_a_create_carries_the_same_key() -> None:
    host = Host(503, httpx.ReadTimeout("slow"), 500, 201)
    async with host.client() as client:
        job = await client.create_job(type="worker", command="true", image=None)
    bodies = {request.content for request in host.requests}
    assert len(host.requests) == 4
    assert len(bodies) == 1
    assert job.client_job_id.encode() in bodies.pop()
    assert job.created
    assert job.granted == {"cpus": 2}


async def test_two_creates_have_two_keys() -> None:
    host = Host(201, 201)
    async with host.client() as client:
        one = await client.create_job(type="worker", command="true")
        two = await client.create_job(type="worker", command="true")
    assert one.client_job_id != two.client_job_id


async def test_retry_after_of_the_host_is_waited_for() -> None:
    host = Host(429, 201, headers={"Retry-After": "9"})
    async with host.client() as client:
        await client.create_job(type="worker", command="true")
    assert host.slept == [10.0]


async def test_redirects_are_not_followed_and_are_errors() -> None:
    async def elsewhere(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": "http://elsewhere.example/"})

    config = ClientConfig(token="t")
    async with FlashpodsClient(config, transport=httpx.MockTransport(elsewhere)) as client:
        with pytest.raises(ClientError) as caught:
            await client.get_job("j")
    assert caught.value.code == "http_302"


@pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b'{"id": 5}', b"[" * 100_000])
async def test_an_answer_that_is_none_is_an_error(content: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    config = ClientConfig(token="t")
    async with FlashpodsClient(config, transport=transport) as client:
        with pytest.raises(ClientError) as caught:
            await client.get_job("j")
    assert caught.value.code == "invalid_answer"


async def test_the_token_goes_in_the_header_only() -> None:
    host = Host(201)
    async with host.client() as client:
        await client.create_job(type="worker", command="true")
    request = host.requests[0]
    assert request.headers["Authorization"] == "Bearer t"
    assert "Bearer" not in str(request.url)


async def test_a_degraded_host_is_an_answer() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(503, json={"status": "degraded"}))
    config = ClientConfig(token="t")
    async with FlashpodsClient(config, transport=transport) as client:
        assert (await client.health())["status"] == "degraded"


@pytest.mark.parametrize(("status", "fails"), [("cancelled", False), ("completed", True)])
async def test_cancel_of_an_ended_job(status: str, fails: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            return httpx.Response(409, json={"error": "job_already_terminal", "message": "m"})
        return httpx.Response(200, json={"id": "j", "status": status, "type": "worker"})

    config = ClientConfig(token="t")
    async with FlashpodsClient(config, transport=httpx.MockTransport(answer)) as client:
        if fails:
            with pytest.raises(ClientError) as caught:
                await client.cancel("j")
            assert caught.value.code == "job_already_terminal"
        else:
            assert await client.cancel("j") == {"job_id": "j", "status": "cancelled"}


async def test_wait_polls_until_the_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # An answer of a busy machine does not come at once.
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 0.0)
    states = ["pending", "pending", "starting", "running", "completed"]
    waits: list[str | None] = []
    slept: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        waits.append(request.url.params.get("wait"))
        return httpx.Response(200, json={"id": "j", "status": states.pop(0), "type": "worker"})

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    config = ClientConfig(token="t")
    transport = httpx.MockTransport(answer)
    async with FlashpodsClient(config, transport=transport, sleep=sleep) as client:
        job = await client.wait("j")
    assert job.status == "completed"
    assert waits == [None, "60", "60", "60", "60"]
    assert slept == [1.0]  # the one answer that came at once and changed nothing


@pytest.mark.parametrize("job_id", ["", ".", "..", "x" * 300])
async def test_an_id_that_is_none_asks_nothing(job_id: str) -> None:
    host = Host()
    async with host.client() as client:
        with pytest.raises(ClientError) as caught:
            await client.get_job(job_id)
    assert caught.value.code == "job_not_found"
    assert host.requests == []


async def test_an_id_is_quoted() -> None:
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(404, json={"error": "job_not_found", "message": "m"})

    config = ClientConfig(token="t")
    async with FlashpodsClient(config, transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(ClientError):
            await client.get_job("..?x=1")
    assert seen == [b"/jobs/..%3Fx%3D1"]


async def test_how_far_the_clocks_are_apart() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        ahead = datetime.now(UTC) + timedelta(hours=2)
        return httpx.Response(200, json={}, headers={"Date": format_datetime(ahead, usegmt=True)})

    config = ClientConfig(token="t")
    async with FlashpodsClient(config, transport=httpx.MockTransport(handler)) as client:
        before = client.clock_skew
        assert before is None
        await client.health()
        assert client.clock_skew is not None
        assert abs(client.clock_skew + 7200) < 60


async def test_a_wrong_token_says_where_it_came_from() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"error": "invalid_token", "message": "the token is wrong"})

    config = ClientConfig(token="very-secret", token_source="/home/me/token")
    async with FlashpodsClient(config, transport=httpx.MockTransport(handler)) as client:
        with pytest.raises(ClientError) as caught:
            await client.capacity()
    assert caught.value.code == "invalid_token"
    assert "/home/me/token" in caught.value.message
    assert "very-secret" not in caught.value.message


async def test_a_wait_sits_out_a_restart_of_the_host() -> None:
    answers: list[str | None] = ["running", *[None] * 10, "completed"]

    def handler(request: httpx.Request) -> httpx.Response:
        status = answers.pop(0)
        if status is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"id": "j", "status": status, "revision": status})

    async def nap(seconds: float) -> None:
        assert 0 < seconds <= 30

    transport = httpx.MockTransport(handler)
    async with FlashpodsClient(ClientConfig(token="t"), transport=transport, sleep=nap) as client:
        assert (await client.wait("j")).status == "completed"
        answers[:] = [None] * 4  # a host that was not there to begin with
        with pytest.raises(HostUnreachable):
            await client.wait("j")
        assert answers == []


async def test_a_wait_with_a_timeout_ends_while_the_host_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flashpods.client.client.LATE_SECONDS", 0.0)
    seen = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal seen
        seen += 1
        if seen > 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"id": "j", "status": "running"})

    transport = httpx.MockTransport(handler)
    async with FlashpodsClient(ClientConfig(token="t"), transport=transport) as client:
        for seconds in (0.5, 5, 50):  # until there is time left to ask again on this machine
            seen = 0
            async with asyncio.timeout(100):
                assert (await client.wait("j", timeout=seconds)).status == "running"
            if seen > 1:
                break
    assert seen > 1
