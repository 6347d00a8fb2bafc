# The laptop as a NixOS module: the programs and one configuration for all users. Who wants one of
# their own unsets FLASHPODS_CONFIG, or uses home.nix.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.programs.flashpods;
  rendered = import ./settings.nix { inherit config lib pkgs; };
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf cfg.enable {
    inherit (rendered) assertions;
    environment.systemPackages = [
      cfg.package
      cfg.rsyncPackage
    ];
    environment.etc."flashpods/client.json".source = rendered.file;
    environment.sessionVariables.FLASHPODS_CONFIG = lib.mkDefault "/etc/flashpods/client.json";
  };
}
