# flashpods-api: HTTP on WireGuard's address, and every job's line.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.flashpods;
  hardening = import ./hardening.nix;
  identity = lib.optionals cfg.settings.identity.enabled [
    "spire-agent.service"
    "flashpods-token-service.socket"
  ];
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.flashpods-api = hardening.daemon (hardening.forJobs cfg) {
      description = "Flashpods API";
      wants = [
        "podman-socket-flashpods.service"
        "wireguard-${cfg.wireguard.interface}.service"
      ]
      ++ identity;
      after = [
        "network.target"
        "podman-socket-flashpods.service"
        "flashpods-firewall.service"
        "wireguard-${cfg.wireguard.interface}.service"
      ]
      ++ identity;
      requires = [ "flashpods-firewall.service" ]; # never without the boundary
      # A switch stops what has changed, activates, and starts it: laptops would be without for that long.
      stopIfChanged = false;
      # newuidmap and newgidmap; unshare.
      path = [
        "/run/wrappers"
        pkgs.util-linux
      ];
      serviceConfig = {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/flashpods-api --config ${cfg.settingsFile}";
        LoadCredential = "api-token:${cfg.apiTokenFile}";
        WatchdogSec = "60s";
        OOMScoreAdjust = -500;
        LimitNOFILE = 65536;
        IPAddressDeny = "any";
        IPAddressAllow = cfg.wireguard.networks ++ [ "localhost" ];
      };
    };
  };
}
