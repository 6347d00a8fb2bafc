# SPIRE's server: one host, one trust domain, SQLite and keys on disk.
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
  data = "/var/lib/spire/server";
  # JSON, which SPIRE's HCL reader takes; but of a file that begins with "plugins", as its keys sorted
  # do, it calls the first plugin unknown.
  configuration = pkgs.writeText "spire-server.json" (
    let
      inherit (cfg.spire.server) settings;
      first = [ "server" ];
      keys = first ++ lib.subtractLists first (lib.attrNames settings);
      member = key: "${builtins.toJSON key}: ${builtins.toJSON settings.${key}}";
    in
    "{${lib.concatMapStringsSep ", " member keys}}"
  );
in
{
  options.services.flashpods.spire = {
    package = lib.mkPackageOption pkgs "spire" { };
    server.settings = mkOption {
      inherit (json) type;
      default = { };
      example.server.log_level = "DEBUG";
      description = "SPIRE server's configuration, see its `doc/spire_server.md`.";
    };
    server.program = mkOption {
      type = types.str;
      default = lib.getExe' (cfg.spire.package.server or cfg.spire.package) "spire-server";
      defaultText = lib.literalExpression ''lib.getExe' config.services.flashpods.spire.package "spire-server"'';
      description = "The server's program.";
    };
    port = mkOption {
      type = types.port;
      default = 8081;
      description = "Port of the server, on 127.0.0.1.";
    };
  };

  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      services.flashpods = {
        spire.server.settings = {
          server = {
            bind_address = "127.0.0.1";
            bind_port = cfg.spire.port;
            socket_path = "/run/spire/server/api.sock";
            trust_domain = cfg.settings.spire.trust_domain;
            data_dir = data;
            log_level = lib.mkDefault "INFO";
            log_format = "json";
            ca_ttl = lib.mkDefault "24h";
            default_x509_svid_ttl = lib.mkDefault "1h";
            default_jwt_svid_ttl = lib.mkDefault "5m";
            agent_ttl = lib.mkDefault "1h";
            # Nodes that joined by token and are long gone, with the entries they had.
            prune_attested_nodes_expired_for = lib.mkDefault "24h";
            prune_tofu_nodes = lib.mkDefault true;
            # SPIRE's 5 s save work on thousands of nodes; here a job would wait for them. Elsewhere than
            # below "experimental" it is a fatal error.
            experimental.cache_reload_interval = lib.mkDefault "1s";
          };
          plugins = {
            DataStore.sql.plugin_data = {
              database_type = "sqlite3";
              connection_string = "${data}/datastore.sqlite3";
            };
            KeyManager.disk.plugin_data.keys_path = "${data}/keys.json";
            NodeAttestor.join_token.plugin_data = { };
          };
        };
        settings.spire = {
          server_binary = cfg.spire.server.program;
          server_socket = "/run/spire/server/api.sock";
        };
      };
    })

    (lib.mkIf (cfg.enable && cfg.settings.identity.enabled) {
      users.users.spire-server = {
        isSystemUser = true;
        group = "spire-server";
        description = "SPIRE's server";
      };
      users.groups.spire-server = { };

      environment.etc."spire/server.json".source = configuration;

      systemd.services.spire-server = hardening.daemon hardening.strict {
        description = "SPIRE server";
        after = [ "network.target" ];
        stopIfChanged = false; # as the agent
        serviceConfig =
          hardening.as "spire-server"
          // hardening.loopback # the agent comes over it
          // {
            Type = "exec";
            ExecStart = "${cfg.spire.server.program} run -config ${configuration}";
            StateDirectory = "spire/server";
            StateDirectoryMode = "0700";
            RuntimeDirectory = "spire/server";
            RuntimeDirectoryMode = "0750"; # the agent's unit is in the group
            TimeoutStopSec = "15s";
            LimitNOFILE = 8192;
            PrivateUsers = true;
          };
      };
    })
  ];
}
