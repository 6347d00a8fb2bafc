"""Troubles of SPIRE and of the token service."""

from __future__ import annotations

import json
from typing import Final

from oncall import HELPER, OnCall
from trouble import Trouble, as_said, do, look

ENTRY: Final = "spire-server entry {} -socketPath /run/spire/server/api.sock"
TOKENS: Final = "flashpods-token-service"
SECRETS: Final = "/etc/flashpods/secrets.json"
AGENT: Final = "/etc/spire/agent.json"
WHO: Final = f"{HELPER} whoami"
GET: Final = f"{HELPER} get GITHUB_TOKEN"


def stop_spire(oncall: OnCall) -> None:
    oncall.host.succeed("systemctl stop spire-agent spire-server", "rm -rf /var/lib/spire/agent/*")


def misfit_cgroups(oncall: OnCall) -> None:
    oncall.host.succeed(
        f"sed -i 's|podman-socket-flashpods.service/ctrs|podman.service/ctrs|' {AGENT}",
        "systemctl restart spire-agent",
    )


def lose_entries(oncall: OnCall) -> None:
    shown = json.loads(oncall.host.succeed(f"{ENTRY.format('show')} -output json"))
    for entry in shown["entries"]:
        if entry["spiffe_id"]["path"] != "/host":
            oncall.host.succeed(f"{ENTRY.format('delete')} -entryID {entry['id']}")


def no_identity(oncall: OnCall) -> None:
    oncall.wait_error_in_job(WHO, "spire_attestation_timeout")


def no_token(oncall: OnCall) -> None:
    oncall.wait_error_in_job(GET, "token_exchange_failed")


def lose_secrets(oncall: OnCall) -> None:
    oncall.host.succeed(f"rm {SECRETS}", f"systemctl restart --no-block {TOKENS}")


def garble_secrets(oncall: OnCall) -> None:
    oncall.host.succeed(
        f"""sed -i 's/"github_token"/github_token/' {SECRETS}""",
        f"systemctl restart --no-block {TOKENS}",
    )


def open_secrets(oncall: OnCall) -> None:
    oncall.host.succeed(f"chmod 0644 {SECRETS}")


def bring_back(oncall: OnCall) -> None:
    oncall.fetch_from_vault("secrets.json", SECRETS)


TROUBLES: Final = (
    Trouble(
        name="SPIRE is stopped, the agent's data lost",
        section="spire-attestation-fails",
        how="server and agent stopped, /var/lib/spire/agent emptied",
        sees="`spire_attestation_timeout`",
        make=stop_spire,
        seen=no_identity,
        code="spire_server_silent",
        says="SPIRE's server does not answer",
        steps=(look(), do(0)),
    ),
    Trouble(
        name="the agent's configuration does not fit Podman's cgroups",
        section="spire-attestation-fails",
        how="another unit's name in the cgroup matcher of agent.json, restart",
        sees="`spire_attestation_timeout`",
        make=misfit_cgroups,
        seen=no_identity,
        code="spire_agent_config",
        says=r"container_id_cgroup_matchers must be \['/system.slice/podman-socket-flashpods",
        steps=(look(), do(1)),
    ),
    Trouble(
        name="registration entries are gone",
        section="spire-attestation-fails",
        how="deleted with spire-server",
        sees="`spire_attestation_timeout`",
        make=lose_entries,
        seen=no_identity,
        code="spire_entries",
        says="2 entries are missing",
        steps=(look(), do(0)),
    ),
    Trouble(
        name="the secrets file is lost",
        section="the-token-service-does-not-answer",
        how="secrets.json removed, restart",
        sees="`token_exchange_failed`",
        make=lose_secrets,
        seen=no_token,
        code="secrets_unusable",
        says="secrets.json: No such file",
        steps=(look(), as_said("put it back from where you keep it", bring_back), do()),
    ),
    Trouble(
        name="the secrets file is no JSON",
        section="the-token-service-does-not-answer",
        how="a quotation mark lost, restart",
        sees="`token_exchange_failed`",
        make=garble_secrets,
        seen=no_token,
        code="secrets_unusable",
        says="secrets.json is not JSON",
        steps=(look(), as_said("put it back from where you keep it", bring_back), do()),
    ),
    Trouble(
        name="the secrets file is open to others",
        section="the-token-service-does-not-answer",
        how="mode 0644",
        sees="others than root can read the secrets",
        make=open_secrets,
        seen=lambda _: None,  # nobody but the doctor sees it
        code="secrets_exposed",
        says="has mode 0644, which opens it to others",
        steps=(look(), do()),
    ),
)
