"""The rules of ``flashpods-admin validate``, each failing where it must."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any, cast

import pytest

from flashpods.admin.command import AdminError
from flashpods.admin.validate import host_and_port
from flashpods.admin.validation import suite
from flashpods.admin.validation.boundary import blocked_faults
from flashpods.admin.validation.check import Check, Failed, Outcome, run_checks
from flashpods.admin.validation.engine import Door, door_faults, privileges, settled
from flashpods.admin.validation.host import Choices, Host
from flashpods.admin.validation.identity import exchange_faults
from flashpods.admin.validation.process import run, run_json
from flashpods.admin.validation.wireguard import admission_fault, laptops_of
from flashpods.cli.session import Ui
from flashpods.config import Settings
from flashpods.config_tokens import Grant

SOURCES = "python/src/flashpods/admin/validation"
# Of those that Flashpods has; the programs of the package have names like theirs.
UNITS = (
    r"(?:(?:status|restart|reload|start|cat|-u) |, \")"
    r"((?:flashpods|spire|podman-socket|wireguard)-[a-z0-9-]+)"
)
NO_HOST = cast(Host, None)  # for checks that ask nothing


def check(name: str, work: Any, **fields: Any) -> Check:
    return Check(name=name, title=name, run=work, remedy="do something", **fields)


async def passes(_: Host) -> str:
    return "as it should be"


async def fails(_: Host) -> str:
    raise Failed("not as it should be", "do this")


async def breaks(_: Host) -> str:
    raise KeyError("defect")


async def hangs(_: Host) -> str:
    await asyncio.sleep(600)
    return "never"


async def refuses(_: Host) -> str:
    raise PermissionError(13, "Permission denied")


# ------------------------------------------------------------------ running


async def test_each_outcome_is_told_and_one_failure_stops_no_other() -> None:
    told: list[Outcome] = []
    checks = [
        check("a", fails),
        check("b", passes, needs=("a",)),
        check("c", breaks),
        check("d", refuses),
        check("e", passes, needs=("c", "elsewhere")),
        check("f", passes, needs=("elsewhere",)),
    ]
    outcomes = await run_checks(NO_HOST, checks, told.append)
    assert outcomes == told
    statuses = ("failed", "blocked", "failed", "failed", "blocked", "passed")
    remedies = ("do this", "", "report it, with this line", "do something", "", "")
    assert tuple(o.status for o in outcomes) == statuses
    assert tuple(o.remedy for o in outcomes) == remedies
    assert outcomes[0].said == "not as it should be"
    assert outcomes[1].said == "not run: it needs a"
    assert "KeyError" in outcomes[2].said
    assert "Permission denied" in outcomes[3].said


async def test_a_check_that_hangs_is_bounded() -> None:
    (outcome,) = await run_checks(NO_HOST, [check("a", hangs, seconds=0.05)], lambda _: None)
    assert outcome.status == "failed"
    assert outcome.said == "no result within 0.05 s"
    assert outcome.remedy == "do something"


def test_there_are_twelve_each_with_a_remedy_and_a_bound() -> None:
    names = [c.name for c in suite.CHECKS]
    assert len(names) == len(set(names)) == 12
    assert all(c.remedy and 0 < c.seconds <= 120 for c in suite.CHECKS)
    for number, one in enumerate(suite.CHECKS):
        assert set(one.needs) <= set(names[:number]), "a need comes before"


def test_remedies_name_units_and_options_that_there_are() -> None:
    checkout = Path(__file__).parents[3]
    texts = [p.read_text() for p in (checkout / SOURCES).glob("*.py")]
    words = {word.rstrip(".,;") for text in texts for word in re.findall(r"[\w.-]+", text)}
    options = (checkout / "docs" / "options.md").read_text()
    named = {word for word in words if word.startswith("services.flashpods.")}
    assert named
    assert all(f"## {option}\n" in options for option in named), named
    units = {p.stem for p in (checkout / "lab/rendered/host/etc/systemd/system").iterdir()}
    asked = {u for text in texts for u in re.findall(UNITS, text)}
    assert len(asked) >= 8
    assert asked <= units, asked - units


def test_json_has_all_of_it_and_lines_have_no_colour_in_a_pipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcomes = [
        Outcome(check=suite.CHECKS[0], status="passed", said="fine", seconds=1.5),
        Outcome(check=suite.CHECKS[1], status="failed", said="bad\x1b[31m", remedy="mend it"),
        Outcome(check=suite.CHECKS[2], status="blocked", said="not run"),
    ]
    said = suite.as_json(outcomes, 2.0)
    assert json.loads(json.dumps(said))["passed"] is False
    assert [c["status"] for c in said["checks"]] == ["passed", "failed", "blocked"]
    assert said["checks"][1]["remedy"] == "mend it"
    lines = suite.Lines(Ui(as_json=False))
    for outcome in outcomes:
        lines(outcome)
    lines.sum(outcomes, 2.0)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert [line.split()[0] for line in shown.splitlines()] == ["ok", "FAILED", "try:", "--", "2"]


def test_only_known_checks_can_be_chosen() -> None:
    assert [c.name for c in suite.chosen(["rootless", "svid-worker"])] == [
        "svid-worker",
        "rootless",
    ]
    assert suite.chosen([]) == suite.CHECKS
    with pytest.raises(AdminError, match="no check 'svid'") as refused:
        suite.chosen(["svid"])
    assert (refused.value.code, refused.value.exit_code) == ("unknown_check", 2)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("example.org:443", ("example.org", 443)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        (None, None),
    ],
)
def test_what_a_job_must_reach(text: str | None, found: tuple[str, int] | None) -> None:
    assert host_and_port(text) == found


@pytest.mark.parametrize("text", ["example.org", ":443", "x:0", "x:65536", "x:http", "x:-1", ""])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(AdminError, match="give HOST:PORT") as refused:
        host_and_port(text)
    assert refused.value.exit_code == 2


# ------------------------------------------------------------------ programs of the host


async def test_a_program_is_bounded_and_its_complaint_is_kept() -> None:
    began = time.monotonic()
    with pytest.raises(Failed, match="sleep did not end within"):
        await run("sleep", "600", seconds=0.1)
    assert time.monotonic() - began < 60
    done = await run("sh", "-c", "echo first >&2; echo second >&2; exit 3")
    assert (done.code, done.said) == (3, "first")
    with pytest.raises(Failed, match="is not there") as missing:
        await run("no-such-program-at-all")
    assert "PATH" in missing.value.remedy
    with pytest.raises(Failed, match="printed no JSON"):
        await run_json("echo", "{")
    with pytest.raises(Failed, match="sh -c exit 1 failed"):
        await run_json("sh", "-c", "exit 1")


# ------------------------------------------------------------------ places


def test_where_api_rsync_and_internet_are() -> None:
    settings = Settings.model_validate(
        {
            "http": {"host": "10.0.0.1", "port": 8081},
            "uploads": {"rsync_url": "rsync://[fd77::1]:8730/uploads"},
            "identity": {"git_hosts": ["http://git.example"]},
        }
    )
    host = Host(settings, Choices())
    assert host.api == ("10.0.0.1", 8081)
    assert host.rsync == ("fd77::1", 8730)
    assert host.internet == ("git.example", 80)
    default = Host(Settings(), Choices(internet=("a.example", 1)))
    assert default.rsync == ("10.0.0.1", 873)
    assert default.internet == ("a.example", 1)
    assert Host(Settings(), Choices()).internet == ("github.com", 443)


# ------------------------------------------------------------------ boundary

DOORS = [("10.0.0.1", 8080), ("10.0.2.2", 8080)]


@pytest.mark.parametrize(
    ("said", "counted", "fault"),
    [
        (["ECONNREFUSED", "ETIMEDOUT"], 1, None),
        (["open", "ETIMEDOUT"], 1, "a job could connect to 10.0.0.1:8080"),
        (["ECONNREFUSED", "open"], 1, "a job could connect to 10.0.2.2:8080"),
        (["ECONNREFUSED", "ETIMEDOUT"], 0, "but not by the boundary"),
    ],
)
def test_closed_is_what_the_boundary_closed(
    said: list[str], counted: int, fault: str | None
) -> None:
    found = blocked_faults(DOORS, said, counted=counted, service=DOORS[0])
    assert [fault in f for f in found] == [True] if fault else found == []


def rule(chain: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"chain": chain, "expr": list(parts)}}


def meets(left: dict[str, Any], right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": left, "right": right}}


IIF = {"meta": {"key": "iifname"}}
SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}
TCP = {"payload": {"protocol": "tcp", "field": "dport"}}
UDP = {"payload": {"protocol": "udp", "field": "dport"}}
ESTABLISHED = meets({"ct": {"key": "state"}}, ["established"])
TABLE = [
    {"chain": {"name": "input"}},
    rule("input", ESTABLISHED, {"accept": None}),
    rule("input", meets(IIF, "lo"), {"accept": None}),
    rule("input", meets(UDP, 8080), {"accept": None}),
    rule("input", meets(IIF, "wg0"), meets(SADDR, "10.0.0.2"), {"goto": {"target": "laptop"}}),
    rule("input", {"counter": "input_other"}, {"drop": None}),
    rule("laptop", meets(TCP, 8080), {"accept": None}),
    rule("laptop", {"counter": "input_other"}, {"drop": None}),
]


@pytest.mark.parametrize(
    ("address", "port", "interface", "fault"),
    [
        ("10.0.0.2", 8080, "wg0", None),
        ("10.0.0.2", 873, "wg0", "drop"),
        ("10.0.0.3", 8080, "wg0", "drop"),
        ("10.0.0.2", 8080, "eth0", "drop"),
    ],
)
def test_who_is_let_in(address: str, port: int, interface: str, fault: str | None) -> None:
    found = admission_fault(TABLE, interface=interface, address=address, port=port)
    assert found is None if fault is None else found is not None and fault in found


@pytest.mark.parametrize(
    "condition",
    [{"limit": {"rate": 5, "per": "second"}}, {"ct count": {"val": 9, "inv": True}}],
)
def test_a_rule_for_some_packets_settles_nothing(condition: dict[str, Any]) -> None:
    for verdict in ({"accept": None}, {"drop": None}):
        first = rule("input", condition, {"counter": "some"}, verdict)
        for address, fault in (("10.0.0.2", False), ("10.0.0.3", True)):
            found = admission_fault([first, *TABLE], interface="wg0", address=address, port=8080)
            assert (found is not None) is fault


def test_without_rules_nobody_is_let_in() -> None:
    found = admission_fault([], interface="wg0", address="10.0.0.2", port=8080)
    assert found == "no rule lets 10.0.0.2 on wg0 in at port 8080"


def test_laptops_are_peers_that_are_one_machine() -> None:
    said = "KEYA=\t10.0.0.2/32 fd77::2/128\nKEYB=\t10.0.0.0/24\nKEYC=\t(none)\nKEYD=\t10.0.0.3/32\n"
    assert laptops_of(said, version=4) == {"10.0.0.2": "KEYA=", "10.0.0.3": "KEYD="}
    assert laptops_of(said, version=6) == {"fd77::2": "KEYA="}
    assert laptops_of("", version=4) == {}


# ------------------------------------------------------------------ identity


def test_secrets_are_what_the_policy_says() -> None:
    grant = Grant(job_type="worker", granted=("A",), answered_null=("B",))
    assert exchange_faults(grant, {"A"}) == []
    assert exchange_faults(grant, set()) == ["A is missing"]
    assert exchange_faults(grant, {"A", "B"}) == ["B was given, the policy withholds it"]


# ------------------------------------------------------------------ engine

ZERO = "0000000000000000"
STATUS = "\n".join(
    [
        "Name:\tsh",
        "Uid:\t900\t900\t900\t900",
        *(f"{name}:\t{ZERO}" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ]
)
MAP = "0 2000000000 900\n900 900 1\n901 2000000900 64636\n"


def test_a_jobs_process_has_no_power() -> None:
    assert privileges(STATUS, MAP, engine_uid=900) == []


@pytest.mark.parametrize(
    ("status", "uid_map", "words"),
    [
        (STATUS.replace("Uid:\t900", "Uid:\t0"), MAP, "uid 0, 900 of the host"),
        (STATUS.replace("900", "901"), MAP, "not as 900"),
        (STATUS, "0 0 4294967295\n", "root of the host is in its user namespace"),
        (STATUS.replace(f"CapEff:\t{ZERO}", "CapEff:\t00000000a80425fb"), MAP, "CapEff"),
        (STATUS.replace(f"CapBnd:\t{ZERO}", "CapBnd:\t0000000000000001"), MAP, "CapBnd"),
        (STATUS.replace("CapAmb", "Other"), MAP, "CapAmb 1"),
        (STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"), MAP, "no_new_privs"),
        (STATUS.replace("Seccomp:\t2", "Seccomp:\t0"), MAP, "no seccomp filter"),
    ],
)
def test_a_jobs_process_that_has_some(status: str, uid_map: str, words: str) -> None:
    (fault,) = privileges(status, uid_map, engine_uid=900)
    assert words in fault


async def test_what_the_runtime_has_yet_to_do_is_waited_for_and_what_stays_is_told() -> None:
    answers = iter([["it has no seccomp filter"], ["it has no seccomp filter"], []])
    assert await settled(lambda: next(answers), seconds=60) == []
    assert await settled(lambda: ["it has capabilities"], seconds=0.2) == ["it has capabilities"]


CLOSED = Door("podman.socket", Path("/p"), nobody=False, engine=True)
OPEN = Door("the Workload API", Path("/w"), nobody=True, engine=True)
PRIVATE = Door("spire.server_socket", Path("/s"), nobody=False, engine=False)


@pytest.mark.parametrize(
    ("door", "nobody", "engine", "fault"),
    [
        (CLOSED, "EACCES", "open", None),
        (OPEN, "open", "open", None),
        (PRIVATE, "EACCES", "EPERM", None),
        (CLOSED, "open", "open", "any user may connect to podman.socket /p"),
        (CLOSED, "ECONNREFUSED", "open", "any user may connect to podman.socket /p"),
        (CLOSED, "EACCES", "EACCES", "the jobs' user can't connect to podman.socket /p (EACCES)"),
        (OPEN, "EACCES", "open", "any user can't connect to the Workload API /w (EACCES)"),
        (OPEN, "ECONNREFUSED", "ECONNREFUSED", "(ECONNREFUSED)"),
        (PRIVATE, "EACCES", "open", "the jobs' user may connect to spire.server_socket /s"),
        (CLOSED, "ENOENT", "ENOENT", "podman.socket /p is not there"),
    ],
)
def test_sockets_are_open_to_whom_they_should(
    door: Door, nobody: str, engine: str, fault: str | None
) -> None:
    found = door_faults([door], [nobody], [engine])
    if fault is None:
        assert found == []
    else:
        assert fault in found[0]
