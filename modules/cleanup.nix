# flashpods-cleanup: retention and quotas, every minute and whenever it is restarted.
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
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.flashpods-cleanup = {
      description = "Flashpods' cleanup";
      wantedBy = [ "multi-user.target" ];
      wants = [ "podman-socket-flashpods.service" ];
      after = [ "podman-socket-flashpods.service" ];
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
          Type = "exec";
          ExecStart = "${cfg.package}/bin/flashpods-cleanup --config ${cfg.settingsFile}";
          User = "flashpods";
          Group = "flashpods";
          TimeoutStopSec = "30s";
          Nice = 5;
          ReadWritePaths = [
            (dirOf paths.database)
            paths.artifacts
            paths.capture
            paths.logs
            cfg.podman.storageConf.storage.graphroot # it empties dead containers' layers
          ];
          BindPaths = [ (dirOf paths.transfers) ]; # in a /tmp of our own
          PrivateNetwork = true; # Podman's socket is a path
          # As the API it ends what dead containers left, by cgroup and /proc.
          InaccessiblePaths = [
            "-/var/lib/spire"
            "-/run/spire/server"
          ];
        };
    };
  };
}
