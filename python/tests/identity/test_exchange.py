"""The exchange end to end: secrets for an identity, and every attack on the token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import identity_rig as rig
import jwt
import pytest
import support
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import Connected

from flashpods_dev.machine import UID
from flashpods_dev.stack import MiniStack

WORKER = {"ANTHROPIC_API_KEY": None, "GITHUB_TOKEN": rig.SECRETS["github_token"]}
AGENT = {
    "ANTHROPIC_API_KEY": rig.SECRETS["anthropic_api_key"],
    "GITHUB_TOKEN": rig.SECRETS["github_token"],
}


@pytest.mark.parametrize(("kind", "expected"), [("worker", WORKER), ("agent", AGENT)])
async def test_each_type_gets_what_its_policy_says(
    host: Connected, shared: MiniStack, kind: str, expected: dict[str, str | None]
) -> None:
    job_id = await rig.start_job(host.client, kind, f"python3 {rig.INSIDE} whole")
    await support.ended(host.client, job_id)
    (answer,) = rig.answers_in(await rig.said_by(host.client, job_id))
    assert answer.pop("kid") == authority(shared)["kid"]
    assert answer == {"id": f"{rig.DOMAIN}/{kind}", "status": 200, "body": expected}
    (line,) = [line for line in rig.audited(shared) if line["job_id"] == job_id]
    assert (line["outcome"], line["spiffe_id"], line["job_type"]) == ("granted", answer["id"], kind)


# ------------------------------------------------------------------ attacks on the token


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def authority(stack: MiniStack) -> dict[str, str]:
    """Return the newest JWT authority of the server: kid, and the public key in PEM."""
    newest = rig.identity_of(stack).client().bundle()["jwt_authorities"][-1]
    body = base64.encodebytes(base64.b64decode(newest["public_key"])).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n"
    return {"kid": newest["key_id"], "pem": pem}


def claims(**over: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {"sub": f"{rig.DOMAIN}/agent", "aud": [rig.AUDIENCE], "iat": now, "exp": now + 300}
    return {**base, **over}


def without_algorithm(stack: MiniStack) -> str:
    header = {"alg": "none", "kid": authority(stack)["kid"], "typ": "JWT"}
    return f"{part(header)}.{part(claims())}."


def hmac_with_the_public_key(stack: MiniStack) -> str:
    """HS256, keyed with what everybody knows: the confusion of RFC 8725, section 2.1."""
    key = authority(stack)
    signed = f"{part({'alg': 'HS256', 'kid': key['kid'], 'typ': 'JWT'})}.{part(claims())}"
    mac = hmac.new(key["pem"].encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def signed_by_a_stranger(stack: MiniStack) -> str:
    key = generate_private_key(SECP256R1())
    return jwt.encode(claims(), key, algorithm="ES256", headers={"kid": authority(stack)["kid"]})


def of_a_foreign_trust_domain(stack: MiniStack) -> str:
    key = generate_private_key(SECP256R1())
    foreign = claims(sub="spiffe://evil.example/agent")
    return jwt.encode(foreign, key, algorithm="ES256", headers={"kid": "evil"})


def its_key_in_its_header(stack: MiniStack) -> str:
    key = generate_private_key(SECP256R1())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    headers = {"kid": authority(stack)["kid"], "jwk": {"x5c": [base64.b64encode(der).decode()]}}
    return jwt.encode(claims(), key, algorithm="ES256", headers=headers)


def garbage(_: MiniStack) -> str:
    return "a.b.c"


@pytest.mark.parametrize(
    "forge",
    [
        without_algorithm,
        hmac_with_the_public_key,
        signed_by_a_stranger,
        of_a_foreign_trust_domain,
        its_key_in_its_header,
        garbage,
    ],
)
async def test_forged(host: Connected, shared: MiniStack, forge: Any) -> None:
    answer = await rig.ask(host.client, "worker", "exchange", forge(shared))
    assert (answer["status"], answer["body"]["error"]) == (401, "invalid_jwt")
    assert set(answer["body"]) == {"error", "message", "details"}


async def test_no_token(host: Connected) -> None:
    answer = await rig.ask(host.client, "worker", "exchange")
    assert (answer["status"], answer["body"]["error"]) == (400, "missing_authorization")


async def test_for_another_audience(host: Connected) -> None:
    svid = await rig.ask(host.client, "worker", "fetch", "somebody-else")
    answer = await rig.ask(host.client, "worker", "exchange", svid["jwt"])
    assert (answer["status"], answer["body"]["error"]) == (401, "invalid_audience")


async def test_altered(host: Connected) -> None:
    svid = await rig.ask(host.client, "worker", "fetch")
    header, _, signature = svid["jwt"].split(".")
    altered = f"{header}.{part(claims())}.{signature}"
    answer = await rig.ask(host.client, "worker", "exchange", altered)
    assert (answer["status"], answer["body"]["error"]) == (401, "invalid_jwt")


async def test_stolen_from_another_type_of_container(host: Connected, shared: MiniStack) -> None:
    """The agent's own token, valid for all else, in a worker's hands."""
    svid = await rig.ask(host.client, "agent", "fetch")
    before = len(rig.audited(shared))
    answer = await rig.ask(host.client, "worker", "exchange", svid["jwt"])
    assert (answer["status"], answer["body"]["error"]) == (403, "identity_mismatch")
    (line,) = rig.audited(shared)[before:]
    assert (line["outcome"], line["spiffe_id"]) == ("identity_mismatch", f"{rig.DOMAIN}/agent")
    assert line["job_type"] == "worker"


async def test_replayed_from_the_host(host: Connected, shared: MiniStack) -> None:
    """By root and by the jobs' own user; a stranger can't even connect."""
    svid = await rig.ask(host.client, "agent", "fetch")
    socket = rig.identity_of(shared).token_socket
    command = ["curl", "--silent", "--max-time", "10", "--unix-socket", str(socket)]
    command += ["--header", f"Authorization: Bearer {svid['jwt']}", "http://localhost/tokens"]
    for uid in (0, UID):
        answer = json.loads(rig.as_user_of_host(uid, *command).stdout)
        assert answer["error"] == "identity_mismatch"
    refused = rig.as_stranger(*command)
    assert (refused.returncode, refused.stdout) == (7, "")  # curl: could not connect


async def test_an_identity_that_no_policy_names(host: Connected, shared: MiniStack) -> None:
    """SPIRE may know more identities than may have secrets."""
    identity = rig.identity_of(shared)
    entry = {
        "spiffe_id": f"{rig.DOMAIN}/guest",
        "parent_id": f"{rig.DOMAIN}/host",
        "selectors": [{"type": "docker", "value": "label:flashpods-job-type:guest"}],
    }
    server = identity.client()
    server.call("entry", "create", options=("-data", "-"), data={"entries": [entry]})
    labels = {**rig.labels_of("worker"), "flashpods-job-type": "guest"}
    with rig.container(shared, labels=labels) as guest:

        def known() -> bool:
            return "jwt" in rig.run_in(shared, guest, "python3", rig.INSIDE, "fetch").stdout

        rig.within(30, known, "the entry has reached the agent")
        done = rig.run_in(shared, guest, "python3", rig.INSIDE, "whole")
    answer = json.loads(done.stdout)
    assert answer["id"] == f"{rig.DOMAIN}/guest"
    assert (answer["status"], answer["body"]["error"]) == (403, "unknown_identity")
    # And the next registration takes it away again.
    assert "entries_registered" in identity.register().stderr
    assert {e["spiffe_id"]["path"] for e in server.entries()} == {"/worker", "/agent", "/host"}


# ------------------------------------------------------------------ what is left behind


async def test_the_log_names_every_attempt_and_holds_no_secret(
    host: Connected, shared: MiniStack
) -> None:
    before = len(rig.audited(shared))
    svid = await rig.ask(host.client, "agent", "fetch")
    forged = signed_by_a_stranger(shared)
    await rig.ask(host.client, "agent", "exchange", svid["jwt"])
    await rig.ask(host.client, "worker", "exchange", svid["jwt"])
    await rig.ask(host.client, "worker", "exchange", forged)
    await rig.ask(host.client, "worker", "exchange")
    outcomes = [line["outcome"] for line in rig.audited(shared)[before:]]
    assert outcomes == ["granted", "identity_mismatch", "invalid_jwt", "missing_authorization"]
    secret = [*rig.SECRETS.values(), svid["jwt"], forged, svid["jwt"].rsplit(".")[-1]]
    logs = [p for p in shared.layout.logs.iterdir() if p.is_file()]
    assert {p.name for p in logs} >= {"token-service.log", "spire-agent.log", "spire-server.log"}
    for path in logs:
        text = path.read_text(errors="replace")
        assert not [value for value in secret if value in text], path


def where_secrets_are() -> tuple[int, list[str]]:
    """Return how many files of processes were read, and which of them hold a secret."""
    seen, found = 0, []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue
            seen += 1
            found += [f"{process.name}/{name}" for v in rig.SECRETS.values() if v.encode() in text]
    return seen, found


async def test_no_secret_in_an_argument_or_an_environment(
    host: Connected, shared: MiniStack
) -> None:
    """Of any process of the stack, while a job holds its secrets."""
    job_id = await rig.start_job(
        host.client, "agent", f"python3 {rig.INSIDE} whole > /tmp/t; echo got it; sleep 60"
    )
    marker = "got it"
    async with support.follow(host.client, job_id) as events:
        async for event in events:
            if marker in event.data:
                break
    seen, found = where_secrets_are()
    await host.client.delete(f"/jobs/{job_id}")
    await support.ended(host.client, job_id)
    assert seen > 20
    assert found == []


async def test_secrets_are_reloaded(host: Connected, shared: MiniStack) -> None:
    identity = rig.identity_of(shared)
    fresh = {**rig.SECRETS, "github_token": f"ghp_{uuid.uuid4().hex}"}
    try:
        identity.write_secrets(fresh)
        os.kill(identity.tokens.pid, signal.SIGHUP)
        log = identity.tokens.log
        rig.within(10, lambda: "secrets reloaded" in log.read_text(), "the reload")
        answer = await rig.ask(host.client, "worker", "whole")
        assert answer["body"]["GITHUB_TOKEN"] == fresh["github_token"]
    finally:
        identity.write_secrets(rig.SECRETS)
        identity.tokens.restart()
