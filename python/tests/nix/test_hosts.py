"""Every configuration that a document shows, and its variants, is a whole NixOS system."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import hosts
import pytest
from hosts import CHECKOUT, TOPLEVEL, VARIANTS

from flashpods.admin.units import CARRIER
from flashpods.boundary import Boundary, render
from flashpods.check_config import check
from flashpods.config import Settings
from flashpods_dev.nix.evaluate import Evaluator

LINES = 15
OURS = re.compile(r"flashpods|spire")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_a_system_without_warning(
    evaluator: Evaluator, tmp_path: Path, name: str
) -> None:
    report = hosts.evaluate(evaluator, tmp_path, VARIANTS[name], TOPLEVEL)
    assert report.assertions == []
    assert report.warnings == []
    assert report.options[TOPLEVEL].endswith(".drv")

    services = {n: text for n, text in report.units.items() if n.endswith(".service")}
    # What a part that is off adds to leaves a service without a command.
    assert [
        n for n, text in services.items() if OURS.search(n) and "\nExecStart=" not in text
    ] == []
    assert (CARRIER in services) is (name == "backups elsewhere")
    unlocks = [text for text in report.files.values() if " unlock || true" in text]
    assert ["restic -o sftp.args='-p 2222' unlock" in text for text in unlocks] == [True] * (
        CARRIER in services
    )

    settings = tmp_path / "settings.json"
    settings.write_text(report.etc["flashpods/settings.json"])
    assert check(settings, as_json=False) == 0

    ruleset = report.etc["flashpods/ruleset.nft"]
    parameters = next(t for p, t in report.files.items() if p.endswith("flashpods-boundary.json"))
    template = (CHECKOUT / "modules" / "network" / "ruleset.nft").read_text()
    assert ruleset == render(template, Boundary(**json.loads(parameters)))
    nft = ["unshare", "--net", "nft", "--check", "--file", "/dev/stdin"]
    done = subprocess.run(nft, input=ruleset, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_smallest_is_small() -> None:
    text = (CHECKOUT / "examples" / "minimal.nix").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) < LINES


def test_what_an_operator_calls_is_on_the_host(evaluator: Evaluator, tmp_path: Path) -> None:
    """``doctor``, ``validate`` and the guide call them; the default firewall brings no nft."""
    option = "environment.systemPackages"
    found = hosts.evaluate(evaluator, tmp_path, "{ }", option).options[option]
    names = {path.rsplit("/", 1)[-1] for path in found}  # of a stub's package: its name alone
    tools = ("iproute2", "jq", "nftables", "openssl", "psmisc", "rsync", "wireguard-tools")
    assert {f"{tool}-stub" for tool in tools} <= names


def test_typed_settings_have_the_programs_own_defaults(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    """Where the module says otherwise it is listed here."""
    report = hosts.evaluate(evaluator, tmp_path, "{ }")
    rendered = json.loads(report.etc["flashpods/settings.json"])
    own = json.loads(Settings().model_dump_json())
    different = {
        f"{section}.{key}"
        for section, values in rendered.items()
        for key, value in values.items()
        if not _same(value, own[section][key])
    }
    assert different == {
        "identity.enabled",
        "identity.helper",
        "jobs.agent",  # its image comes with the host: a short name would be looked for elsewhere
        "podman.cgroup_parent",
        "spire.agent_binary",
        "spire.server_binary",
        "tokens.secrets_file",
    }


def _same(given: object, own: object) -> bool:
    """Whether what is given is what the program has anyhow; a section may be given in part."""
    if isinstance(given, dict) and isinstance(own, dict):
        return all(key in own and _same(value, own[key]) for key, value in given.items())
    return given == own


def test_the_laptops_two_ways_say_the_same(evaluator: Evaluator) -> None:
    files = [CHECKOUT / "modules/laptop", CHECKOUT / "examples/laptop/nixos.nix"]
    report = evaluator.module(*files, options=[TOPLEVEL])
    assert (report.assertions, report.warnings) == ([], [])
    (by_nixos,) = (t for p, t in report.files.items() if p.endswith("/wg0.conf"))
    plain = (CHECKOUT / "examples" / "laptop" / "wg0.conf").read_text()
    assert _wireguard(by_nixos) == _wireguard(plain)


def _wireguard(text: str) -> set[tuple[str, str]]:
    pairs = re.findall(r"^(\w+) *= *(.*)$", text, re.MULTILINE)
    return {(key, value) for key, value in pairs if key != "PostUp"}
