"""Attack 1: whatever is not the token is refused, by the right code, and says nothing of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from attacker import get, raw, token_of
from scoring import Score
from support import Connected

MISSING, MALFORMED, INVALID = "missing_authorization", "malformed_authorization", "invalid_token"


def variants(token: bytes) -> list[tuple[list[bytes], str]]:
    """Return header lines and the code that refuses them."""
    return [
        ([], MISSING),
        ([b"Authorization: "], MALFORMED),
        ([b"Authorization:"], MALFORMED),
        ([b"Authorization: Bearer"], MALFORMED),
        ([b"Authorization: Bearer "], MALFORMED),
        ([b"Authorization: " + token], MALFORMED),
        ([b"Authorization: Basic " + token], MALFORMED),
        ([b"Authorization: Token " + token], MALFORMED),
        ([b"Authorization: Bearer\t" + token], MALFORMED),
        ([b"Authorization: Bearer=" + token], MALFORMED),
        ([b"Authorization: Bearer Bearer " + token], MALFORMED),
        ([b"Authorization: Bearer " + token + b" " + token], MALFORMED),
        ([b"Authorization: Bearer " + token + b", Bearer " + token], MALFORMED),
        ([b"Authorization: Bearer \xff\xfe" + token], MALFORMED),
        ([b"Authorization: Bearer \xe2\x80\x8b" + token], MALFORMED),
        ([b"Authorization: Bearer " + b"a" * 1025], MALFORMED),
        ([b"Authorization: Bearer " + b"a" * 60_000], MALFORMED),
        ([b"Authorization: Bearer " + token] * 2, MALFORMED),
        ([b"Authorization: Bearer " + token, b"Authorization: Bearer x"], MALFORMED),
        ([b"authorization: bearer x", b"AUTHORIZATION: Bearer " + token], MALFORMED),
        ([b"Authorization: Bearer " + token[:-1]], INVALID),
        ([b"Authorization: Bearer " + token + b"x"], INVALID),
        ([b"Authorization: Bearer " + token.swapcase()], INVALID),
        ([b"Authorization: Bearer " + token[::-1]], INVALID),
        ([b'Authorization: Bearer "' + token + b'"'], INVALID),
        ([b"Authorization: Bearer null"], INVALID),
        ([b"X-Authorization: Bearer " + token], MISSING),
        ([b"Proxy-Authorization: Bearer " + token], MISSING),
        ([b"Cookie: Authorization=Bearer " + token], MISSING),
        ([b"X-Forwarded-For: 127.0.0.1"], MISSING),
    ]


CALLS = [
    "GET /jobs", "POST /jobs", "GET /jobs/0123456789abcdef", "DELETE /jobs/0123456789abcdef",
    "GET /jobs/0123456789abcdef/output", "GET /jobs/0123456789abcdef/artifacts",
    "GET /jobs/0123456789abcdef/artifacts/a", "POST /uploads", "GET /uploads/upload_nobodyhasthis",
    "POST /uploads/upload_nobodyhasthis/finalize", "DELETE /uploads/upload_nobodyhasthis",
    "GET /capacity", "GET /openapi.json", "GET /metrics", "GET /", "GET /nothing",
    "OPTIONS /jobs", "PATCH /jobs", "TRACE /jobs", "GET //health", "GET /health/", "GET /HEALTH",
    "POST /health", "GET /jobs/../health", "GET /health/../jobs", "GET /health%2f..%2fjobs",
    "GET http://x/capacity", "GET /health;/jobs", "GET /ui/../jobs", "GET /ui/%2e%2e/jobs",
    "GET /ui/jobs", "GET /ui;/jobs", "POST /ui", "GET /ui%2f..%2fjobs", "GET //ui",
]  # fmt: skip


@pytest.mark.attack(1, "bearer token variants")
async def test_variants(host: Connected, score: Score) -> None:
    token = token_of(host).encode()
    for headers, code in variants(token):
        with score.attempt():
            request = b"\r\n".join([b"GET /capacity HTTP/1.1", b"Host: x", *headers, b"", b""])
            answer = await raw(host.stack.port, request)
            assert answer is not None, headers
            assert (answer.status, answer.error) == (401, code), (headers, answer.body)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert token not in answer.body
    good = await raw(host.stack.port, get("/capacity", token.decode()))
    assert good is not None
    assert good.status == 200


@pytest.mark.attack(1, "every call without a token")
async def test_no_call_is_open(host: Connected, score: Score) -> None:
    for call in CALLS:
        with score.attempt():
            request = f"{call} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
            answer = await raw(host.stack.port, request)
            assert answer is not None, call
            assert (answer.status, answer.error) == (401, MISSING), (call, answer)


@pytest.mark.attack(1, "timing of a nearly right token")
async def test_the_time_says_nothing(host: Connected, score: Score) -> None:
    """A token wrong at its first byte and one wrong at its last take the same time.

    Load only ever adds to a time, so the fast tenth is compared. A difference that is none of the
    machine's shows in every round, with the same sign.
    """
    token = token_of(host)
    wrong = {"first": "~" + token[1:], "last": token[:-1] + "~"}
    with score.attempt():
        found = [await difference(host.stack.port, wrong)]
        while abs(found[-1]) > LEAK and len(found) < 5:
            found.append(await difference(host.stack.port, wrong))
        same = all(x > LEAK for x in found) or all(x < -LEAK for x in found)
        score.figure(
            "difference of the fast tenth", min(map(abs, found)) if same else 0, LEAK, "us"
        )
        score.note(f"{len(found)} rounds: {', '.join(f'{x:.0f}' for x in found)} us")


LEAK = 50.0  # microseconds; a comparison byte by byte in Python differs by less than one


async def difference(port: int, wrong: dict[str, str]) -> float:
    """Return how much longer the second is refused than the first, in microseconds."""
    taken: dict[str, list[float]] = {name: [] for name in wrong}
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(400):
        # In turns, each first as often as the other.
        for name in sorted(wrong, reverse=bool(number % 2)):
            began = time.perf_counter()
            writer.write(get("/capacity", wrong[name]))
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            taken[name].append(time.perf_counter() - began)
    writer.close()
    first, last = (sorted(taken[name])[40] for name in wrong)
    return (last - first) * 1e6
