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
        ${sockets}.d = {
          user = "spire-agent";
          group = "spire-agent";
          mode = "0755";
        };
      };

      # A user that nobody else is. Whose process a caller is, the kernel says to any: /proc/<pid>/cgroup
      # is there to be read.
      users.users.spire-agent = {
        isSystemUser = true;
        group = "spire-agent";
        description = "SPIRE's agent";
      };
      users.groups.spire-agent = { };

      systemd.services.spire-agent = hardening.daemon hardening.strict {
        description = "SPIRE agent";
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
        stopIfChanged = false; # jobs wait for their identity meanwhile: not for a whole switch
        restartTriggers = [ configuration ];
        # The server is on loopback.
        serviceConfig = hardening.as "spire-agent" // hardening.loopback // {
          Type = "exec";
          # Becomes the agent, with a new join token whenever the cached identity is of no use.
          ExecStart = "${cfg.package}/bin/flashpods-spire-agent --config ${cfg.settingsFile}";
          SupplementaryGroups = [
            "spire-server" # the server's socket, for the join token
            "flashpods" # Podman's: which container a caller is in
          ];
          StateDirectory = "spire/agent";
          StateDirectoryMode = "0700";
          ReadWritePaths = [ sockets ];
          TimeoutStopSec = "15s";
          LimitNOFILE = 65536; # a connection for each job that waits
          # Callers are looked up in /proc.
          ProtectProc = "default";
        };
      };
    })
  ];
}
