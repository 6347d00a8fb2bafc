# What NixOS and home-manager have in common: what is installed, the text of config.json, and what must
# not be in it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.programs.flashpods;
  given = lib.filterAttrs (_: value: value != null) cfg.settings;
in
{
  imports = [ ./options.nix ];

  options.programs.flashpods = {
    packages = lib.mkOption {
      internal = true;
      readOnly = true;
      type = lib.types.listOf lib.types.package;
      description = "What is to be on the PATH.";
    };
    configFile = lib.mkOption {
      internal = true;
      readOnly = true;
      type = lib.types.path;
      description = "The settings as a file.";
    };
  };

  config = {
    programs.flashpods = {
      packages = [
        cfg.package
        cfg.rsyncPackage
      ];
      configFile = (pkgs.formats.json { }).generate "flashpods-config.json" given;
    };

    assertions = lib.mkIf cfg.enable [
      {
        assertion = !(cfg.settings ? token);
        message = ''
          programs.flashpods.settings.token would put the token into the Nix store, which everybody can
          read. Write it to a file and name that: programs.flashpods.settings.token_file = "/run/secrets/…";
        '';
      }
      {
        assertion = !(lib.hasPrefix builtins.storeDir (toString cfg.settings.token_file));
        message = ''
          programs.flashpods.settings.token_file is in the Nix store, which everybody can read. Give the
          path as a string in quotes, such as "/run/secrets/flashpods-token".
        '';
      }
    ];
  };
}
