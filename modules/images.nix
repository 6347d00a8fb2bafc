# Images that are there before the first job asks for them, by a unit: a pull must not hold up a boot.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  hardening = import ./hardening.nix;
  packages = import ../pkgs { inherit pkgs; };
  loaded = "/var/lib/flashpods-images/agent";

  wanted = lib.unique (cfg.images.prePull ++ lib.optional (!local worker) worker);
  worker = cfg.settings.jobs.worker.image;
  local = lib.hasPrefix "localhost/"; # never pulled

  fetch = pkgs.writeShellScript "flashpods-images" ''
    set -u
    podman="podman --url unix://${cfg.settings.podman.socket}"
    failed=0
    ${lib.optionalString (cfg.images.agent != null) ''
      # Loaded once for each build, not at each boot.
      if [ "$(cat ${loaded} 2>/dev/null)" != ${cfg.images.agent} ]; then
        $podman load --quiet --input ${cfg.images.agent} && echo ${cfg.images.agent} >${loaded} || failed=1
      fi
    ''}
    for image in ${lib.escapeShellArgs wanted}; do
      $podman image exists "$image" || $podman pull --quiet "$image" || failed=1
    done
    exit $failed
  '';
in
{
  options.services.flashpods.images = {
    prePull = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "docker.io/library/rust:latest"
        "docker.io/library/node:20"
      ];
      description = ''
        Images to have before a job asks for them, beside the workers' own
        ({option}`services.flashpods.settings.jobs.worker.image`). One that can't be had is tried again.
      '';
    };
    agentPackages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.claude-code pkgs.nodejs ]";
      description = ''
        What the agents' image has beside git and the entrypoint: above all the command that
        {option}`services.flashpods.settings.jobs.agent.command` names. Without that command it is
        `claude`, of `pkgs.claude-code`, which is unfree (`nixpkgs.config.allowUnfree`). See docs/agents.md.
      '';
    };
    agent = mkOption {
      type = types.nullOr types.package;
      default = packages.agent-image.override { inherit (cfg.images) agentPackages; };
      defaultText = lib.literalMD "`agent-image` of this repository with `agentPackages`";
      description = "Archive of the agents' image, `localhost/flashpods/agent:latest`; null: {option}`services.flashpods.settings.jobs.agent.image` is one of your own.";
    };
  };

  config = lib.mkIf cfg.enable {
    systemd.services.flashpods-images = {
      description = "Images for Flashpods' jobs";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      requires = [ "podman-socket-flashpods.socket" ];
      after = [
        "network-online.target"
        "podman-socket-flashpods.service"
      ];
      startLimitIntervalSec = 0;
      path = [ cfg.podman.package ];
      environment = {
        HOME = "/var/lib/flashpods-images";
        XDG_RUNTIME_DIR = "/run/flashpods-images";
      };
      serviceConfig = hardening.strict // {
        Type = "exec"; # neither a boot nor a switch waits for it
        RemainAfterExit = true;
        ExecStart = fetch;
        DynamicUser = true;
        SupplementaryGroups = [ "flashpods" ];
        StateDirectory = "flashpods-images";
        RuntimeDirectory = "flashpods-images";
        Restart = "on-failure";
        RestartSec = "1min";
        # Podman's remote client, in Go, looks at its own files and at cgroups.
        ProcSubset = "all";
        PrivateNetwork = true; # the engine pulls
      };
    };
  };
}
