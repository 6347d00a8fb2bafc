# The laptop as a home-manager module: the programs and ~/.config/flashpods/config.json of one user.
{ config, lib, ... }:
let
  cfg = config.programs.flashpods;
in
{
  imports = [ ./common.nix ];

  config = lib.mkIf cfg.enable {
    home.packages = cfg.packages;
    xdg.configFile."flashpods/config.json".source = cfg.configFile;
  };
}
