"""What is wrong in a configuration is said before it is built, with the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import hosts
import pytest

from flashpods_dev.machine import StackError
from flashpods_dev.nix.evaluate import Evaluator

LAPTOP = hosts.OTHER_KEY
# what is set → what the one false assertion says: the option, the value, the remedy
WRONG = {
    'services.flashpods.apiTokenFile = "${builtins.toFile "t" "x"}";': (
        "services.flashpods.apiTokenFile is /nix/store/",
        '"/run/secrets/t"',
    ),
    'services.flashpods.secretsFile = builtins.toFile "s" "{}";': (
        "services.flashpods.secretsFile is /nix/store/",
        "outside of it",
    ),
    'services.flashpods.wireguard.privateKeyFile = "/nix/store/key";': (
        "services.flashpods.wireguard.privateKeyFile is /nix/store/key",
        "outside of it",
    ),
    'services.flashpods.wireguard.laptops.mine.presharedKeyFile = "/nix/store/psk";': (
        "services.flashpods.wireguard.laptops.mine.presharedKeyFile is /nix/store/psk",
        "outside of it",
    ),
    f'services.flashpods.wireguard.laptops.other.publicKey = "{LAPTOP}";': (
        "10.0.0.2 belongs to more than one laptop",
        '[ "10.0.0.3" ]',
    ),
    """services.flashpods.wireguard.laptops.other = {
      inherit (config.services.flashpods.wireguard.laptops.mine) publicKey;
      addresses = [ "10.0.0.3" ];
    };""": ("mine, other have one publicKey", "a key of its own"),
    'services.flashpods.wireguard.laptops.mine.addresses = [ "192.168.5.4" ];': (
        "192.168.5.4 is in none of services.flashpods.wireguard.networks\n(10.0.0.0/24)",
        "an address within",
    ),
    'services.flashpods.backup.restic.passwordFile = "/nix/store/password";': (
        "services.flashpods.backup.restic.passwordFile is /nix/store/password",
        "outside of it",
    ),
    'services.flashpods.backup.restic.environmentFile = "${builtins.toFile "env" "x"}";': (
        "services.flashpods.backup.restic.environmentFile is /nix/store/",
        '"/run/secrets/env"',
    ),
    """services.flashpods.backup = {
      enable = false;
      restic = { enable = true; repository = "/srv/r"; passwordFile = "/etc/r"; };
    };""": ("services.flashpods.backup.enable is false", "Enable both"),
    "services.flashpods.monitoring.grafana.enable = true;": (
        "services.flashpods.monitoring.enable is false",
        "Enable both",
    ),
    'services.flashpods.wireguard.laptops.mine.addresses = [ "10.0.0.1" ];': (
        "10.0.0.1 is this host's own address",
        "another one",
    ),
    'services.flashpods.wireguard.laptops.mine.addresses = [ "fd77::2" ];': (
        "services.flashpods.wireguard.networks is 10.0.0.0/24",
        "add it",
    ),
    "services.flashpods.firewall.resolvers = [ ];": (
        "services.flashpods.firewall.resolvers is empty",
        "networking.nameservers",
    ),
    'services.flashpods.settings.paths.work = "/srv/work";': (
        "/tmp/flashpods/uploads, /tmp/flashpods/finalized, /srv/work",
        "one directory",
    ),
    "services.flashpods.rsync.port = 8080;": ("8080, 8080", "Change one"),
    'services.flashpods.podman.storageConf.storage.driver = "vfs";': (
        'driver is "vfs"',
        "leave the option out",
    ),
    "services.spire.server.enable = true;": (
        "services.spire.server.enable is true",
        "services.flashpods.settings.identity.enabled = false",
    ),
    """systemd.package = pkgs.systemd // builtins.fromJSON ''{"version": "256.7"}'';""": (
        "systemd.package is systemd 256.7",
        "NixOS 25.05",
    ),
    "networking.nftables = { enable = true; flushRuleset = true; };": (
        "networking.nftables.flushRuleset is true",
        "networking.nftables.tables",
    ),
}
# what is set → what the error of its type names
UNTYPED = {
    'services.flashpods.wireguard.laptops.mine.publicKey = "short";': "publicKey",
    'services.flashpods.settings.podman.network = "host";': "settings.podman.network",
    "services.flashpods.settings.http.port = 70000;": "settings.http.port",
    'services.flashpods.settings.jobs.worker.cpus = "two";': "settings.jobs.worker.cpus",
    "services.flashpods.settings.disk.warn_percent = 0;": "settings.disk.warn_percent",
    'services.flashpods.firewall.ssh = "everybody";': "firewall.ssh",
    "services.flashpods.firewall.maxFlows = 15;": "firewall.maxFlows",
    "services.flashpods.firewall.newFlowsPerSecond = 0;": "firewall.newFlowsPerSecond",
    "services.flashpods.uid = 1000;": "services.flashpods.uid",
    "services.flashpods.laptop = { };": "services.flashpods.laptop",
}


@pytest.mark.parametrize("line", WRONG)
def test_one_assertion_fires(evaluator: Evaluator, tmp_path: Path, line: str) -> None:
    text = (
        f"{{ lib, pkgs, ... }}: {{ {line.replace('= ', '= lib.mkForce (').replace(';', ');', 1)} }}"
    )
    if "{ enable" in line or "laptops" in line or "\n" in line:
        text = f"{{ config, ... }}: {{ {line} }}"
    said = hosts.evaluate(evaluator, tmp_path, text).assertions
    assert len(said) == 1, said
    for part in WRONG[line]:
        assert part in said[0]


def test_a_host_for_nobody_is_refused(evaluator: Evaluator, tmp_path: Path) -> None:
    text = "{ services.flashpods.enable = true; }"
    said = hosts.evaluate(evaluator, tmp_path, text, smallest=False).assertions
    assert len(said) == 1, said
    assert "services.flashpods.wireguard.laptops is empty" in said[0]
    assert "publicKey" in said[0]


@pytest.mark.parametrize("line", UNTYPED)
def test_a_wrong_type_does_not_evaluate(evaluator: Evaluator, tmp_path: Path, line: str) -> None:
    text = f"{{ {line} }}"
    with pytest.raises(StackError) as caught:
        hosts.evaluate(evaluator, tmp_path, text, hosts.TOPLEVEL)
    assert UNTYPED[line] in str(caught.value)
