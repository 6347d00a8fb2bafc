# The laptop as a home-manager module: the programs and ~/.config/flashpods/config.json of one user.
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
    home.packages = [
      cfg.package
      cfg.rsyncPackage
    ];
    xdg.configFile."flashpods/config.json".source = rendered.file;
  };
}
