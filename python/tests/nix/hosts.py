"""Configurations of hosts: the smallest one, and what variants add to it."""

from __future__ import annotations

from pathlib import Path

from flashpods_dev.nix.evaluate import Evaluator, Report

CHECKOUT = Path(__file__).parents[3]
TOPLEVEL = "system.build.toplevel.drvPath"  # all that a host is made of is evaluated with it
OTHER_KEY = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
EXAMPLES = CHECKOUT / "examples"

# Other projects' modules, as far as our examples use them: they are not to be had here.
FOREIGN = """
{ lib, ... }:
let
  any = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
  secrets = directory: lib.mkOption {
    default = { };
    type = lib.types.attrsOf (lib.types.submodule ({ name, ... }: {
      freeformType = lib.types.attrsOf lib.types.anything;
      options.path = lib.mkOption { type = lib.types.str; default = "${directory}/${name}"; };
    }));
  };
in
{
  options.disko.devices = any;
  options.sops.defaultSopsFile = lib.mkOption { type = lib.types.path; };
  options.sops.secrets = secrets "/run/secrets";
  options.services.spire.server.enable = lib.mkEnableOption "nixpkgs' own, of later releases";
  options.age.secrets = secrets "/run/agenix";
}
"""

# name → what the host's configuration has beside the smallest
VARIANTS = {
    "the smallest": "{ }",
    "the example": f"{{ imports = [ {EXAMPLES}/host.nix {EXAMPLES}/hardware.nix ]; }}",
    "nixos-anywhere": f"""{{ lib, ... }}: {{
      imports = [ {EXAMPLES}/host.nix {EXAMPLES}/nixos-anywhere/disk.nix ];
      boot.loader.grub.enable = lib.mkForce false; # disko would tell it the disk
    }}""",
    "sops-nix": f"{{ imports = [ {EXAMPLES}/secrets/sops-nix.nix ]; }}",
    "agenix": f"{{ imports = [ {EXAMPLES}/secrets/agenix.nix ]; }}",
    "no IPv6": "{ networking.enableIPv6 = false; }",
    "IPv6 in WireGuard": """{
      services.flashpods.wireguard = {
        addresses = [ "10.0.0.1/24" "fd77::1/64" ];
        networks = [ "10.0.0.0/24" "fd77::/64" ];
        laptops.mine.addresses = [ "10.0.0.2" "fd77::2" ];
      };
    }""",
    "two laptops": """{
      services.flashpods.wireguard.laptops.other = {
        publicKey = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
        addresses = [ "10.0.0.3" ];
        presharedKeyFile = "/etc/wireguard/other.psk";
      };
    }""",
    "pasta": '{ services.flashpods.settings.podman.network = "pasta"; }',
    "a trust domain": '{ services.flashpods.settings.spire.trust_domain = "pods.example.org"; }',
    "no identity": "{ services.flashpods.settings.identity.enabled = false; }",
    "a WireGuard of its own": "{ services.flashpods.wireguard.enable = false; }",
    "ssh for laptops": """{
      services.openssh = { enable = true; ports = [ 2222 ]; };
      services.flashpods.firewall = { ssh = "laptops"; metrics = "laptops"; };
    }""",
    "nftables": "{ networking.nftables.enable = true; }",
    "networkd": "{ networking.useNetworkd = true; }",
    "name servers": '{ networking.nameservers = [ "9.9.9.9" "2620:fe::fe" ]; }',
    "private networks": """{
      services.flashpods.firewall = {
        allowPrivateNetworks = true;
        allowedDestinations = [ "192.168.7.0/24" ];
      };
    }""",
    "few flows": "{ services.flashpods.firewall = { maxFlows = 100; newFlowsPerSecond = 7; }; }",
    "other ports": """{
      services.flashpods = {
        settings.http.port = 8090;
        rsync.port = 8873;
        wireguard.port = 443;
      };
    }""",
    "monitoring": """{
      services.flashpods.monitoring = { enable = true; grafana.enable = true; interval = "30s"; };
      services.prometheus.globalConfig.evaluation_interval = "1m";
    }""",
    "validated": """{
      services.flashpods.validation = {
        enable = true;
        arguments = [ "--internet=example.org:443" ];
      };
    }""",
    "backups elsewhere": """{
      services.flashpods.backup = {
        startAt = "*-*-* 03:30:00";
        restic = {
          enable = true;
          repository = "sftp:backup@example.org:/srv/flashpods";
          passwordFile = "/run/secrets/restic";
          environmentFile = "/run/secrets/restic-env";
        };
      };
      services.restic.backups.flashpods.extraOptions = [ "sftp.args='-p 2222'" ];
    }""",
    "an image of one's own": "{ services.flashpods.images.agent = null; }",
}


def write(directory: Path, name: str, text: str) -> Path:
    file = directory / f"{name.replace(' ', '-').replace(chr(39), '')}.nix"
    file.write_text(text)
    return file


def evaluate(
    evaluator: Evaluator, directory: Path, text: str, *options: str, smallest: bool = True
) -> Report:
    """Evaluate the smallest host with what ``text`` adds to it."""
    files = [CHECKOUT / "modules" / "default.nix", write(directory, "foreign", FOREIGN)]
    if smallest:
        files.append(CHECKOUT / "examples" / "minimal.nix")
    return evaluator.module(*files, write(directory, "variant", text), options=options)
