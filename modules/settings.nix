# The one settings file of all our programs: options in, JSON out, checked when it is built.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  json = pkgs.formats.json { };

  inherit (import ./declare.nix { inherit lib; }) key;
  GiB = 1024 * 1024 * 1024;
  percent = types.ints.between 1 100;
  bytes = types.ints.positive;
  count = types.ints.positive;

  limitsOf = kind: {
    cpus = key count kind.cpus "CPUs of a job that asks for none.";
    memory_gb = key count kind.memory_gb "Memory of a job that asks for none, in GiB.";
    timeout_minutes = key count kind.timeout_minutes "Minutes after which a job is ended that asks for none.";
    max_cpus = key count kind.max_cpus "What a job gets at most, whatever it asks for.";
    max_memory_gb = key count kind.max_memory_gb "Likewise, in GiB.";
    max_timeout_minutes = key count kind.max_timeout_minutes "Likewise, in minutes.";
  };

  typed = {
    http = {
      host = key types.str "10.0.0.1" "Address of the API: this host's within WireGuard.";
      port = key types.port 8080 "Port of the API.";
      rate_per_second = key types.numbers.positive 100 "Requests a second of one client; ten at once (`http.rate_burst`); more are 429.";
      metrics_host = key (types.nullOr types.str) "127.0.0.1" "Address of the API's metrics; null: none.";
      metrics_port = key types.port 9464 "Port of the API's metrics.";
    };
    paths = {
      database = key types.path "/var/lib/flashpods/db/flashpods.db" "The SQLite file.";
      transfers = key types.path "/tmp/flashpods/uploads" "The rsync module.";
      finalized = key types.path "/tmp/flashpods/finalized" "Uploads that are complete.";
      work = key types.path "/tmp/flashpods/work" "The jobs' workspaces.";
      artifacts = key types.path "/var/lib/flashpods/artifacts" "What jobs leave.";
      capture = key types.path "/var/lib/flashpods/capture" "The engine's raw logs.";
      logs = key types.path "/var/log/flashpods" "The jobs' logs.";
    };
    podman = {
      network =
        key
          (types.enum [
            "slirp4netns"
            "pasta"
            "none"
          ])
          (if lib.versionAtLeast (lib.getVersion cfg.podman.package) "6" then "pasta" else "slirp4netns")
          "How a job reaches the network. The boundary holds for all of them; pasta is faster, and Podman 6 has no slirp4netns.";
      pids_limit = key (types.ints.between 16 4194304) 2048 "Processes of one job.";
    };
    jobs = {
      worker =
        limitsOf {
          cpus = 2;
          memory_gb = 4;
          timeout_minutes = 30;
          max_cpus = 8;
          max_memory_gb = 16;
          max_timeout_minutes = 120;
        }
        // {
          image = key types.str "ubuntu:22.04" "Image of a worker that asks for none.";
        };
      agent =
        limitsOf {
          cpus = 2;
          memory_gb = 4;
          timeout_minutes = 60;
          max_cpus = 4;
          max_memory_gb = 8;
          max_timeout_minutes = 120;
        }
        // {
          image = key types.str "localhost/flashpods/agent:latest" "Image of agents; one of `localhost/` is never pulled.";
          command = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "claude -p --dangerously-skip-permissions";
            description = ''
              What an agent's entrypoint runs, split at blanks, with the task on its standard input; null: the
              image's own default, else `claude -p --dangerously-skip-permissions`. It comes from
              {option}`services.flashpods.images.agentPackages`; see docs/agents.md.
            '';
          };
          git_url = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "https://github.com/example/project.git";
            description = "What an agent clones when the pushed tree brings no repository.";
          };
        };
      reserve_cpus = key types.ints.unsigned 0 "CPUs that jobs never get: all jobs together have the host's CPUs less these.";
      reserve_memory_gb = key types.ints.unsigned 0 "GiB of memory that jobs never get: all jobs together have the host's memory (`free -g`, rounded down) less these. `flashpods-admin status` shows what that makes.";
      disk_bytes = key bytes (20 * GiB) "What one job may hold on disk while it runs.";
    };
    uploads = {
      max_bytes = key bytes (2 * GiB) "Size of one upload.";
      total_bytes = key bytes (10 * GiB) "Size of all uploads together.";
    };
    output = {
      log_bytes = key bytes (50 * 1024 * 1024) "Size of one job's log; its beginning is kept.";
      logs_total_bytes = key bytes (10 * GiB) "Size of all logs; the oldest goes first.";
      log_retention_seconds = key count (24 * 3600) "How long a finished job's log is kept.";
      artifact_job_bytes = key bytes (2 * GiB) "Size of one job's artifacts.";
      artifact_retention_seconds = key count 3600 "How long a finished job's artifacts are kept.";
    };
    cleanup.images_total_bytes = key bytes (50 * GiB) "Size of all images; unused ones go beyond it.";
    disk = {
      warn_percent = key percent 70 "A file system this full is a warning.";
      critical_percent = key percent 85 "A file system this full: no new jobs.";
      guard_percent = key percent 92 "A file system this full: the job that holds most is ended.";
    };
    identity = {
      enabled = key types.bool true "Whether jobs get an identity, and the secrets that go with it.";
      git_hosts = mkOption {
        type = types.listOf types.str;
        default = [ "https://github.com" ];
        example = [
          "https://github.com"
          "https://git.example.org"
        ];
        description = "Where git in a job presents the job's `GITHUB_TOKEN`.";
      };
    };
    spire.trust_domain = key types.str "flashpods.local" "SPIFFE trust domain of this host.";
    tokens.metrics_port = key types.port 9465 "Port of the token service's metrics, on 127.0.0.1.";
  };
in
{
  options.services.flashpods = {
    settings = mkOption {
      type = types.submodule {
        freeformType = json.type;
        options = typed;
      };
      default = { };
      example = {
        jobs.worker.image = "docker.io/library/rust:1";
        jobs.reserve_memory_gb = 4;
      };
      description = ''
        All settings, as {file}`/etc/flashpods/settings.json` has them. Besides those listed here
        any key of `python/src/flashpods/config.py` and `config_*.py` can be set; what it does not know, or what
        contradicts another key, fails the build.
      '';
    };
    settingsFile = mkOption {
      type = types.package;
      internal = true;
      readOnly = true;
      description = "The file, built and checked.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.flashpods = {
      settings = {
        http.token_file = cfg.apiTokenFile; # the API reads its credential instead
        tokens = {
          secrets_file = "/run/credentials/flashpods-token-service.service/secrets.json";
          trust_domain = cfg.settings.spire.trust_domain;
        };
        podman = {
          socket = "/run/flashpods/podman.sock";
          prepull = lib.mkDefault cfg.images.prePull; # what flashpods-admin pull-images pulls
          cgroup_parent = "/system.slice/podman-socket-flashpods.service/ctrs";
        };
        identity.helper = "${cfg.tokenHelper}/bin/flashpods-token";
        uploads.rsync_url = lib.mkDefault "rsync://${cfg.settings.http.host}${
          lib.optionalString (cfg.rsync.port != 873) ":${toString cfg.rsync.port}"
        }/uploads";
      };
      settingsFile = pkgs.writeTextFile {
        name = "flashpods-settings.json";
        text = builtins.toJSON cfg.settings;
        checkPhase = ''
          ${lib.getExe cfg.package} check-config "$target"
        '';
      };
    };
    environment.etc."flashpods/settings.json".source = cfg.settingsFile;
  };
}
