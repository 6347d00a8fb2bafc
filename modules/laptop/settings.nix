# The text of config.json for `programs.flashpods.settings`, and what must not be in it.
{
  config,
  lib,
  pkgs,
}:
let
  cfg = config.programs.flashpods;
  given = lib.filterAttrs (_: value: value != null) cfg.settings;
in
{
  file = (pkgs.formats.json { }).generate "flashpods-config.json" given;

  assertions = [
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
}
