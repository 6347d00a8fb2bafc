"""The twelve checks on HOST, with one thing broken at a time: exactly that check must fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from deployment import PODMAN, Deployment

from flashpods_dev.lab.machine import LabMachine

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

TABLE = "inet flashpods"
RELOAD = "systemctl reload flashpods-firewall"


def validate(host: LabMachine, *options: str) -> dict[str, dict[str, Any]]:
    """Run it and return the checks by their name."""
    words = " ".join(["flashpods-admin validate --json", *options])
    code, said = host.execute(f"{words} || test $? -eq 1", timeout=240)
    assert code == 0, said
    return {check["name"]: check for check in json.loads(said)["checks"]}


def handle(host: LabMachine, chain: str, text: str) -> str:
    """Return the handle of the one rule of a chain that holds the text."""
    listed = host.succeed(f"nft -a list chain {TABLE} {chain}").splitlines()
    (line,) = (line for line in listed if text in line and "# handle" in line)
    return line.rpartition(" ")[2]


def drop_in(host: LabMachine, unit: str, variable: str, value: str) -> None:
    """Give a unit another setting by its environment, and restart it."""
    line = f"{variable}={value}".replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    host.succeed(
        f"mkdir -p /run/systemd/system/{unit}.service.d",
        f"cat >/run/systemd/system/{unit}.service.d/lab.conf <<'EOF'\n"
        f'[Service]\nEnvironment="{line}"\nEOF',
        f"systemctl daemon-reload && systemctl restart {unit}",
    )


def drop_out(host: LabMachine, unit: str) -> None:
    """Undo :func:`drop_in`."""
    host.succeed(
        f"rm -r /run/systemd/system/{unit}.service.d",
        f"systemctl daemon-reload && systemctl restart {unit}",
    )


POLICY = {
    "spiffe://flashpods.local/agent": {"job_type": "agent", "granted": ["GITHUB_TOKEN"]},
    "spiffe://flashpods.local/worker": {
        "job_type": "worker",
        "granted": ["GITHUB_TOKEN", "ANTHROPIC_API_KEY"],
    },
}
GRANTED = {
    "agent": {"job_type": "agent", "granted": ["ANTHROPIC_API_KEY", "GITHUB_TOKEN"]},
    "worker": {
        "job_type": "worker",
        "granted": ["GITHUB_TOKEN"],
        "answered_null": ["ANTHROPIC_API_KEY"],
    },
}


def break_svid(host: LabMachine, kind: str) -> None:
    socket = "-socketPath /run/spire/server/api.sock"
    shown = json.loads(host.succeed(f"spire-server entry show {socket} -output json"))
    (entry,) = (e for e in shown["entries"] if e["spiffe_id"]["path"] == f"/{kind}")
    host.succeed(f"spire-server entry delete {socket} -entryID {entry['id']}")


def mend_svid(host: LabMachine, kind: str) -> None:
    host.succeed("systemctl restart flashpods-spire-register")
    host.wait_until_succeeds(f"flashpods-admin validate --only svid-{kind}", timeout=90)


def break_policy(host: LabMachine, kind: str) -> None:
    identity = f"spiffe://flashpods.local/{kind}"
    policy = {f"spiffe://flashpods.local/{name}": grant for name, grant in GRANTED.items()}
    policy[identity] = POLICY[identity]
    variable = "FLASHPODS_SETTINGS__TOKENS__POLICY"
    drop_in(host, "flashpods-token-service", variable, json.dumps(policy))


def accept(host: LabMachine, port: int) -> None:
    """Let jobs through to a port, and to the address behind it."""
    host.succeed(f"nft insert rule {TABLE} job tcp dport {port} accept")


def shut(host: LabMachine, port: int) -> None:
    """Let the laptop no longer in to a port."""
    number = handle(host, "laptop", f"tcp dport {port} accept")
    host.succeed(f"nft delete rule {TABLE} laptop handle {number}")


# check → what breaks it, and what mends it
BREAKS: dict[str, tuple[Callable[[LabMachine], object], Callable[[LabMachine], object]]] = {
    "svid-worker": (lambda h: break_svid(h, "worker"), lambda h: mend_svid(h, "worker")),
    "svid-agent": (lambda h: break_svid(h, "agent"), lambda h: mend_svid(h, "agent")),
    "token-exchange-agent": (
        lambda h: break_policy(h, "agent"),
        lambda h: drop_out(h, "flashpods-token-service"),
    ),
    "token-exchange-worker": (
        lambda h: break_policy(h, "worker"),
        lambda h: drop_out(h, "flashpods-token-service"),
    ),
    "api-blocked": (lambda h: accept(h, 8080), lambda h: h.succeed(RELOAD)),
    "rsync-blocked": (lambda h: accept(h, 873), lambda h: h.succeed(RELOAD)),
    "internet-allowed": (
        lambda h: h.succeed(f"nft insert rule {TABLE} job tcp dport 443 reject"),
        lambda h: h.succeed(RELOAD),
    ),
    "api-over-wireguard": (lambda h: shut(h, 8080), lambda h: h.succeed(RELOAD)),
    "rsync-over-wireguard": (lambda h: shut(h, 873), lambda h: h.succeed(RELOAD)),
    "end-to-end-job": (
        lambda h: drop_in(h, "flashpods-api", "FLASHPODS_SETTINGS__UPLOADS__MAX_BYTES", "1"),
        lambda h: drop_out(h, "flashpods-api"),
    ),
    "socket-permissions": (
        lambda h: h.succeed("chmod 0777 /run/flashpods/token.sock && chmod 0755 /run/flashpods"),
        lambda h: h.succeed("chmod 0660 /run/flashpods/token.sock && chmod 0750 /run/flashpods"),
    ),
}
KINDS = ("failed", "blocked")
BLOCKED = {"svid-worker": {"token-exchange-worker"}, "svid-agent": {"token-exchange-agent"}}
SAYS = {
    "svid-worker": "spire_attestation_timeout",
    "svid-agent": "spire_attestation_timeout",
    "token-exchange-agent": "ANTHROPIC_API_KEY is missing",
    "token-exchange-worker": "ANTHROPIC_API_KEY was given, the policy withholds it",
    "api-blocked": "a job could connect to 10.0.0.1:8080",
    "rsync-blocked": "a job could connect to 10.0.0.1:873",
    "internet-allowed": "a job can't connect to github.com:443",
    "api-over-wireguard": "the rules drop 10.0.0.2 on wg0 at port 8080",
    "rsync-over-wireguard": "the rules drop 10.0.0.2 on wg0 at port 873",
    "end-to-end-job": "insufficient_storage",
    "socket-permissions": "any user may connect to identity.token_socket",
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_fails_and_nothing_else(deployed: Deployment, name: str) -> None:
    host = deployed.host
    host.wait_until_succeeds("flashpods-admin validate --only token-exchange-worker", timeout=90)
    do, undo = BREAKS[name]
    do(host)
    try:
        said = validate(host)
        if name in BLOCKED and said[name]["passed"]:  # the agent had not yet heard of it
            said = validate(host)
    finally:
        undo(host)
    found = {kind: {n: c["said"] for n, c in said.items() if c["status"] == kind} for kind in KINDS}
    failed, blocked = (set(found[kind]) for kind in KINDS)
    assert (failed, blocked) == ({name}, BLOCKED.get(name, set())), found
    assert SAYS[name] in said[name]["said"], said[name]
    assert said[name]["remedy"]


def test_an_engine_of_root_is_not_rootless(deployed: Deployment) -> None:
    """Root's own Podman behind the socket that the settings name."""
    host = deployed.host
    settings = json.loads(host.succeed("cat /etc/flashpods/settings.json"))
    settings["podman"]["socket"] = "/run/rootful.sock"
    host.succeed(
        f"cat >/tmp/rootful.json <<'EOF'\n{json.dumps(settings)}\nEOF",
        "systemd-run --unit=rootful podman system service --time=0 unix:///run/rootful.sock",
    )
    try:
        host.wait_until_succeeds("test -S /run/rootful.sock")
        said = validate(host, "--settings=/tmp/rootful.json", "--only=rootless")
        assert "is not rootless" in said["rootless"]["said"], said
    finally:
        host.succeed("systemctl stop rootful; rm -f /run/rootful.sock /tmp/rootful.json")


def test_a_silent_laptop(deployed: Deployment) -> None:
    """Its key is taken away on the host: a new peer with no handshake stands in its place."""
    host = deployed.host
    other = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="  # some public key
    host.succeed("systemctl stop wireguard-wg0-peer-mine")
    host.succeed(f"wg set wg0 peer {other} allowed-ips 10.0.0.2/32")
    try:
        names = ("--only=api-over-wireguard", "--only=rsync-over-wireguard")
        for check in validate(host, *names).values():
            assert check["status"] == "failed", check
            assert "no laptop is connected: last handshake never" in check["said"]
        for check in validate(host, *names, "--laptop-away").values():
            assert check["status"] == "passed", check
    finally:
        host.succeed(f"wg set wg0 peer {other} remove")
        host.succeed("systemctl start wireguard-wg0-peer-mine")
        # By itself it would look for a new session in 15 s; the scripts wait for that.
        deployed.laptop.succeed("systemctl restart wg-quick-wg0")
        deployed.laptop.wait_until_succeeds("ping -c 1 -W 1 10.0.0.1", timeout=90)


def test_it_leaves_nothing(deployed: Deployment) -> None:
    host = deployed.host
    validate(host)
    assert host.succeed(f"{PODMAN} ps --all --quiet") == ""
    assert host.succeed("find /var/lib/flashpods -maxdepth 1 -name '.validate-*'") == ""
    assert (
        host.succeed("ls /tmp/flashpods/finalized /tmp/flashpods/work | grep -v : || true").split()
        == []
    )
