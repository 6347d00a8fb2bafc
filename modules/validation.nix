# The validation suite by itself: when the host has started, and after each switch; by option.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  inherit (cfg) validation;
in
{
  options.services.flashpods.validation = {
    enable = lib.mkEnableOption ''
      the checks of `flashpods-admin validate` at the end of each boot and of each
      `nixos-rebuild switch`, which fails with {file}`flashpods-validate.service` if one of them does'';

    arguments = mkOption {
      type = types.listOf types.str;
      default = [ "--laptop-away" ];
      example = [
        "--laptop-away"
        "--internet=mirror.example.org:443"
      ];
      description = ''
        What is added to the command line. Without `--laptop-away` a laptop must have been heard of
        within three minutes.
      '';
    };
  };

  config = lib.mkIf (cfg.enable && validation.enable) {
    systemd.services.flashpods-validate = {
      description = "Flashpods' checks of this host";
      # Without RemainAfterExit each switch starts it anew, as whatever the target wants.
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "flashpods-api.service"
        "flashpods-rsyncd.socket"
        "flashpods-images.service"
        "flashpods-token-service.service"
        "spire-agent.service"
      ];
      path = [
        cfg.rsync.package
        pkgs.iproute2
        pkgs.nftables
        pkgs.util-linux
        pkgs.wireguard-tools
      ];
      # It walks the rules, asks WireGuard and joins containers' namespaces: root's, unsandboxed.
      serviceConfig = {
        Type = "oneshot";
        ExecStart = lib.escapeShellArgs (
          [
            "${cfg.package}/bin/flashpods-admin"
            "validate"
            "--settings"
            "${cfg.settingsFile}"
          ]
          ++ validation.arguments
        );
        TimeoutStartSec = "15min";
      };
    };
  };
}
