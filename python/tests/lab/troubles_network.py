"""Troubles of WireGuard and of the boundary's rules; and what alerts tell of beside those."""

from __future__ import annotations

import re
from typing import Final

from netlab import HOST4
from oncall import OnCall
from trouble import Trouble, as_said, do, look, on_host
from troubles_storage import sql

OTHER: Final = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="  # some public key
LAPTOP_CONF: Final = "/etc/wireguard/wg0.conf"


def stop_wireguard(oncall: OnCall) -> None:
    oncall.host.execute("systemctl stop wireguard-wg0")


def another_peer(oncall: OnCall) -> None:
    """Give the laptop's address to another key."""
    oncall.host.succeed(f"wg set wg0 peer {OTHER} allowed-ips 10.0.0.2/32")
    theirs = oncall.laptop.succeed("wg show wg0 public-key").strip()
    oncall.host.succeed(f"wg set wg0 peer {theirs} remove")


def another_host_key(oncall: OnCall) -> None:
    """Have on the laptop the key of a host that was."""
    oncall.laptop.succeed(
        f"sed -i 's|^PublicKey *=.*|PublicKey = {OTHER}|' {LAPTOP_CONF}",
        "systemctl restart wg-quick-wg0",
    )
    oncall.host.succeed("systemctl restart wireguard-wg0")  # the old session would go on a while


def paste_on_laptop(oncall: OnCall) -> None:
    """Run the guide's command on HOST, and take the host's key from what it prints."""
    (command,) = (c for block in oncall.section.blocks("Do") for c in block if " laptop " in c)
    said = oncall.run(command.replace("build.example.org", HOST4))
    found = re.search(r"PublicKey\s*=\s*(\S+)", said)
    assert found, said
    oncall.laptop.succeed(
        f"sed -i 's|^PublicKey *=.*|PublicKey = {found[1]}|' {LAPTOP_CONF}",
        "systemctl restart wg-quick-wg0",
    )


def jobs_reach_the_api(oncall: OnCall) -> None:
    """See what nobody should: a job connects to the API."""
    lines = oncall.api.run("wget -q -O - http://10.0.0.1:8080/health")
    assert "healthy" in lines[-1], lines


def fail_six(oncall: OnCall) -> None:
    for _ in range(6):
        oncall.api.ended(oncall.job("echo no such target; exit 3"))


def an_hour_goes_by(oncall: OnCall) -> None:
    """Date the ends of failed jobs back by two hours."""
    sql(
        oncall,
        "UPDATE jobs SET completed_at = strftime('%Y-%m-%dT%H:%M:%fZ', completed_at, '-2 hours') "
        "WHERE status IN ('failed', 'timed_out')",
    )


TROUBLES: Final = (
    Trouble(
        name="WireGuard is down on the host",
        section="wireguard-does-not-connect",
        how="wireguard-wg0 stopped",
        sees="`host_unreachable` on the laptop",
        make=stop_wireguard,
        seen=OnCall.wait_silent,
        code="wireguard_down",
        says="WireGuard is not up; wg show wg0",
        steps=(look(), do(0)),
    ),
    Trouble(
        name="the host has another key for the laptop",
        section="wireguard-does-not-connect",
        how="wg set, another peer with the laptop's address",
        sees="`host_unreachable` on the laptop",
        make=another_peer,
        seen=OnCall.wait_silent,
        code="wireguard_quiet",
        says="no laptop has been heard of; keys that do not fit",
        exit_code=0,
        steps=(look(), do(0)),
    ),
    Trouble(
        name="the laptop has another key for the host",
        section="wireguard-does-not-connect",
        how="another PublicKey in the laptop's wg0.conf",
        sees="`host_unreachable` on the laptop",
        make=another_host_key,
        seen=OnCall.wait_silent,
        code="wireguard_quiet",
        says="no laptop has been heard of; keys that do not fit",
        exit_code=0,
        steps=(look(), as_said("is it this host's key", paste_on_laptop)),
    ),
    Trouble(
        name="the boundary's rules are gone",
        section="the-boundarys-rules-are-not-loaded",
        how="table inet flashpods deleted",
        sees="a job can connect to the API",
        make=on_host("nft delete table inet flashpods"),
        seen=jobs_reach_the_api,
        code="boundary_not_loaded",
        says="the rules of the trust boundary are not loaded",
        steps=(look(), do()),
    ),
    Trouble(
        name="a drain that was forgotten",
        section="drain",
        how="flashpods-admin drain",
        sees="",
        make=on_host("flashpods-admin drain"),
        seen=lambda oncall: oncall.wait_refused(503),
        code="draining",
        says="the host is draining; somebody ran flashpods-admin drain",
        exit_code=0,
        steps=(as_said("until `resume`", lambda o: o.run(o.remedy("draining", "flashpods"))),),
    ),
    Trouble(
        name="many jobs fail",
        section="flashpodshighfailurerate",
        how="six jobs that exit with 3; then their ends dated back two hours",
        sees="",
        make=fail_six,
        seen=lambda o: o.host.wait_until_succeeds(
            "test $(flashpods-admin status | grep -c failed)"
        ),
        code="many_failures",
        says="6 jobs failed within the last hour; .*6 times exit code 3, such as job ",
        steps=(do(), as_said("look at the logs of some", an_hour_goes_by)),
    ),
)
