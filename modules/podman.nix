# The container engine: rootless Podman behind a socket that systemd owns.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption;
  cfg = config.services.flashpods;
  hardening = import ./hardening.nix;
  toml = pkgs.formats.toml { };
  socket = "/run/flashpods/podman.sock";
  runtimeDirectory = "/run/user/${toString cfg.uid}";
  store = "/var/lib/flashpods/.local/share/containers/storage";
  containersConf = toml.generate "containers.conf" cfg.podman.containersConf;
  storageConf = toml.generate "storage.conf" cfg.podman.storageConf;
in
{
  options.services.flashpods.podman = {
    package = lib.mkPackageOption pkgs "podman" { };
    containersConf = mkOption {
      inherit (toml) type;
      default = { };
      example.engine.image_parallel_copies = 2;
      description = "What {manpage}`containers.conf(5)` has for the jobs' engine beside the system's.";
    };
    storageConf = mkOption {
      inherit (toml) type;
      default = { };
      example.storage.options.additionalimagestores = [ "/srv/images" ];
      description = "{manpage}`containers-storage.conf(5)` of the jobs' engine.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.flashpods.podman = {
      containersConf = {
        # Below systemd's manager a container's id is no segment of its cgroup's path, by which SPIRE
        # finds it (docs/decisions/0006).
        engine.cgroup_manager = "cgroupfs";
        engine.events_logger = "file";
        containers.log_driver = "k8s-file";
      };
      storageConf.storage = {
        driver = lib.mkDefault "overlay"; # without this line Podman may take vfs, silently
        # Podman keeps both in its database: they are fixed for the life of the store.
        runroot = "${runtimeDirectory}/containers";
        graphroot = store;
        rootless_storage_path = store;
      };
    };

    virtualisation.containers = {
      enable = true;
      registries.search = lib.mkDefault [ "docker.io" ];
    };

    environment.etc = {
      "flashpods/containers.conf".source = containersConf;
      "flashpods/storage.conf".source = storageConf;
    };

    # The jobs' engine for an operator: flashpods-podman ps --filter label=flashpods-job=true
    environment.systemPackages = [
      (pkgs.writeShellScriptBin "flashpods-podman" ''
        exec ${lib.getExe cfg.podman.package} --url unix://${socket} "$@"
      '')
    ];

    systemd = {
      sockets.podman-socket-flashpods = {
        description = "Podman's socket for Flashpods";
        wantedBy = [ "sockets.target" ];
        listenStreams = [ socket ];
        socketConfig = {
          SocketUser = "root";
          SocketGroup = "flashpods"; # the API, and the token service as a member
          SocketMode = "0660";
        };
      };

      # No filter of system calls or address families: jobs would inherit it, and have a profile of their
      # own. No PrivateTmp: their workspaces are in /tmp.
      services.podman-socket-flashpods = hardening.daemon (hardening.as "flashpods") {
        description = "Rootless Podman for Flashpods";
        documentation = [ "man:podman-system-service(1)" ];
        requires = [ "podman-socket-flashpods.socket" ];
        wants = [ "user@${toString cfg.uid}.service" ];
        after = [
          "podman-socket-flashpods.socket"
          "user@${toString cfg.uid}.service"
          "network.target"
        ];
        # A switch would stop the socket with it, and whatever requires that: SPIRE's agent, the token service.
        stopIfChanged = false;
        # newuidmap and newgidmap are setuid wrappers there.
        path = [
          "/run/wrappers"
          cfg.podman.package
          pkgs.crun
          pkgs.slirp4netns
          pkgs.passt
        ];
        environment = {
          HOME = "/var/lib/flashpods";
          XDG_RUNTIME_DIR = runtimeDirectory;
          CONTAINERS_CONF_OVERRIDE = containersConf;
          CONTAINERS_STORAGE_CONF = storageConf;
        };
        serviceConfig = {
          Type = "exec";
          ExecStart = "${lib.getExe cfg.podman.package} system service --time=0";
          # Containers are in this unit's cgroup. Podman itself sits in a group of its own below it, or
          # the kernel would silently not apply the jobs' limits (cgroup-v2: no internal processes).
          Delegate = "cpu cpuset io memory pids";
          DelegateSubgroup = "supervisor";
          # Only the service itself: jobs outlive its restart, and an upgrade's.
          KillMode = "process";
          OOMPolicy = "continue"; # a job that was killed for memory is no failure of the engine
          OOMScoreAdjust = -500;
          TasksMax = "infinity"; # each job has a limit of its own
          LimitNOFILE = 1048576;
          TimeoutStopSec = "30s";
          # After a boot the main process only waits for the one that works, in its user namespace. One
          # that hangs takes no SIGTERM, and would outlive it with Podman's locks.
          ExecStopPost = "-${pkgs.procps}/bin/pkill --signal KILL --uid flashpods --full 'podman[^ ]* system service'";
        };
      };
    };
  };
}
