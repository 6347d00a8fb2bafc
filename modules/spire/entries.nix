# The registration entries: what is declared, and nothing else, at each start of the server.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  hardening = import ../hardening.nix;
in
{
  options.services.flashpods.spire.entries = mkOption {
    type = types.attrsOf (
      types.submodule {
        freeformType = (pkgs.formats.json { }).type;
        options.selectors = mkOption {
          type = types.nonEmptyListOf types.str;
          description = "Who bears all of these is `spiffe://<trust domain>/<name>`.";
        };
      }
    );
    default = { };
    example.builder.selectors = [ "docker:label:flashpods-job-type:builder" ];
    description = ''
      SPIRE's registration entries beside those of the job types `worker` and `agent`. Entries of the
      server that are not declared are removed.
    '';
  };

  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      services.flashpods = {
        spire.entries = lib.genAttrs [ "worker" "agent" ] (kind: {
          selectors = [ "docker:label:flashpods-job-type:${kind}" ];
        });
        settings.spire.entries = cfg.spire.entries;
      };
    })

    (lib.mkIf (cfg.enable && cfg.settings.identity.enabled) {
      systemd.services.flashpods-spire-register = {
        description = "SPIRE's registration entries";
        wantedBy = [ "multi-user.target" ];
        # Again with each start of the server, whose data may be gone.
        partOf = [ "spire-server.service" ];
        wants = [ "spire-server.service" ];
        after = [ "spire-server.service" ];
        startLimitIntervalSec = 0;
        serviceConfig = hardening.strict // hardening.as "spire-server" // {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${cfg.package}/bin/flashpods-spire-register --config ${cfg.settingsFile}";
          TimeoutStartSec = "120s";
          Restart = "on-failure";
          RestartSec = "5s";
          # The server's command line speaks to its socket only.
          PrivateNetwork = true;
          PrivateUsers = true;
        };
      };
    })
  ];
}
