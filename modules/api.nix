# flashpods-api: HTTP on WireGuard's address, and every job's line.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.flashpods;
  inherit (cfg.settings) paths;
  hardening = import ./hardening.nix;
  identity = lib.optionals cfg.settings.identity.enabled [
    "spire-agent.service"
    "flashpods-token-service.socket"
  ];
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.flashpods-api = {
      description = "Flashpods API";
      wantedBy = [ "multi-user.target" ];
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
      startLimitIntervalSec = 0;
      # newuidmap and newgidmap; unshare.
      path = [
        "/run/wrappers"
        pkgs.util-linux
      ];
      serviceConfig =
        hardening.userNamespaces
        // hardening.restart
        // {
          Type = "notify";
          ExecStart = "${cfg.package}/bin/flashpods-api --config ${cfg.settingsFile}";
          User = "flashpods";
          Group = "flashpods";
          LoadCredential = "api-token:${cfg.apiTokenFile}";
          WatchdogSec = "60s";
          TimeoutStopSec = "30s";
          OOMScoreAdjust = -500;
          LimitNOFILE = 65536;
          ReadWritePaths = [
            (dirOf paths.database)
            paths.artifacts
            paths.capture
            paths.logs
            cfg.podman.storageConf.storage.graphroot # it empties dead containers' layers
          ];
          IPAddressDeny = "any";
          IPAddressAllow = cfg.wireguard.networks ++ [ "localhost" ];
          BindPaths = [ (dirOf paths.transfers) ]; # in a /tmp of our own
          # It ends what a dead container left in its cgroup: no ProtectControlGroups. It sees that
          # jobs live, and what they hold open, in /proc: no ProtectProc.
          InaccessiblePaths = [
            "-/var/lib/spire"
            "-/run/spire/server"
          ];
        };
    };
  };
}
