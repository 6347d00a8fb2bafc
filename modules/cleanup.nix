# flashpods-cleanup: retention and quotas, every minute and whenever it is restarted.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.flashpods;
  hardening = import ./hardening.nix;
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.flashpods-cleanup = hardening.daemon (hardening.forJobs cfg) {
      description = "Flashpods' cleanup";
      wants = [ "podman-socket-flashpods.service" ];
      after = [ "podman-socket-flashpods.service" ];
      # newuidmap and newgidmap; unshare.
      path = [
        "/run/wrappers"
        pkgs.util-linux
      ];
      serviceConfig = {
        Type = "exec";
        ExecStart = "${cfg.package}/bin/flashpods-cleanup --config ${cfg.settingsFile}";
        Nice = 5;
        PrivateNetwork = true; # Podman's socket is a path
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };
    };
  };
}
