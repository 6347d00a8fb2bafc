"""The OpenAPI document: complete, closed, and true of real answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from api_rig import AUTH, WORKER, Rig, make_rig, unknown_id
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

from flashpods.jobs.states import JobStatus
from flashpods.web.routing import LeanRoute


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


async def test_every_route_is_declared_and_served(rig: Rig) -> None:
    async with rig.client() as client:
        document = (await client.get("/openapi.json")).json()
    declared = {(m.upper(), p) for m, p, _ in operations(document)}
    routes = [r for r in rig.app.router.routes if isinstance(r, LeanRoute)]
    assert len(routes) == len(rig.app.router.routes)
    assert declared == {(m, r.path_format) for r in routes for m in r.methods or ()}
    assert document["openapi"].startswith("3.1")


async def test_every_operation_declares_what_every_call_can_answer(rig: Rig) -> None:
    for method, path, operation in operations(rig.app.openapi()):
        public = path in {"/health", "/ui", "/ui/{file}"}
        responses = operation["responses"]
        assert {"400", "413", "429", "500", "503"} <= set(responses), (method, path)
        assert ("401" in responses) is not public
        assert "422" not in responses
        assert operation["security"] == ([] if public else [{"bearer": []}])
        for status, response in responses.items():
            assert set(response["headers"]) >= {"X-Request-Id", "X-RateLimit-Limit"}
            if method == "head" or status in {"204", "304"}:
                assert "content" not in response
            else:
                assert response["content"], (method, path, status)


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    text = json.dumps({**schema, "components": document["components"]})
    return jsonschema_rs.validator_for(json.loads(text), validate_formats=True)


async def check(rig: Rig, method: str, template: str, path: str, **options: Any) -> int:
    """Hold a real answer against its declaration; return its status."""
    document = rig.app.openapi()
    async with rig.client() as client:
        answer = await client.request(method, path, **options)
    declared = document["paths"][template][method.lower()]["responses"][str(answer.status_code)]
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if answer.content:
        media = declared["content"][kind]
        if kind == "application/json":
            validator(document, media["schema"]).validate(answer.json())
    for name, header in declared["headers"].items():
        shape = document["components"]["headers"][header["$ref"].rpartition("/")[2]]
        assert name in answer.headers or not shape.get("required")
    return answer.status_code


@pytest.mark.parametrize("status", list(JobStatus))
async def test_answers_fit_in_every_state(rig: Rig, status: JobStatus) -> None:
    job_id = await rig.in_state(status)
    job = "/jobs/{job_id}"
    assert await check(rig, "GET", job, f"/jobs/{job_id}") == 200
    assert await check(rig, "GET", "/jobs", f"/jobs?status={status.value}") == 200
    await check(rig, "GET", f"{job}/output", f"/jobs/{job_id}/output")
    await check(rig, "GET", f"{job}/artifacts", f"/jobs/{job_id}/artifacts")
    await check(rig, "GET", f"{job}/artifacts/{{name}}", f"/jobs/{job_id}/artifacts/a")
    await check(rig, "DELETE", job, f"/jobs/{job_id}")


async def test_other_answers_fit(rig: Rig) -> None:
    done = await rig.completed({"a": b"data", "d/x": b"y"})
    await rig.log(done, "line")
    name = "/jobs/{job_id}/artifacts/{name}"
    assert await check(rig, "GET", "/jobs/{job_id}/artifacts", f"/jobs/{done}/artifacts") == 200
    assert await check(rig, "GET", name, f"/jobs/{done}/artifacts/a") == 200
    assert await check(rig, "GET", name, f"/jobs/{done}/artifacts/d") == 200
    headers = {"Range": "bytes=1-2"}
    assert await check(rig, "GET", name, f"/jobs/{done}/artifacts/a", headers=headers) == 206
    headers = {"Range": "bytes=9-"}
    assert await check(rig, "GET", name, f"/jobs/{done}/artifacts/a", headers=headers) == 416
    headers = {"If-None-Match": "*"}
    assert await check(rig, "GET", name, f"/jobs/{done}/artifacts/a", headers=headers) == 304
    assert await check(rig, "HEAD", name, f"/jobs/{done}/artifacts/a") == 200
    assert await check(rig, "GET", name, f"/jobs/{done}/artifacts/%2F") == 400
    output = "/jobs/{job_id}/output"
    assert await check(rig, "GET", output, f"/jobs/{done}/output?follow=true") == 200
    for path in ("/health", "/capacity", "/jobs", "/openapi.json"):
        assert await check(rig, "GET", path, path) == 200
        assert await check(rig, "GET", path, path, headers={"X-Request-Id": "x"}) == 200
        assert await check(rig, "GET", f"{path}", f"{path}?x=1") == 400
    assert await check(rig, "POST", "/jobs", "/jobs", json={**WORKER, "cpus": 8}) == 201
    assert await check(rig, "POST", "/jobs", "/jobs", json=WORKER) == 429
    assert await check(rig, "POST", "/jobs", "/jobs", content=b"x" * (1024**2 + 1)) == 413
    assert await check(rig, "POST", "/jobs", "/jobs", json={"type": "agent"}) == 400
    assert await check(rig, "GET", "/jobs", "/jobs", headers={"Authorization": "x"}) == 401
    rig.disk.fractions["/work"] = 0.99
    rig.clock.advance(2)
    assert await check(rig, "GET", "/health", "/health") == 503
    assert await check(rig, "HEAD", "/health", "/health") == 503
    assert await check(rig, "POST", "/uploads", "/uploads", json={"project": "p"}) == 201


def seeded(root: Path) -> Rig:
    """Return a rig with ended jobs, whose document offers their ids beside others."""
    rig = make_rig(root)

    async def seed() -> list[str]:
        rig.changes.__init__()  # type: ignore[misc] # nothing of this loop may stay
        ended = [await rig.completed({"a": b"data", "d/x": b"y"})]
        ended += [
            await rig.in_state(s) for s in (JobStatus.FAILED, JobStatus.CLEANED, JobStatus.CLEANING)
        ]
        return ended

    ids = [*asyncio.run(seed()), unknown_id()]
    document = json.loads(json.dumps(rig.app.openapi()))
    for _, _, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "job_id":
                parameter["schema"] = {"type": "string", "enum": ids}
            elif parameter["name"] == "name":
                parameter["schema"] = {"type": "string", "enum": ["a", "d", "missing", ".."]}
    rig.app.openapi_schema = document
    return rig


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    rig = seeded(tmp_path)
    schema = schemathesis.openapi.from_asgi("/openapi.json", rig.app, headers=AUTH)
    seen: set[int] = set()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()

        @settings(
            max_examples=15,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def fuzz(case: schemathesis.Case[Any]) -> None:
            answer = case.call(headers=AUTH)
            seen.add(answer.status_code)
            assert answer.status_code < 500 or answer.status_code in {503, 507}
            # Whether valid data is accepted depends on rows that the generator knows nothing of.
            excluded: list[Any] = [positive_data_acceptance]
            if answer.status_code in {410, 413}:  # refusals too, which the check does not know
                excluded.append(negative_data_rejection)
            case.validate_response(answer, excluded_checks=excluded, headers=AUTH)

        modes = list(schemathesis.GenerationMode)
        if not (operation.query or operation.path_parameters or operation.body):
            modes = [schemathesis.GenerationMode.POSITIVE]  # nothing could be wrong about it
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)
            given(strategy)(fuzz)()
    assert {200, 201, 400, 404} <= seen
