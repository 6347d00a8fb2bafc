# What an operator sets first: packages, the user, secrets. The options of one service are in its file.
{
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (import ./declare.nix { inherit lib; }) outside;

  packages = import ../pkgs { inherit pkgs; };

  secretFile =
    default: description:
    outside default description // { example = "/run/secrets/${baseNameOf default}"; };
in
{
  options.services.flashpods = {
    enable = lib.mkEnableOption "Flashpods: this host as a coding agent's build, test and sub-agent machine";

    package = mkOption {
      type = types.package;
      default = packages.flashpods;
      defaultText = lib.literalMD "`flashpods` of this repository, built with the host's nixpkgs";
      description = "The host's programs: API, cleanup, token service, rsync hook, SPIRE's units.";
    };

    tokenHelper = mkOption {
      type = types.package;
      default = packages.flashpods-token;
      defaultText = lib.literalMD "`flashpods-token` of this repository";
      description = "The static program that is mounted into every job and fetches its tokens.";
    };

    uid = mkOption {
      type = types.ints.between 100 999;
      default = 900;
      description = ''
        Number of the user `flashpods`, as which the API and all jobs run. It is fixed because units
        and paths bear it (`user@900.service`, `/run/user/900`). It must be free when Flashpods is
        first enabled; do not change it afterwards.
      '';
    };

    subordinateIds = {
      start = mkOption {
        type = types.ints.between 65536 2130706431;
        default = 2000000000;
        description = ''
          First of the subordinate user and group ids of `flashpods`, see {manpage}`subuid(5)`.
          Nobody else may have ids of this range: the firewall knows jobs by them.
        '';
      };
      count = mkOption {
        type = types.ints.between 65536 16777216;
        default = 65536;
        description = "How many there are. The last one is the user of rsync's transfers.";
      };
    };

    apiTokenFile = secretFile "/etc/flashpods/api-token" ''
      File with the API's bearer token, readable by root alone; two, one a line, during a rotation.
      Make one with `openssl rand -hex 32`. It must not be in the Nix store.
    '';

    secretsFile = secretFile "/etc/flashpods/secrets.json" ''
      File with the secrets that jobs get for their identity, readable by root alone: one JSON
      object, `{"anthropic_api_key": "…", "github_token": "…"}`. It must not be in the Nix store.
      After a change: `systemctl restart flashpods-token-service`; jobs wait meanwhile.
    '';
  };
}
