# flashpods-token-service: secrets for a SPIFFE identity, on a socket that outlives its restarts.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.flashpods;
  hardening = import ./hardening.nix;
in
{
  config = lib.mkIf (cfg.enable && cfg.settings.identity.enabled) {
    # A user of its own: jobs run as flashpods.
    users.users.flashpods-token = {
      isSystemUser = true;
      group = "flashpods-token";
      description = "Flashpods' token service";
    };
    users.groups.flashpods-token = { };

    systemd = {
      sockets.flashpods-token-service = {
        description = "Socket of Flashpods' token service";
        wantedBy = [ "sockets.target" ];
        listenStreams = [ "/run/flashpods/token.sock" ];
        socketConfig = {
          Accept = false;
          SocketUser = "root";
          SocketGroup = "flashpods";
          SocketMode = "0660";
          Backlog = 1024;
        };
      };

      services.flashpods-token-service = hardening.daemon hardening.strict {
        description = "Flashpods' token service";
        requires = [ "flashpods-token-service.socket" ];
        wants = [
          "spire-agent.service"
          "podman-socket-flashpods.socket"
        ];
        after = [
          "flashpods-token-service.socket"
          "spire-agent.service"
          "podman-socket-flashpods.socket"
        ];
        # A switch would make the socket anew with it, and live jobs have the old one mounted.
        stopIfChanged = false;
        serviceConfig =
          hardening.as "flashpods-token"
          // hardening.loopback # the metrics' listener
          // {
            Type = "notify";
            ExecStart = "${cfg.package}/bin/flashpods-token-service --config ${cfg.settingsFile}";
            SupplementaryGroups = [ "flashpods" ]; # Podman's socket: whose container a caller is
            # Copied when it starts: new secrets need a restart, callers wait in the socket meanwhile.
            LoadCredential = "secrets.json:${cfg.secretsFile}";
            WatchdogSec = "60s";
            TimeoutStartSec = "90s"; # the first trust bundle
            TimeoutStopSec = "15s";
            LimitNOFILE = 8192;
            LimitCORE = 0; # it would hold the secrets
            # Its callers' cgroups and threads are read in /proc.
            ProtectProc = "default";
            ProcSubset = "all";
            # It raises its own limit of descriptors, and takes its core's away.
            SystemCallFilter = hardening.strict.SystemCallFilter ++ [
              "prlimit64"
              "setrlimit"
            ];
          };
      };
    };
  };
}
