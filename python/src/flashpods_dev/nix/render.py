"""What the lab's machines boot: units, rules and settings as the modules render them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flashpods_dev.machine import StackError
from flashpods_dev.nix import manifest, mapping
from flashpods_dev.nix.evaluate import Evaluator, Report

OURS: Final = re.compile(
    r"(flashpods|podman-socket-flashpods|spire|wireguard|wg-quick|restic-backups)[-.@]|spire"
    r"|prometheus\.service"
)
ETC: Final = re.compile(r"(flashpods[/-]|spire/)|containers/registries\.conf")
SHELL: Final = "/bin/bash"
HOST_UNITS: Final = (
    *("wireguard-wg0", "wireguard-wg0-key", "wireguard-wg0-peer-mine"),
    "restic-backups-flashpods",
)
# Units whose shell lines NixOS makes into scripts. "next" is HOST's next generation.
MACHINES: Final = {
    "host": HOST_UNITS,
    "next": HOST_UNITS,
    "laptop": ("wg-quick-wg0",),
}
USER: Final = "users.users.flashpods"
SESSION: Final = "environment.sessionVariables"
# Of each machine, beside its units' shell lines.
ASKED: Final = {"host": (USER,), "next": (USER,), "laptop": (SESSION,)}
# A unit's shell lines: the option, and what NixOS calls the script.
PARTS: Final = {
    "script": "start",
    "preStart": "pre-start",
    "preStop": "pre-stop",
    "postStop": "post-stop",
}


def render(checkout: Path, evaluator: Evaluator) -> list[str]:
    """Write ``lab/rendered`` and the option reference anew; return the paths below the first.

    Raises:
        StackError: a configuration does not evaluate, has a false assertion or a warning.
    """
    top = checkout / manifest.RENDERED
    shutil.rmtree(top, ignore_errors=True)
    written = []
    for name, units in MACHINES.items():
        source = checkout / "lab" / f"{name}.nix"
        options = [f"systemd.services.{unit}.{part}" for unit in units for part in PARTS]
        options += ASKED[name]
        report = evaluator.module(source, options=options)
        if faults := [*report.assertions, *report.warnings]:
            raise StackError(f"{source}: " + "; ".join(faults))
        for path, text in machine_files(report).items():
            file = top / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if path.startswith(mapping.SCRIPTS.lstrip("/")):
                file.chmod(0o755)
            written.append(f"{name}/{path}")
    reference = f"import {checkout}/lib/options.nix {{ inherit pkgs; inherit (pkgs) lib; }}"
    (checkout / manifest.OPTIONS).write_text(evaluator.value(reference))
    manifest.write(checkout)
    return written


def machine_files(report: Report) -> dict[str, str]:
    """Return a machine's files, path below its root → text.

    Raises:
        UnmappedPath: a text names a store path that a machine of the lab has nowhere.
    """
    etc = {name: text for name, text in report.etc.items() if ETC.match(name)}
    scripts = unit_scripts(report)
    places = mapping.Places({**report.files, **scripts}, etc)
    files = {
        f"etc/systemd/system/{name}": places.unit(text)
        for name, text in report.units.items()
        if OURS.match(name)
    }
    files |= {f"etc/{name}": _pretty(name, places.text(text)) for name, text in etc.items()}
    texts, done = {**report.files, **scripts}, set[str]()
    while pending := {p: at for p, at in places.scripts().items() if p not in done}:  # they nest
        for path, place in pending.items():
            files[place.lstrip("/")] = places.text(_for_bash(texts[path]))
            done.add(path)
    return files | _system(report)


def unit_scripts(report: Report) -> dict[str, str]:
    """Return the texts of what NixOS makes of a unit's ``script`` and the like, by store path."""
    found = {}
    for option, text in report.options.items():
        name, _, part = option.removeprefix("systemd.services.").rpartition(".")
        if part in PARTS and text:
            program = f"{name}-{PARTS[part]}"
            found[f"/nix/store/unit-script-{program}/bin/{program}"] = f"#!{SHELL} -e\n{text}\n"
    return found


def _for_bash(text: str) -> str:
    return re.sub(r"\A#! ?/nix/store/\S+/bin/(ba)?sh\b", f"#!{SHELL}", text)


def _pretty(name: str, text: str) -> str:
    return json.dumps(json.loads(text), indent=2) + "\n" if name.endswith(".json") else text


def _system(report: Report) -> dict[str, str]:
    """Return users, directories and kernel settings, where there are any of ours."""
    files = {}
    if ours := report.tmpfiles.get("10-flashpods"):
        files["etc/tmpfiles.d/10-flashpods.conf"] = mapping.tmpfiles(ours)
    if report.sysctl:
        files["etc/sysctl.d/60-flashpods.conf"] = mapping.sysctl(report.sysctl)
    if report.users:
        files["etc/sysusers.d/flashpods.conf"] = mapping.sysusers(report.users, report.groups)
    if user := report.options.get(USER):
        files |= _subordinates(user)
    if ours := _variables(report.options.get(SESSION, {})):
        files["etc/profile.d/flashpods.sh"] = ours
    return files


def _variables(session: Mapping[str, str]) -> str:
    """Return what NixOS's /etc/profile sets of ours."""
    ours = {name: value for name, value in session.items() if name.startswith("FLASHPODS_")}
    return "".join(f"export {name}={shlex.quote(ours[name])}\n" for name in sorted(ours))


def _subordinates(user: Mapping[str, Any]) -> dict[str, str]:
    """Return what NixOS's activation does for the user: subordinate ids, a lingering manager."""
    files = {}
    for name, key, first in (
        ("subuid", "subUidRanges", "startUid"),
        ("subgid", "subGidRanges", "startGid"),
    ):
        lines = (f"{user['name']}:{r[first]}:{r['count']}" for r in user[key])
        files[f"etc/{name}"] = "".join(f"{line}\n" for line in lines)
    if user["linger"]:
        files[f"var/lib/systemd/linger/{user['name']}"] = ""
    return files
