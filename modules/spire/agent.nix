# SPIRE's agent: it tells who a job is, by the kernel's cgroup alone (docs/decisions/0006).
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
  json = pkgs.formats.json { };
  sockets = "/run/spire/sockets";
  configuration = json.generate "spire-agent.json" cfg.spire.agent.settings;
in
{
  options.services.flashpods.spire.agent = {
    settings = mkOption {
      inherit (json) type;
      default = { };
      example.agent.log_level = "DEBUG";
      description = ''
        SPIRE agent's configuration, see its `doc/spire_agent.md`. `flashpods-spire-agent` adds the
        data directory, the trust bundle and a join token when one is needed, and refuses a
        configuration with which a job could take another's identity.
      '';
    };
    program = mkOption {
      type = types.str;
      default = lib.getExe' (cfg.spire.package.agent or cfg.spire.package) "spire-agent";
      defaultText = lib.literalExpression ''lib.getExe' config.services.flashpods.spire.package "spire-agent"'';
      description = "The agent's program.";
    };
  };

  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      services.flashpods = {
        spire.agent.settings = {
          agent = {
            server_address = "127.0.0.1";
            server_port = cfg.spire.port;
            socket_path = "${sockets}/agent.sock";
            trust_domain = cfg.settings.spire.trust_domain;
            log_level = lib.mkDefault "INFO";
            log_format = "json";
            # The token service has no identity of its own and only checks others'.
            allow_unauthenticated_verifiers = true;
            experimental.sync_interval = lib.mkDefault "1s"; # as the server's
          };
          plugins = {
            KeyManager.disk.plugin_data.directory = "/var/lib/spire/agent";
            NodeAttestor.join_token.plugin_data = { };
            WorkloadAttestor = [
              {
                docker.plugin_data = {
                  docker_socket_path = "unix://${cfg.settings.podman.socket}";
                  # By the kernel's word alone. What later versions call use_rootless_podman stays off,
                  # as it is by default: it would ask a socket that the jobs' user owns.
                  use_new_container_locator = false;
                  container_id_cgroup_matchers = [ "${cfg.settings.podman.cgroup_parent}/<id>/*" ];
                };
              }
              { unix.plugin_data = { }; }
            ];
          };
        };
        settings.spire = {
          agent_binary = cfg.spire.agent.program;
          agent_config = "/etc/spire/agent.json";
          agent_data = "/var/lib/spire/agent";
        };
      };
    })

    (lib.mkIf (cfg.enable && cfg.settings.identity.enabled) {
      environment.etc."spire/agent.json".source = configuration;

      # Not RuntimeDirectory: live jobs have the directory mounted, and it must outlive a restart.
      systemd.tmpfiles.settings."10-flashpods" = {
        "/run/spire".d.mode = "0755";
        ${sockets}.d.mode = "0755";
      };

      systemd.services.spire-agent = {
        description = "SPIRE agent";
        wantedBy = [ "multi-user.target" ];
        requires = [ "podman-socket-flashpods.socket" ];
        wants = [
          "spire-server.service"
          "flashpods-spire-register.service"
        ];
        after = [
          "spire-server.service"
          "flashpods-spire-register.service"
          "podman-socket-flashpods.socket"
        ];
        startLimitIntervalSec = 0;
        stopIfChanged = false; # jobs wait for their identity meanwhile: not for a whole switch
        restartTriggers = [ configuration ];
        serviceConfig =
          hardening.strict
          // hardening.restart
          // {
            Type = "exec";
            # Becomes the agent, with a new join token whenever the cached identity is of no use.
            ExecStart = "${cfg.package}/bin/flashpods-spire-agent --config ${cfg.settingsFile}";
            # Root, as SPIRE wants it: whose process a caller is must not be another user's to say.
            SupplementaryGroups = [ "spire-server" ]; # the server's socket, for the join token
            StateDirectory = "spire/agent";
            StateDirectoryMode = "0700";
            ReadWritePaths = [ sockets ];
            TimeoutStopSec = "15s";
            LimitNOFILE = 65536; # a connection for each job that waits
            # Callers are looked up in /proc.
            ProtectProc = "default";
            # The server is on loopback.
            RestrictAddressFamilies = [
              "AF_UNIX"
              "AF_INET"
              "AF_INET6"
            ];
            IPAddressAllow = "localhost";
            };
      };
    })
  ];
}
