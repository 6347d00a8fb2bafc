"""The page at /ui: open, static, under a strict policy; and the history that it draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from api_rig import TOKEN, Rig, make_rig, refused

from flashpods.api.ui import STATIC
from flashpods.jobs.model import Reserved

FILES = sorted(file.name for file in STATIC.iterdir())
TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


def policy(header: str) -> dict[str, list[str]]:
    parts = [part.split() for part in header.split(";")]
    return {part[0]: part[1:] for part in parts}


@pytest.mark.parametrize("name", FILES)
async def test_each_part_is_open_and_guarded(rig: Rig, name: str) -> None:
    path = "/ui" if name == "index.html" else f"/ui/{name}"
    async with rig.client(auth=False) as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.content == (STATIC / name).read_bytes()
    kind = TYPES.get(name.rpartition(".")[2], "text/html; charset=utf-8")
    assert answer.headers["content-type"] == kind
    rules = policy(answer.headers["content-security-policy"])
    assert rules["default-src"] == ["'none'"]
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["require-trusted-types-for"] == ["'script'"]
    for fetched in ("script-src", "style-src", "img-src", "connect-src"):
        assert rules[fetched] == ["'self'"], "nothing inline, nothing from elsewhere"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("name", FILES)
def test_no_part_has_anything_inline_or_from_elsewhere(name: str) -> None:
    text = (STATIC / name).read_text()
    if name.endswith(".html"):
        assert not re.search(r"\son[a-z]+\s*=|\sstyle\s*=|<style|<script(?![^>]*src=)", text)
    assert "innerHTML" not in text
    assert "localStorage" not in text
    places = set(re.findall(r"https?://[^\s\"')]+", text))
    assert places <= {"http://www.w3.org/2000/svg"}, "a name, which nobody fetches"


async def test_all_but_the_page_still_needs_the_token(rig: Rig) -> None:
    async with rig.client(auth=False) as client:
        for path in ("/", "/uix", "/ui-x", "/jobs", "/capacity", "/capacity/history", "/UI"):
            refused(await client.get(path), 401, "missing_authorization")
        refused(await client.post("/ui"), 401, "missing_authorization")
        refused(await client.delete("/ui/app.js"), 401, "missing_authorization")


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/nothing.js", "/ui/index.html", "/ui/../ui.py", "/ui/%2e%2e%2fui.py"]
)
async def test_there_is_nothing_else_there(rig: Rig, path: str) -> None:
    async with rig.client(auth=False) as client:
        answer = await client.get(path)
    assert answer.status_code in {401, 404}
    assert "content-security-policy" not in answer.headers


async def test_a_query_is_refused_so_that_no_token_is_put_there(rig: Rig) -> None:
    async with rig.client(auth=False) as client:
        for path in ("/ui", "/ui/app.js"):
            answer = await client.get(path, params={"token": TOKEN})
            refused(answer, 400, "invalid_request")
            assert TOKEN not in answer.text


async def test_the_history_is_what_was_sampled(rig: Rig) -> None:
    sampler = rig.app.context.services.telemetry.sampler
    await sampler.take()
    await rig.running()
    await sampler.take()
    await sampler.take(slow=False)
    async with rig.client() as client:
        history = (await client.get("/capacity/history")).json()
    assert history["every_seconds"] == 4
    assert [point["running_jobs"] for point in history["samples"]] == [0, 1]
    newest = history["samples"][-1]
    assert newest["reserved"] == {"cpus": 2, "memory_gb": 4}
    assert newest["disk_used_percent"] == {"work": 10.0}
    assert await rig.store.reserved() == Reserved(cpus=2, memory_gb=4, jobs=1)
