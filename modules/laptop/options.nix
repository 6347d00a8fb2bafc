# `programs.flashpods`, the same on NixOS and in home-manager: the programs, and where the host is. The
# token is not among them: it would be in the store.
{
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  json = pkgs.formats.json { };
in
{
  options.programs.flashpods = {
    enable = lib.mkEnableOption "Flashpods on a laptop: `flashpods`, and `flashpods-mcp` for coding agents";

    package = mkOption {
      type = types.package;
      default = pkgs.flashpods or (import ../../pkgs { inherit pkgs; }).flashpods;
      defaultText = lib.literalMD "`pkgs.flashpods`, or that of this repository";
      description = "The package with `flashpods` and `flashpods-mcp`.";
    };

    rsyncPackage = mkOption {
      type = types.package;
      default = pkgs.rsync;
      defaultText = lib.literalExpression "pkgs.rsync";
      description = "The rsync that pushes trees; macOS's own is too old.";
    };

    settings = mkOption {
      default = { };
      description = ''
        What {file}`config.json` says. Anything else in it is refused by the program, a token too:
        name the file that holds it in {option}`token_file`.
      '';
      example = {
        api_host = "10.0.0.1";
        token_file = "/run/secrets/flashpods-token";
      };
      type = types.submodule {
        freeformType = json.type;
        options = {
          api_host = mkOption {
            type = types.str;
            default = "10.0.0.1";
            description = "The host's address in the tunnel.";
          };
          api_port = mkOption {
            type = types.port;
            default = 8080;
            description = "The port of its API.";
          };
          token_file = mkOption {
            type = types.nullOr types.str;
            default = null;
            description = ''
              Path of the file that holds the API token, readable by the user alone. It is a string, so
              that it is not copied into the store. Without it the program takes
              {env}`FLASHPODS_API_TOKEN`, or reads {file}`~/.config/flashpods/token`.
            '';
            example = "/run/secrets/flashpods-token";
          };
        };
      };
    };
  };
}
