"""``GENERATION/bin/switch-to-configuration test`` on a machine of the lab.

A generation is a directory with ``etc``, ``usr`` and ``var`` as ``lab/rendered`` has them. What is
stopped, reloaded, restarted and started, and in which order, is NixOS's own
(nixos/modules/system/activation/switch-to-configuration.pl). There a unit has changed if its text
has, which names what it depends on by paths of the store; here, also if a file that it names has.

Runs in the machine, which has this file alone: nothing but the standard library.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CURRENT: Final = Path("/run/current-system")
UNITS: Final = Path("etc/systemd/system")
TREES: Final = ("etc", "usr", "var")
NAMED: Final = re.compile(
    r"/(?:etc/flashpods-|(?:etc/(?:flashpods|prometheus|spire|wireguard)|usr/local/libexec)/)[\w./-]+"
)
FAILED: Final = 4  # the exit code of NixOS's
ALIVE: Final = frozenset({"active", "activating"})
SECONDS: Final = 300
# Of [Unit], what no unit is restarted for.
IGNORED: Final = (
    "Description=",
    "Documentation=",
    "OnFailure=",
    "OnSuccess=",
    "X-Reload-Triggers=",
)


@dataclass(slots=True)
class Plan:
    """The units to stop before the activation, and to reload, restart and start after it."""

    stop: set[str] = field(default_factory=set)
    reload: set[str] = field(default_factory=set)
    restart: set[str] = field(default_factory=set)
    start: set[str] = field(default_factory=set)


def plan(old: Path, new: Path, states: Mapping[str, str]) -> Plan:
    """Return what is to be done to the units.

    Args:
        old: the generation that runs.
        new: the one to come.
        states: unit → its active state.
    """
    made = Plan()
    alive = {name for name in unit_names(old) if states.get(name) in ALIVE}
    for name in sorted(alive):
        if not (new / UNITS / name).exists():
            made.stop.add(name)
        elif name.endswith(".target"):
            made.start.add(name)
        elif text_of(old, name) != text_of(new, name):
            _changed(made, name, (new / UNITS / name).read_text(), alive)
    made.start |= {
        wanting
        for _, wanting in wants(new)
        if wanting.endswith(".target") and states.get(wanting) in ALIVE
    }
    return made


def _changed(made: Plan, name: str, text: str, alive: set[str]) -> None:
    if name.endswith(".socket"):
        return  # NixOS leaves it as it is
    if "X-ReloadIfChanged=true" in text:
        made.reload.add(name)
    elif "X-RestartIfChanged=false" in text:
        return
    elif "X-StopIfChanged=false" in text or not name.endswith(".service"):
        made.restart.add(name)
    else:
        socket = f"{name.removesuffix('.service')}.socket"
        made.stop |= {name, socket} & alive
        # One with a socket comes by that, or by a target that wants it.
        made.start.add(socket if socket in alive else name)


def unit_names(generation: Path) -> list[str]:
    """Return the names of a generation's units; templates are none, and instances stay."""
    files = (path for path in (generation / UNITS).iterdir() if path.is_file())
    return sorted(path.name for path in files if not path.stem.endswith("@"))


def wants(generation: Path) -> Iterator[tuple[str, str]]:
    """Yield each unit with each that wants it, by its [Install] section."""
    for name in unit_names(generation):
        text = (generation / UNITS / name).read_text()
        for line in re.findall(r"^WantedBy=(.+)$", text, re.MULTILINE):
            for wanting in line.split():
                yield name, wanting


def text_of(generation: Path, name: str) -> str:
    """Return what a unit is, with the files that it names."""
    text = (generation / UNITS / name).read_text()
    lines = [line for line in text.split("[Install]")[0].splitlines() if line]
    parts = [line for line in lines if not line.startswith(IGNORED)]
    for found in sorted(set(NAMED.findall(text))):
        file = generation / found.lstrip("/")
        parts += [found, file.read_text()] if file.is_file() else []
    return "\n".join(parts)


# ------------------------------------------------------------------ on the machine


def activate(old: Path, new: Path) -> None:
    """Put the new generation's files in the place of the old one's; make accounts, directories."""
    for path in _files(old):
        if not (new / path).exists():
            Path("/", path).unlink(missing_ok=True)
    for path in _files(new):
        target = Path("/", path)
        if target.exists() and filecmp.cmp(new / path, target, shallow=False):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.new")
        shutil.copy(new / path, fresh)
        fresh.rename(target)
    for name, wanting in wants(old):
        Path("/", UNITS, f"{wanting}.wants", name).unlink(missing_ok=True)
    for name, wanting in wants(new):
        directory = Path("/", UNITS, f"{wanting}.wants")
        directory.mkdir(exist_ok=True)
        (directory / name).symlink_to(f"../{name}")
    link = CURRENT.with_name(".current-system")
    link.unlink(missing_ok=True)
    link.symlink_to(new)
    link.rename(CURRENT)
    _run("systemd-sysusers")


def _files(generation: Path) -> list[Path]:
    return [
        path.relative_to(generation)
        for tree in TREES
        for path in sorted((generation / tree).rglob("*"))
        if path.is_file()
    ]


def systemctl(verb: str, *units: str) -> bool:
    """Call systemctl, with units only if there are any; return whether it succeeded."""
    if not units:
        return True
    names = sorted(units)
    print(f"{verb} the following units: {', '.join(names)}", file=sys.stderr)
    return _run("systemctl", verb, "--", *names) == 0


def _run(*command: str) -> int:
    return subprocess.run(command, timeout=SECONDS, check=False).returncode


def states_of(*units: str) -> dict[str, str]:
    """Return unit → its active state; ``failed`` also for one that is to be tried again."""
    command = ["systemctl", "show", "-p", "Id,ActiveState,SubState,ExecMainStatus", "--", *units]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    found = {}
    for block in done.stdout.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values:
            again = values["SubState"] == "auto-restart" and values["ExecMainStatus"] != "0"
            found[values["Id"]] = "failed" if again else values["ActiveState"]
    return found


def switch(old: Path, new: Path) -> int:
    """Go from one generation to another; return the exit code."""
    targets = {wanting for generation in (old, new) for _, wanting in wants(generation)}
    todo = plan(old, new, states_of(*unit_names(old), *sorted(targets)))
    good = systemctl("stop", *todo.stop)
    activate(old, new)
    _run("systemctl", "reset-failed")
    good &= _run("systemctl", "daemon-reload") == 0
    good &= _run("systemd-tmpfiles", "--create", "--exclude-prefix=/dev") == 0
    good &= systemctl("reload", *todo.reload)
    good &= systemctl("restart", *todo.restart)
    good &= systemctl("start", *todo.start)
    failed = [name for name, state in states_of(*unit_names(new)).items() if state == "failed"]
    if failed:
        print(f"warning: the following units failed: {', '.join(failed)}", file=sys.stderr)
    return 0 if good and not failed else FAILED


if __name__ == "__main__":
    if sys.argv[1:] != ["test"]:
        sys.exit("switch-to-configuration test: there is no boot loader here")
    os.environ["SYSTEMD_COLORS"] = "0"
    sys.exit(switch(CURRENT.resolve(), Path(sys.argv[0]).parents[1].resolve()))
