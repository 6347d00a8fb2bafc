"""Troubles of the API, the engine, and jobs that hang between them."""

from __future__ import annotations

import json
import shlex
from typing import Final

from oncall import OnCall
from trouble import Trouble, as_said, by_doctor, do, look, on_host

API, PODMAN = "flashpods-api", "podman-socket-flashpods"
SETTINGS: Final = "/etc/flashpods/settings.json"
TOKEN: Final = "/etc/flashpods/api-token"
LAPTOP_TOKEN: Final = "/root/.config/flashpods/token"
SIGNAL: Final = "pkill --signal {} --uid flashpods --full '/podman system service'"
ENGINES: Final = "pgrep --uid flashpods --full '/podman system service'"
SQUATTER: Final = (
    "import socket, time; s = socket.create_server(('10.0.0.1', 8080)); time.sleep(9999)"
)


def with_wrong_key(oncall: OnCall) -> None:
    """Somebody edits the settings by hand, and restarts."""
    settings = json.loads(oncall.host.succeed(f"cat {SETTINGS}"))
    settings["http"]["porto"] = 8080
    text = json.dumps(settings)
    oncall.host.succeed(
        f"cat >{SETTINGS} <<'EOF'\n{text}\nEOF", f"systemctl restart --no-block {API}"
    )


def tell_laptop(oncall: OnCall) -> None:
    """Give the laptop the token that the host has now."""
    token = oncall.host.succeed(f"cat {TOKEN}").strip()
    oncall.laptop.succeed(f"cat >{LAPTOP_TOKEN} <<'EOF'\n{token}\nEOF")


def as_after_boot(oncall: OnCall) -> None:
    """Have the engine as a boot leaves it: two processes, of which the main one only waits.

    Where the process that keeps the user namespace is there already, one alone joins it.
    """
    oncall.host.succeed(
        f"systemctl stop {PODMAN}.service",
        "pkill --uid flashpods --full '^catatonit -P'",
        f"systemctl start {PODMAN}.service",
    )
    oncall.host.wait_until_succeeds(f"test $({ENGINES} | wc -l) -eq 2")


def freeze_engine(oncall: OnCall) -> None:
    oncall.host.succeed(SIGNAL.format("STOP"))


def thaw_engine(oncall: OnCall) -> None:
    oncall.host.succeed(SIGNAL.format("CONT"))


def hang_a_start(oncall: OnCall) -> None:
    """Post a job that the engine never starts."""
    freeze_engine(oncall)
    job = oncall.job("true")
    oncall.api.until(job, "starting")


def hang_a_start_without_api(oncall: OnCall) -> None:
    """Likewise, and the API, which would end it, goes as well."""
    hang_a_start(oncall)
    oncall.host.succeed(f"systemctl stop {API}")
    thaw_engine(oncall)


def one_is_left(oncall: OnCall, _: object) -> None:
    """See that nothing of the engine that hung is left, which may hold Podman's locks."""
    states = oncall.host.succeed(f"ps -o stat= -p $({ENGINES} | paste -sd,)").split()
    assert not any(state.startswith("T") for state in states), states


def fail_what_is_left(oncall: OnCall) -> None:
    """Do the block that ends stuck jobs, as far as the cause's end has left some."""
    oncall.doctor()
    if any(f["code"] == "jobs_stuck_in_starting" for f in oncall.findings):
        oncall.run("flashpods-admin fail-stuck JOB")


TROUBLES: Final = (
    Trouble(
        name="the API refuses its settings",
        section="the-api-is-down",
        how="an unknown key in settings.json, restart",
        sees="no answer at all",
        make=with_wrong_key,
        seen=OnCall.wait_silent,
        code="",
        says="unknown key 'http.porto'",
        exit_code=78,
        steps=(look(), do(0)),
    ),
    Trouble(
        name="the API's token file is lost",
        section="the-api-is-down",
        how="api-token removed, restart",
        sees="no answer at all",
        make=on_host(f"rm {TOKEN}", f"systemctl restart --no-block {API}"),
        seen=OnCall.wait_silent,
        code="api_down",
        says="token file can't be used; put it back.*No such file",
        steps=(look(), do(1), as_said("give it to the laptops", tell_laptop)),
    ),
    Trouble(
        name="another process has the API's port",
        section="the-api-is-down",
        how="a python listens on 10.0.0.1:8080 in its place",
        sees="no answer at all",
        make=on_host(
            f"systemctl stop {API}",
            f"systemd-run --unit=squatter python3 -c {shlex.quote(SQUATTER)}",
            "timeout 20 bash -c 'until </dev/tcp/10.0.0.1/8080; do sleep 0.1; done' 2>/dev/null",
            f"systemctl start --no-block {API}",
        ),
        seen=OnCall.wait_silent,
        code="api_down",
        says=r"does not answer as the API has port 8080; process \d+: /usr/bin/python3 -c",
        steps=(look(), by_doctor("api_down", "kill", "systemctl restart")),
    ),
    Trouble(
        name="the host lacks the API's address",
        section="the-api-is-down",
        how="wg0's address removed, restart",
        sees="no answer at all",
        make=on_host("ip address flush dev wg0", f"systemctl restart --no-block {API}"),
        seen=OnCall.wait_silent,
        code="api_down",
        says="does not have the address 10.0.0.1; is WireGuard up",
        steps=(look(), do(2)),
    ),
    Trouble(
        name="Podman is stopped",
        section="podman-does-not-answer",
        how="socket and service stopped",
        sees="`/health` with podman failing",
        make=on_host(f"systemctl stop {PODMAN}.socket {PODMAN}.service"),
        seen=lambda oncall: oncall.wait_failing("podman"),
        code="podman_silent",
        says="Podman does not answer on its socket",
        steps=(look(), do()),
    ),
    Trouble(
        name="Podman hangs",
        section="podman-does-not-answer",
        how="SIGSTOP to both processes of its service, as they are after a boot",
        sees="`/health` with podman failing",
        prepare=as_after_boot,
        make=freeze_engine,
        seen=lambda oncall: oncall.wait_failing("podman"),
        code="podman_silent",
        says="it hangs",
        steps=(look(), do(), one_is_left),
    ),
    Trouble(
        name="a job hangs in starting, Podman is silent",
        section="jobs-stuck-in-starting",
        how="SIGSTOP to Podman's service, then a job",
        sees="jobs that are `starting` for more than five minutes",
        make=hang_a_start,
        seen=lambda oncall: oncall.wait_diagnosed("jobs_stuck_in_starting"),
        code="jobs_stuck_in_starting",
        says="Podman does not answer; [0-9a-f]{16} starting",
        steps=(
            look(),
            as_said(
                "End the cause first",
                lambda o: o.run(o.remedy("jobs_stuck_in_starting", "systemctl restart podman")),
            ),
            as_said("Then end what is left", fail_what_is_left),
        ),
    ),
    Trouble(
        name="a job hangs in starting, the API is down",
        section="jobs-stuck-in-starting",
        how="likewise, and the API stopped",
        sees="jobs that are `starting` for more than five minutes",
        make=hang_a_start_without_api,
        seen=lambda oncall: oncall.wait_diagnosed("jobs_stuck_in_starting"),
        code="jobs_stuck_in_starting",
        says="the API, which starts jobs .* does not run; [0-9a-f]{16} starting",
        steps=(
            look(),
            as_said("Then end what is left", fail_what_is_left),
            as_said(
                "End the cause",
                lambda o: o.run("systemctl restart flashpods-api"),
            ),
        ),
    ),
)
