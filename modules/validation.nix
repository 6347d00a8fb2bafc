# By option: each switch ends with the twelve questions of `flashpods-admin validate`.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
in
{
  options.services.flashpods.validation.afterSwitch = mkOption {
    type = types.bool;
    default = false;
    description = ''
      Whether `nixos-rebuild switch` ends with `flashpods-admin validate`, as the unit
      `flashpods-validate`; so does each boot. If a check fails, so does the switch's exit code, and the
      unit's journal says why; the new configuration stays. A laptop may be away meanwhile.
    '';
  };

  config = lib.mkIf (cfg.enable && cfg.validation.afterSwitch) {
    # It does not remain active, so that the target's start, with which each switch ends, runs it again.
    systemd.services.flashpods-validate = {
      description = "Flashpods' validation of this host";
      wantedBy = [ "multi-user.target" ];
      after = [
        "flashpods-api.service"
        "flashpods-images.service"
        "flashpods-rsyncd.service"
        "flashpods-token-service.service"
        "network-online.target"
      ];
      wants = [ "network-online.target" ];
      # Identity comes some seconds after SPIRE is up: it is asked again, and the switch waits.
      startLimitIntervalSec = 900;
      startLimitBurst = 3;
      path = [
        pkgs.iproute2
        pkgs.nftables
        pkgs.rsync
        pkgs.util-linux
        pkgs.wireguard-tools
      ];
      # No sandbox: it is the host that it asks about, as root of the host.
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${cfg.package}/bin/flashpods-admin validate --laptop-away --settings ${cfg.settingsFile}";
        Restart = "on-failure";
        RestartMode = "direct";
        RestartSec = "5s";
        TimeoutStartSec = "5min";
      };
    };
  };
}
