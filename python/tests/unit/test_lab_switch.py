"""What a switch of the lab does to units is what NixOS does, case by case."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods_dev.lab.switch import FAILED, UNITS, Plan, plan, text_of, unit_names

RENDERED = Path(__file__).parents[3] / "lab" / "rendered"
WANTED = "[Install]\nWantedBy=multi-user.target\n"


def generation(top: Path, units: dict[str, str], **files: str) -> Path:
    (top / UNITS).mkdir(parents=True)
    for name, text in units.items():
        (top / UNITS / name).write_text(text)
    for name, text in files.items():
        (top / "etc/flashpods").mkdir(exist_ok=True)
        (top / f"etc/flashpods/{name}.json").write_text(text)
    return top


def service(*lines: str, start: str = "/bin/a") -> str:
    return "\n".join(["[Service]", f"ExecStart={start}", *lines, ""])


def changed(tmp_path: Path, *lines: str, name: str = "a.service", **states: str) -> Plan:
    """Plan for one unit that is active, with other units' states."""
    old = generation(tmp_path / "old", {name: service(*lines)})
    new = generation(tmp_path / "new", {name: service(*lines, start="/bin/b")})
    return plan(old, new, {name: "active", **{f"{k}.socket": v for k, v in states.items()}})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), Plan(stop={"a.service"}, start={"a.service"})),
        (("X-StopIfChanged=false",), Plan(restart={"a.service"})),
        (("X-ReloadIfChanged=true",), Plan(reload={"a.service"})),
        (("X-RestartIfChanged=false",), Plan()),
    ],
)
def test_a_service_that_changed(tmp_path: Path, lines: tuple[str, ...], expected: Plan) -> None:
    assert changed(tmp_path, *lines) == expected


def test_a_timer_is_restarted_and_a_socket_left(tmp_path: Path) -> None:
    assert changed(tmp_path / "1", name="a.timer") == Plan(restart={"a.timer"})
    assert changed(tmp_path / "2", name="a.socket") == Plan()


def test_the_socket_of_a_service_goes_with_it_unless_the_service_is_only_restarted(
    tmp_path: Path,
) -> None:
    units = {"a.service": service(), "a.socket": "[Socket]\n"}
    states = {"a.service": "active", "a.socket": "active"}
    old = generation(tmp_path / "old", units)
    new = generation(tmp_path / "new", {**units, "a.service": service(start="/bin/b")})
    assert plan(old, new, states) == Plan(stop={"a.service", "a.socket"}, start={"a.socket"})
    last = generation(
        tmp_path / "last", {**units, "a.service": service("X-StopIfChanged=false", start="/bin/b")}
    )
    assert plan(old, last, states) == Plan(restart={"a.service"})


def test_what_is_off_or_the_same_is_left_and_what_is_gone_stopped(tmp_path: Path) -> None:
    old = generation(
        tmp_path / "old",
        {
            "off.service": service(),
            "same.service": "[Unit]\nDescription=words\n" + service(),
            "gone.service": service(),
        },
    )
    new = generation(
        tmp_path / "new",
        {
            "off.service": service(start="/bin/b"),
            "same.service": "[Unit]\nDescription=other words\n" + service(),
            "fresh.service": service() + WANTED,
        },
    )
    states = {"off.service": "inactive", "same.service": "active", "gone.service": "active"}
    states["multi-user.target"] = "active"
    # A unit that is new comes by its target's start.
    assert plan(old, new, states) == Plan(stop={"gone.service"}, start={"multi-user.target"})


def test_a_unit_has_changed_if_a_file_has_that_it_names(tmp_path: Path) -> None:
    units = {"a.service": service(start="/bin/a --config /etc/flashpods/settings.json")}
    old = generation(tmp_path / "old", units, settings="{}")
    new = generation(tmp_path / "new", units, settings='{"http": {}}')
    assert text_of(old, "a.service") != text_of(new, "a.service")
    assert plan(old, new, {"a.service": "active"}).start == {"a.service"}


def test_a_failed_switch_has_nixoss_exit_code() -> None:
    assert FAILED == 4


def test_an_upgrade_restarts_what_jobs_and_laptops_wait_for_and_leaves_the_sockets() -> None:
    """Of what the modules render: every program is another, every configuration has changed."""
    old, new = RENDERED / "host", RENDERED / "next"
    oneshots = {"flashpods-backup.service"}
    states = {name: "active" for name in unit_names(old) if name not in oneshots}
    todo = plan(old, new, {**states, "multi-user.target": "active"})
    assert todo.restart == {
        *("flashpods-api.service", "podman-socket-flashpods.service"),
        *("flashpods-token-service.service", "spire-agent.service", "spire-server.service"),
    }
    assert todo.reload == {"flashpods-firewall.service"}
    # Before the new API changes the database, nothing of the older version uses it any more, but
    # for the hooks of pushes under way: whatever they find then, they go on.
    assert "flashpods-cleanup.service" in todo.stop
    assert not {name for name in todo.stop if name.endswith(".socket")}
    assert todo.stop <= todo.start
