# The laptop as a NixOS module: the programs and one configuration for all users. Who wants one of
# their own unsets FLASHPODS_CONFIG, or uses home.nix.
{ config, lib, ... }:
let
  cfg = config.programs.flashpods;
in
{
  imports = [ ./common.nix ];

  config = lib.mkIf cfg.enable {
    environment = {
      systemPackages = cfg.packages;
      etc."flashpods/client.json".source = cfg.configFile;
      sessionVariables.FLASHPODS_CONFIG = lib.mkDefault "/etc/flashpods/client.json";
    };
  };
}
