"""Who gets which identity, and who gets none."""

from __future__ import annotations

import json

import identity_rig as rig
import pytest
from support import Connected

from flashpods_dev.machine import UID
from flashpods_dev.stack import MiniStack


@pytest.mark.parametrize("kind", ["worker", "agent"])
async def test_each_type_of_job_has_its_identity(host: Connected, kind: str) -> None:
    svid = await rig.ask(host.client, kind, "fetch")
    assert svid["id"] == f"{rig.DOMAIN}/{kind}"
    claims = rig.claims(svid["jwt"])
    assert claims["sub"] == f"{rig.DOMAIN}/{kind}"
    assert claims["aud"] == [rig.AUDIENCE]
    assert 0 < claims["exp"] - claims["iat"] <= 300


async def test_a_job_has_an_x509_svid(host: Connected) -> None:
    said = await rig.run_job(
        host.client,
        "worker",
        "/opt/spire-agent api fetch x509 -socketPath /run/spire/sockets/agent.sock -output json",
    )
    (svid,) = rig.answers_in(said)[-1]["svids"]
    assert svid["spiffe_id"] == f"{rig.DOMAIN}/worker"


async def test_what_a_job_sees(host: Connected) -> None:
    said = await rig.run_job(
        host.client, "worker", "env | sort; ls -l /run/spire/sockets /run/flashpods"
    )
    assert "SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/sockets/agent.sock" in said
    assert "FLASHPODS_TOKEN_SOCKET=/run/flashpods/token.sock" in said
    assert "podman.sock" not in said
    assert "api.sock" not in said


async def test_the_mounts_cannot_be_written(host: Connected) -> None:
    said = await rig.run_job(
        host.client,
        "worker",
        "cd /run/spire/sockets; touch x; rm agent.sock; rm ../../flashpods/token.sock; "
        "ls . ../../flashpods",
    )
    assert said.count("Read-only file system") == 2
    assert "agent.sock" in said.splitlines()
    assert "token.sock" in said.splitlines()


# ------------------------------------------------------------------ none for others


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"flashpods-job": "true"},
        {"flashpods-job-type": "root"},
        {"flashpods-job-type": "Agent"},
        {"flashpods-job-type": ""},
        {"job-type": "agent"},
    ],
    ids=str,
)
def test_no_identity_without_the_right_label(shared: MiniStack, labels: dict[str, str]) -> None:
    with rig.container(shared, labels=labels) as other:
        done = rig.run_in(shared, other, "python3", rig.INSIDE, "fetch")
    assert "no identity issued" in json.loads(done.stdout)["refused"], done


def test_no_identity_outside_of_a_jobs_cgroup(shared: MiniStack) -> None:
    """Right labels, but a cgroup that is no job's: the engine's own place for it."""
    done = shared.run_podman(
        *("run", "--rm", "--network=none", "--userns=keep-id", "--label=flashpods-job-type=agent"),
        f"--cgroup-parent={shared.cgroup}/svc-own",
        f"--volume={rig.identity_of(shared).sockets}:/run/spire/sockets:ro",
        *(f"--volume={s}:{t}:ro" for t, s in shared.settings["podman"]["mounts"].items()),
        *(rig.IMAGE, "python3", rig.INSIDE, "fetch"),
    )
    assert "no identity issued" in json.loads(done.stdout)["refused"], done


@pytest.mark.parametrize("uid", [rig.STRANGER, UID, 0])
def test_no_identity_for_processes_of_the_host(shared: MiniStack, uid: int) -> None:
    identity = rig.identity_of(shared)
    command = rig.fetch_jwt(identity.options.spire.agent, identity.agent_socket)
    done = rig.as_user_of_host(uid, *command)
    assert done.returncode != 0
    assert "no identity issued" in done.stdout + done.stderr
