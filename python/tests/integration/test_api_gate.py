"""What every request passes: ids, limits, tokens, bodies, unknown paths, our own faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_rig import AUTH, OTHER, TOKEN, Rig, Stream, make_rig, refused, unknown_id

from flashpods.api import middleware
from flashpods.config import Settings
from flashpods.errors import StaleState


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


async def test_request_id_is_echoed_if_sane(rig: Rig) -> None:
    async with rig.client() as client:
        for given in ("a", "A-1_b.c", "x" * 128):
            answer = await client.get("/capacity", headers={"X-Request-Id": given})
            assert answer.headers["x-request-id"] == given
        for given in ("", "a b", "x" * 129, "é", "a\tb", "<script>"):
            answer = await client.get("/capacity", headers=[(b"X-Request-Id", given.encode())])
            assert answer.headers["x-request-id"] not in {given, ""}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_authorization"),
        ("", "malformed_authorization"),
        ("Bearer", "malformed_authorization"),
        ("Bearer ", "malformed_authorization"),
        (f"Basic {TOKEN}", "malformed_authorization"),
        (f"Bearer {TOKEN} x", "malformed_authorization"),
        (f"Bearer{TOKEN}", "malformed_authorization"),
        ("Bearer " + "x" * 1025, "malformed_authorization"),
        ("Bearer x", "invalid_token"),
        (f"Bearer {TOKEN}x", "invalid_token"),
        (f"Bearer {TOKEN[:-1]}", "invalid_token"),
    ],
)
async def test_refused_tokens(rig: Rig, header: str | None, code: str) -> None:
    async with rig.client(auth=False) as client:
        headers = {} if header is None else {"Authorization": header}
        for path in ("/jobs", "/nowhere", "/openapi.json"):
            answer = await client.get(path, headers=headers)
            refused(answer, 401, code)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert TOKEN not in answer.text


async def test_two_authorization_headers_are_malformed(rig: Rig) -> None:
    async with rig.client(auth=False) as client:
        answer = await client.get("/jobs", headers=[("Authorization", f"Bearer {TOKEN}")] * 2)
        refused(answer, 401, "malformed_authorization")


@pytest.mark.parametrize("header", [f"Bearer {OTHER}", f"bearer  {TOKEN} ", f"BEARER {TOKEN}"])
async def test_accepted_tokens(rig: Rig, header: str) -> None:
    async with rig.client(auth=False) as client:
        assert (await client.get("/jobs", headers={"Authorization": header})).status_code == 200


async def test_health_needs_no_token_and_nothing_else_does_without(rig: Rig) -> None:
    async with rig.client(auth=False) as client:
        assert (await client.get("/health")).status_code == 200
        head = await client.head("/health")
        assert (head.status_code, head.content) == (200, b"")
        refused(await client.post("/health"), 401, "missing_authorization")


async def test_rate_limit_comes_before_the_token(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, rate_per_second=0.01, rate_burst=3)
    async with rig.client(auth=False) as client:
        left = []
        for _ in range(3):
            answer = await client.get("/jobs")
            refused(answer, 401, "missing_authorization")
            left.append(int(answer.headers["x-ratelimit-remaining"]))
        assert left == [2, 1, 0]
        answer = await client.get("/health")
        body = refused(answer, 429, "rate_limited")
        assert 60 < body["retry_after_seconds"] <= 100  # less what the test has taken
        assert answer.headers["retry-after"] == str(body["retry_after_seconds"])
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert answer.headers["x-request-id"]


async def test_every_answer_has_the_limit_headers(rig: Rig) -> None:
    async with rig.client() as client:
        for method, path in (("GET", "/jobs"), ("GET", "/x"), ("PUT", "/jobs"), ("GET", "/health")):
            answer = await client.request(method, path)
            for name in ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"):
                assert int(answer.headers[name]) >= 0


async def test_unknown_paths_and_methods(rig: Rig) -> None:
    async with rig.client() as client:
        for path in ("/", "/job", "/jobs/", "/jobs%0a", "/jobs/x/y", "/docs", "/redoc", "/metrics"):
            refused(await client.get(path), 404, "not_found")
        answer = await client.put(f"/jobs/{unknown_id()}")
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "DELETE, GET"
        answer = await client.request("BREW", "/jobs")
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
async def test_body_over_the_limit(tmp_path: Path, method: str) -> None:
    rig = make_rig(tmp_path, body_limit=1000)
    jobs = len(await rig.store.active())
    chunks = 0

    async def chunked() -> AsyncIterator[bytes]:
        nonlocal chunks
        for _ in range(100):
            chunks += 1
            yield b"x" * 100

    async with rig.client() as client:
        answer = await client.request(method, "/jobs", content=b"x" * 1001)
        assert refused(answer, 413, "request_too_large")["details"] == {"limit_bytes": 1000}
        refused(await client.request(method, "/jobs", content=chunked()), 413, "request_too_large")
        assert chunks == 100  # read away, so that the connection stays usable
    assert len(await rig.store.active()) == jobs


async def test_body_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, body_limit=1000)
    body = json.dumps({"type": "worker", "command": "x"}).encode()
    async with rig.client() as client:
        answer = await client.post("/jobs", content=body + b" " * (1000 - len(body)))
        assert answer.status_code == 201


async def test_a_late_body_is_refused_and_the_connection_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "SWALLOW_SECONDS", 0.01)
    gate = rig.app.build_middleware_stack()
    gate._body_seconds = 0.01  # type: ignore[attr-defined] # a test's shorter patience
    rig.app.middleware_stack = gate
    stream = Stream(rig.app, "/jobs", headers={"Content-Length": "5"})
    stream._asked = True  # the body never comes
    async with stream:
        assert stream.status == 400
        assert stream.headers["connection"] == "close"
        body = json.loads(await stream.part() or b"")
        assert body["error"] == "invalid_request"


async def test_our_own_fault_sends_no_trace(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(job_id: str) -> None:
        raise RuntimeError(f"secret detail of {job_id}")

    monkeypatch.setattr(rig.store, "history", broken)
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{unknown_id()}", headers={"X-Request-Id": "find-me"})
        refused(answer, 500, "internal_error")
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"] == "find-me"
    out = capsys.readouterr()
    assert "find-me" in out.out + out.err
    assert "secret detail" in out.out + out.err
    assert TOKEN not in out.out + out.err


async def test_a_row_that_moved_on_is_a_retry(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def moved(job_id: str) -> None:
        raise StaleState("the job moved on")

    monkeypatch.setattr(rig.store, "history", moved)
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{unknown_id()}")
        refused(answer, 503, "service_unavailable")
        assert answer.headers["retry-after"] == "1"


async def test_stop_is_called_by_the_lifespan(rig: Rig) -> None:
    async with rig.app.router.lifespan_context(rig.app):
        assert not rig.stopped.is_set()
    assert rig.stopped.is_set()


async def test_requests_are_counted_by_template(rig: Rig) -> None:
    async with rig.client() as client:
        await client.get(f"/jobs/{unknown_id()}")
        await client.get("/nowhere", headers={"Authorization": ""})
        await asyncio.gather(*(client.get("/jobs", headers=AUTH) for _ in range(3)))
        await client.request("BREW", "/jobs")
    text = (await rig.app.context.services.telemetry.render()).decode()
    errors, timed = "flashpods_http_errors_total", "flashpods_http_request_duration_seconds_count"
    assert f'{errors}{{method="GET",route="/jobs/{{job_id}}",status="4xx"}} 1.0' in text
    assert f'{errors}{{method="GET",route="unmatched",status="4xx"}} 1.0' in text
    assert f'{errors}{{method="other",route="/jobs",status="4xx"}} 1.0' in text
    assert f'{timed}{{method="any",route="any",status="4xx"}} 3.0' in text
    assert f'{timed}{{method="GET",route="/jobs",status="2xx"}} 3.0' in text
    assert "flashpods_http_rate_limited_total 0.0" in text


async def test_a_wait_that_was_asked_for_is_not_timed(rig: Rig) -> None:
    job_id = await rig.running()
    async with rig.client() as client:
        for query in ("", "?wait=0.01", "?wait=0.02"):
            assert (await client.get(f"/jobs/{job_id}{query}")).status_code == 200
    text = (await rig.app.context.services.telemetry.render()).decode()
    timed = "flashpods_http_request_duration_seconds_count"
    assert f'{timed}{{method="GET",route="/jobs/{{job_id}}",status="2xx"}} 1.0' in text


async def test_requests_over_the_rate_are_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Settings(http={"rate_per_second": 0.001, "rate_burst": 2}))
    async with rig.client() as client:
        codes = [(await client.get("/capacity")).status_code for _ in range(5)]
    assert codes == [200, 200, 429, 429, 429]
    text = (await rig.app.context.services.telemetry.render()).decode()
    assert "flashpods_http_rate_limited_total 3.0" in text
