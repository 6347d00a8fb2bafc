"""Troubles of SPIRE and of the token service."""

from __future__ import annotations

import json
from typing import Final

from deployment import NAMES, PODMAN
from oncall import GATE, HELPER, OnCall
from trouble import Act, Trouble, as_said, do, look, on_host

SERVER_SOCKET: Final = "-socketPath /run/spire/server/api.sock"
ENTRY: Final = f"spire-server entry {{}} {SERVER_SOCKET}"
SERVER: Final = "/etc/spire/server.json"
TOKENS: Final = "flashpods-token-service"
SECRETS: Final = "/etc/flashpods/secrets.json"
AGENT: Final = "/etc/spire/agent.json"
DOMAIN: Final = "spiffe://flashpods.local"
TOKENS_URL: Final = "http://localhost/tokens"
THIEF: Final = "localhost/lab:thief"
WHO: Final = f"{HELPER} whoami"
GET: Final = f"{HELPER} get GITHUB_TOKEN"


def entries(oncall: OnCall) -> dict[str, str]:
    """Return what is registered for jobs: the path of its SPIFFE ID → its entry's id."""
    shown = json.loads(oncall.host.succeed(f"{ENTRY.format('show')} -output json"))["entries"]
    found = {entry["spiffe_id"]["path"]: str(entry["id"]) for entry in shown}
    return {path: found[path] for path in ("/worker", "/agent")}


def lose_entries(oncall: OnCall) -> None:
    for entry in entries(oncall).values():
        oncall.host.succeed(f"{ENTRY.format('delete')} -entryID {entry}")


def swap_selectors(oncall: OnCall) -> None:
    """Give each type of job the other's identity."""
    theirs = {"/worker": "agent", "/agent": "worker"}
    for path, entry in entries(oncall).items():
        oncall.host.succeed(
            f"{ENTRY.format('update')} -entryID {entry} -parentID {DOMAIN}/host "
            f"-spiffeID {DOMAIN}{path} -selector docker:label:flashpods-job-type:{theirs[path]}"
        )


def authority_of(life: str) -> Act:
    """Have SPIRE begin anew with authorities that live so long."""

    def act(oncall: OnCall) -> None:
        oncall.host.succeed(
            f"""sed -i 's/"ca_ttl": "[^"]*"/"ca_ttl": "{life}"/' {SERVER}""",
            "systemctl stop spire-agent spire-server",
            "rm -rf /var/lib/spire/server/* /var/lib/spire/agent/*",
            "systemctl start spire-server",
            "systemctl restart flashpods-spire-register",
            "systemctl start spire-agent",
        )
        oncall.wait_well()

    return act


def with_thief(oncall: OnCall) -> None:
    """Have an image that brings its own curl, as a thief's would."""
    top = "/tmp/thief"
    oncall.host.succeed(
        f"mkdir -p {' '.join(f'{top}/{name}' for name in ('bin', *NAMES))}",
        f"for name in sh sleep echo; do cp /usr/bin/busybox {top}/bin/$name; done",
        f"cp --parents --dereference /usr/bin/curl {top}",
        f"cp --parents --dereference $(ldd /usr/bin/curl | grep -o '/[^ ]*') {top}",
        f"tar -C {top} -cf {top}.tar . && {PODMAN} import {top}.tar {THIEF}",
        f"rm -r {top} {top}.tar",
    )


def steal(oncall: OnCall) -> None:
    """Let a worker present a token that is an agent's."""
    minted = oncall.host.succeed(
        f"spire-server jwt mint {SERVER_SOCKET} -spiffeID {DOMAIN}/agent -audience {TOKENS}"
    )
    ask = f"curl -s --unix-socket /run/flashpods/token.sock {TOKENS_URL}"
    oncall.thief = oncall.job(
        f"{ask} -H 'Authorization: Bearer {minted.strip()}'; echo; {GATE}", image=THIEF
    )


def is_refused(oncall: OnCall) -> None:
    oncall.api.printed(oncall.thief, "identity_mismatch")


def no_identity(oncall: OnCall) -> None:
    oncall.wait_error_in_job(WHO, "spire_attestation_timeout")


def no_token(oncall: OnCall) -> None:
    oncall.wait_error_in_job(GET, "token_exchange_failed")


def bring_back(oncall: OnCall) -> None:
    oncall.fetch_from_vault("secrets.json", SECRETS)


TROUBLES: Final = (
    Trouble(
        name="SPIRE is stopped, the agent's data lost",
        section="spire-attestation-fails",
        how="server and agent stopped, /var/lib/spire/agent emptied",
        sees="`spire_attestation_timeout`",
        make=on_host("systemctl stop spire-agent spire-server", "rm -rf /var/lib/spire/agent/*"),
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
        make=on_host(
            f"sed -i 's|podman-socket-flashpods.service/ctrs|podman.service/ctrs|' {AGENT}",
            "systemctl restart spire-agent",
        ),
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
        name="registration entries have the wrong selectors",
        section="spire-attestation-fails",
        how="each type's selector exchanged for the other's with spire-server",
        sees="`identity_mismatch`",
        make=swap_selectors,
        seen=lambda oncall: oncall.wait_error_in_job(GET, "identity_mismatch"),
        code="spire_entries",
        says="0 entries are missing, 2 differ",
        steps=(look(), do(0)),
    ),
    Trouble(
        name="SPIRE's authority is not renewed",
        section="flashpodscertificateexpiring",
        how="authorities of 4 minutes; the server's directory given to root, so that it can't "
        "write the next one's key",
        sees="",
        prepare=authority_of("4m"),
        make=on_host("chown root: /var/lib/spire/server", "chmod 0755 /var/lib/spire/server"),
        seen=lambda oncall: oncall.wait_diagnosed("spire_authority_expiring"),
        after=authority_of("24h"),
        code="spire_authority_expiring",
        says="newest authority ends in [01] minutes; .*did not make the next one in time",
        steps=(do(),),
    ),
    Trouble(
        name="a job presents another's identity",
        section="flashpodsidentitymismatch",
        how="a worker brings its own curl and an agent's token",
        sees="",
        prepare=with_thief,
        make=steal,
        seen=is_refused,
        after=on_host(f"{PODMAN} rmi {THIEF}"),
        code="identity_mismatch",
        says=f"[0-9a-f]{{16}} presented {DOMAIN}/agent, 1 times",
        steps=(do(),),
    ),
    Trouble(
        name="the secrets file is lost",
        section="the-token-service-does-not-answer",
        how="secrets.json removed, restart",
        sees="`token_exchange_failed`",
        make=on_host(f"rm {SECRETS}", f"systemctl restart --no-block {TOKENS}"),
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
        make=on_host(
            f"""sed -i 's/"github_token"/github_token/' {SECRETS}""",
            f"systemctl restart --no-block {TOKENS}",
        ),
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
        make=on_host(f"chmod 0644 {SECRETS}"),
        seen=lambda _: None,  # nobody but the doctor sees it
        code="secrets_exposed",
        says="has mode 0644, which opens it to others",
        steps=(look(), do()),
    ),
)
