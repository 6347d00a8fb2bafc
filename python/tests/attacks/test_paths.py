# ruff: noqa: E501 - the attacks are data
"""Attack 4: encoded and doubly encoded traversal in every path of the API."""

from __future__ import annotations

import asyncio

import pytest
import support
from attacker import get, raw, token_of
from scoring import Score
from support import Connected

UP = [
    "..", "%2e%2e", "%2E%2e", ".%2e", "%252e%252e", "%25252e%25252e", "..%00", "%c0%ae%c0%ae",
    "%e0%80%ae%e0%80%ae", "%u002e%u002e", "%ff%fe", "....", "..;", "%20..", "..%20", "%ef%bc%8e%ef%bc%8e",
]  # fmt: skip
SLASH = ["/", "%2f", "%2F", "%252f", "%5c", "\\", "%c0%af", "%e2%88%95", "//"]
TARGETS = ["etc/passwd", "token", "settings.json", "db/flashpods.db", "proc/self/environ"]


def climbs() -> list[str]:
    """Return ways up, each to one of the targets."""
    found = []
    for number, (up, slash) in enumerate((u, s) for u in UP for s in SLASH):
        target = TARGETS[number % len(TARGETS)].replace("/", slash)
        found += [slash.join([up] * depth + [target]) for depth in (1, 3, 8)]
    found += [f"{s}{t.replace('/', s)}" for s in SLASH for t in TARGETS]
    return found


@pytest.mark.attack(4, "traversal, encoded once and twice, in every path")
async def test_no_way_out(host: Connected, score: Score) -> None:
    row = await support.run(
        host.client, "cd /artifacts; echo mine > a; mkdir d; echo mine > d/n; ln -s / root"
    )
    job, token, port = row["id"], token_of(host), host.stack.port
    places = [
        "/jobs/{}", "/jobs/{}/output", "/jobs/{}/artifacts", f"/jobs/{job}/{{}}",
        f"/jobs/{job}/artifacts/{{}}", f"/jobs/{job}/artifacts/d/{{}}",
        f"/jobs/{job}/artifacts/root/{{}}", "/uploads/{}", "/{}", "/jobs?cursor={}",
    ]  # fmt: skip
    secrets = [b"root:x:", token.encode(), b"SQLite format", b"token_file", b"FLASHPODS_"]

    async def attack(path: str) -> None:
        with score.attempt():
            answer = await raw(port, get(path, token))
            assert answer is not None, path
            assert answer.status in {400, 404}, (path, answer.status, answer.body[:200])
            assert not any(secret in answer.body for secret in secrets), path
            assert answer.headers["content-type"] == "application/json"

    paths = [place.format(climb) for place in places for climb in climbs()]
    for start in range(0, len(paths), 32):
        await asyncio.gather(*(attack(path) for path in paths[start : start + 32]))
    assert score.tries > 4000
