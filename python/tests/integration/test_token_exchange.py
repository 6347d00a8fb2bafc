"""Every answer of an exchange, over a real socket: who gets what, and each refusal's code."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs
from token_rig import (
    AGENT,
    AUDIENCE,
    HOST,
    PARENT,
    SECRETS,
    WORKER,
    Key,
    Rig,
    claims,
    jwks,
    raw_token,
    running,
)

from flashpods.token.connection import Connection

Logged = list[MutableMapping[str, Any]]
JOB = "0123456789abcdef"
OTHER_JOB = "fedcba9876543210"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running() as up:
        up.peer.path = up.podman.add(JOB, "agent")
        yield up


@pytest.fixture
def logged() -> Iterator[Logged]:
    with capture_logs() as lines:
        yield lines


def audits(logged: Logged) -> Logged:
    return [line for line in logged if line["event"] == "token exchange"]


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert set(answer.json()) >= {"error", "message", "details"}
    assert not any(secret in answer.text for secret in SECRETS.values())


async def test_an_agent_gets_both(rig: Rig) -> None:
    answer = await rig.ask(rig.token(AGENT))
    assert answer.status_code == 200
    assert answer.json() == {
        "ANTHROPIC_API_KEY": SECRETS["anthropic_api_key"],
        "GITHUB_TOKEN": SECRETS["github_token"],
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 32


async def test_a_worker_gets_one_and_a_null(rig: Rig) -> None:
    rig.peer.path = rig.podman.add(OTHER_JOB, "worker")
    answer = await rig.ask(rig.token(WORKER))
    assert answer.status_code == 200
    assert answer.json() == {"ANTHROPIC_API_KEY": None, "GITHUB_TOKEN": SECRETS["github_token"]}


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Basic dTpw", "bearer\tx", "é"])
async def test_no_bearer_token(rig: Rig, value: str | None) -> None:
    headers = [] if value is None else [b"Authorization: " + value.encode()]
    refused(await rig.raw(*headers), 400, "missing_authorization")


def _none(rig: Rig) -> str:
    return raw_token({"alg": "none", "kid": "k1", "typ": "JWT"}, json.dumps(claims()).encode())


def _confused(rig: Rig) -> str:
    """HS256 with our public key as the shared secret, which an attacker knows."""
    import hashlib  # noqa: PLC0415 - for this one forgery
    import hmac  # noqa: PLC0415 - likewise

    public = rig.key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    unsigned = raw_token({"alg": "HS256", "kid": "k1"}, json.dumps(claims()).encode())
    unsigned = unsigned.removesuffix(".")
    mac = hmac.new(public, unsigned.encode(), hashlib.sha256).digest()
    return unsigned + "." + raw_token({}, b"", mac).rpartition(".")[2]


def _changed(rig: Rig) -> str:
    head, _, signature = rig.token(WORKER).split(".")
    return ".".join([head, rig.token(AGENT).split(".")[1], signature])


ATTACKS: dict[str, Callable[[Rig], str]] = {
    "not a token": lambda _: "x",
    "empty parts": lambda _: "..",
    "two parts": lambda rig: rig.token().rpartition(".")[0],
    "five parts": lambda rig: f"{rig.token()}.a.b",
    "alg none": _none,
    "alg None": lambda rig: raw_token({"alg": "None", "kid": "k1"}, b"{}"),
    "HS256 with the public key": _confused,
    "unsigned ES256": lambda rig: rig.token().rpartition(".")[0] + ".",
    "another's signature": _changed,
    "a key of ours that nobody trusts": lambda _: Key("k1").sign(claims()),
    "an unknown kid": lambda _: Key("k2").sign(claims()),
    "no kid": lambda rig: rig.key.sign(claims(), kid=""),
    "a kid that is a path": lambda _: Key("../../dev/null").sign(claims()),
    "a key brought along": lambda _: (k := Key("k1")).sign(claims(), jwk=k.jwk),
    "a critical extension": lambda rig: rig.key.sign(claims(), crit=["x"], x=1),
    "typ": lambda rig: rig.key.sign(claims(), typ="at+jwt"),
    "RS256 header": lambda rig: raw_token({"alg": "RS256", "kid": "k1"}, b"{}", b"x" * 256),
    "foreign trust domain, our key": lambda rig: rig.token("spiffe://other.domain/agent"),
    "no sub": lambda rig: rig.token(None),
    "empty sub": lambda rig: rig.token(""),
    "sub a list": lambda rig: rig.token([AGENT]),
    "sub a number": lambda rig: rig.token(7),
    "sub not a SPIFFE ID": lambda rig: rig.token("agent"),
    "sub with dots": lambda rig: rig.token(f"{WORKER}/../agent"),
    "sub with a zero byte": lambda rig: rig.token(f"{AGENT}\0"),
    "no exp": lambda rig: rig.token(exp=None),
    "exp a word": lambda rig: rig.token(exp="tomorrow"),
    "exp a list": lambda rig: rig.token(exp=[1]),
    "exp infinite": lambda rig: rig.token(exp=float("inf")),
    "not yet": lambda rig: rig.token(nbf=int(time.time()) + 100),
    "deep claims": lambda rig: raw_token({"alg": "ES256", "kid": "k1"}, b"[" * 3000, b"x" * 64),
    "huge": lambda rig: rig.token(padding="x" * 9000),
    "huger than a head may be": lambda _: "x" * 20_000,
    "non-ASCII": lambda rig: "é" + rig.token(),
    "a space": lambda rig: rig.token().replace(".", " .", 1),
}


@pytest.mark.parametrize("attack", list(ATTACKS))
async def test_forged_tokens(rig: Rig, attack: str) -> None:
    answer = await rig.raw(f"Authorization: Bearer {ATTACKS[attack](rig)}".encode())
    refused(answer, 401, "invalid_jwt")
    assert rig.podman.inspected == []
    assert (await rig.ask(rig.token())).status_code == 200


async def test_a_head_over_the_limit_is_cut_off(rig: Rig) -> None:
    reader, writer = await asyncio.open_unix_connection(str(rig.socket))
    writer.write(b"GET /tokens HTTP/1.1\r\nX: " + b"x" * (Connection.head_limit + 1))
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"invalid_request"' in answer


async def test_two_authorization_headers(rig: Rig) -> None:
    async with rig.client() as client:
        value = f"Bearer {rig.token()}"
        answer = await client.get(
            "/tokens", headers=[("Authorization", value), ("Authorization", value)]
        )
    refused(answer, 401, "invalid_jwt")


@pytest.mark.parametrize("past", [0, 1, 30, 59, 86400])
async def test_expired_without_leniency(rig: Rig, past: int) -> None:
    refused(await rig.ask(rig.token(exp=int(time.time()) - past)), 401, "expired_jwt")


async def test_a_forged_expired_token_is_invalid_first(rig: Rig) -> None:
    refused(await rig.ask(Key("k1").sign(claims(exp=1))), 401, "invalid_jwt")


@pytest.mark.parametrize(
    "aud",
    [
        None,
        [],
        "",
        "other",
        ["other"],
        [AUDIENCE.upper()],
        [f"{AUDIENCE} "],
        [AUDIENCE, "other"],
        ["other", AUDIENCE],
        [AUDIENCE, 7],
        {AUDIENCE: 1},
        ["x"] * 500,
    ],
)
async def test_wrong_or_many_audiences(rig: Rig, aud: object) -> None:
    refused(await rig.ask(rig.token(aud=aud)), 401, "invalid_audience")


@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], [AUDIENCE, AUDIENCE]])
async def test_the_one_audience(rig: Rig, aud: object) -> None:
    assert (await rig.ask(rig.token(aud=aud))).status_code == 200


@pytest.mark.parametrize(
    "sub",
    ["spiffe://flashpods.local/host", "spiffe://flashpods.local", f"{AGENT}/sub", f"{AGENT}s"],
)
async def test_an_identity_that_gets_nothing(rig: Rig, sub: str) -> None:
    refused(await rig.ask(rig.token(sub)), 403, "unknown_identity")


async def test_a_foreign_domain_that_we_federate_with(rig: Rig) -> None:
    foreign = Key("f1")
    rig.agent.serve(flashpods_local=jwks(rig.key), other_domain=jwks(foreign))
    for sub in (AGENT, "spiffe://other.domain/agent"):
        refused(await rig.ask(foreign.sign(claims(sub))), 401, "invalid_jwt")


@pytest.mark.parametrize(
    "private", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())]
)
async def test_each_kind_of_authority(rig: Rig, private: Any) -> None:
    key = Key("k2", private)
    rig.agent.serve(flashpods_local=jwks(rig.key, key))
    await rig.until(lambda: key.sign(claims()), 200)


@pytest.mark.parametrize(
    "path",
    [
        None,
        "/",
        HOST,
        PARENT,
        f"{PARENT}/job_{JOB}",
        f"{PARENT}/job_{JOB}/libpod-conmon-{JOB * 4}",
        f"{PARENT}/job_{JOB}/libpod-{JOB * 4}.scope",
        f"{PARENT}/job_{JOB}/libpod-{JOB * 4}/container (deleted)",
        f"{PARENT}/x/job_{JOB}/libpod-{JOB * 4}",
        f"{PARENT}x/job_{JOB}/libpod-{JOB * 4}",
        f"{PARENT}/job_{JOB}x/libpod-{JOB * 4}",
        f"{PARENT}/job_{JOB}/libpod-{'0' * 64}",  # the engine does not know it
        f"{PARENT}/job_{OTHER_JOB}/libpod-{JOB * 4}",  # in another job's cgroup
    ],
)
async def test_a_caller_that_is_no_such_container(rig: Rig, path: str | None) -> None:
    rig.peer.path = path
    refused(await rig.ask(rig.token()), 403, "identity_mismatch")


async def test_a_token_carried_into_another_type_of_container(rig: Rig, logged: Logged) -> None:
    rig.peer.path = rig.podman.add(OTHER_JOB, "worker")
    refused(await rig.ask(rig.token(AGENT)), 403, "identity_mismatch")
    (line,) = audits(logged)
    assert (line["spiffe_id"], line["job_id"], line["job_type"]) == (AGENT, OTHER_JOB, "worker")
    assert (await rig.ask(rig.token(WORKER))).status_code == 200


@pytest.mark.parametrize(
    "labels",
    [
        {"job": None},
        {"job": "false"},
        {"job_id": OTHER_JOB},
        {"job_id": None},
        {"job_type": None},
        {"job_type": "Agent"},
    ],
)
async def test_a_container_with_other_labels(rig: Rig, labels: dict[str, str | None]) -> None:
    rig.peer.path = rig.podman.add(JOB, "agent", **labels)
    refused(await rig.ask(rig.token()), 403, "identity_mismatch")


async def test_each_request_looks_at_its_caller(rig: Rig) -> None:
    async with rig.client() as client:
        headers = {"Authorization": f"Bearer {rig.token()}"}
        assert (await client.get("/tokens", headers=headers)).status_code == 200
        (peer,) = rig.peers
        peer.path = None  # it has died, and somebody it gave the socket to goes on
        refused(await client.get("/tokens", headers=headers), 403, "identity_mismatch")
    assert len(rig.peers) == 1


async def test_labels_are_asked_for_once(rig: Rig) -> None:
    for _ in range(5):
        assert (await rig.ask(rig.token())).status_code == 200
    assert rig.podman.inspected == [JOB * 4]


async def test_no_secrets(rig: Rig, logged: Logged) -> None:
    rig.parts.vault.empty()
    refused(await rig.ask(rig.token()), 500, "secrets_unavailable")
    (line,) = audits(logged)
    assert (line["outcome"], line["status"]) == ("secrets_unavailable", 500)
    assert (await rig.ask(None, "/health")).json()["checks"]["secrets"]["status"] == "failing"


async def test_other_calls(rig: Rig) -> None:
    async with rig.client() as client:
        for method, path, status, code in (
            ("GET", "/", 404, "not_found"),
            ("GET", "/tokens/", 404, "not_found"),
            ("GET", "/openapi.json", 404, "not_found"),
            ("POST", "/tokens", 405, "method_not_allowed"),
            ("HEAD", "/tokens", 405, ""),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert not code or answer.json()["error"] == code
        answer = await client.request("GET", "/tokens", content=b"x" * 10)
        refused(answer, 400, "invalid_request")
        assert answer.headers["connection"] == "close"
        assert (await client.get("/health")).status_code == 200


async def test_the_audit_names_every_attempt_and_nothing_secret(rig: Rig, logged: Logged) -> None:
    tokens = [rig.token(), rig.token(exp=1), ATTACKS["alg none"](rig), rig.token(f"{AGENT}s")]
    for token in tokens:
        await rig.ask(token)
    rig.peer.path = HOST
    await rig.ask(tokens[0])
    await rig.ask(None)
    text = json.dumps(logged)
    assert [(a["outcome"], a["spiffe_id"], a["job_id"]) for a in audits(logged)] == [
        ("granted", AGENT, JOB),
        ("expired_jwt", None, JOB),
        ("invalid_jwt", None, JOB),
        ("unknown_identity", f"{AGENT}s", JOB),
        ("identity_mismatch", AGENT, None),
        ("missing_authorization", None, None),
    ]
    assert all({"request_id", "pid", "uid", "ms", "log_level"} <= a.keys() for a in audits(logged))
    for secret in (*SECRETS.values(), *tokens, *(t.split(".")[1] for t in tokens)):
        assert secret not in text


async def test_an_exchange_is_quick(rig: Rig, logged: Logged) -> None:
    async with rig.client() as client:
        for _ in range(50):
            headers = {"Authorization": f"Bearer {rig.token()}"}
            assert (await client.get("/tokens", headers=headers)).status_code == 200
    times = sorted(a["ms"] for a in audits(logged))
    assert times[len(times) // 2] < 30  # 0.4 on a quiet machine
