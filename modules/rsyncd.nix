# The rsync daemon, into which laptops push: chroot, a user that nobody else is, an allow list.
# Units of our own rather than services.rsyncd, which a host may have for itself: systemd listens, and
# starts a daemon for each connection, which needs no network of its own (docs/decisions/0012).
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  inherit (cfg.settings) paths uploads;
  hardening = import ./hardening.nix;

  transferId = toString (cfg.subordinateIds.start + cfg.subordinateIds.count - 1);

  # All is refused but what a push needs, so that an option of a later rsync is refused as well. "a"
  # stands for -rlptgoD; devices and specials are taken out again.
  accepted = [
    "a"
    "v"
    "delete*"
    "copy-dest"
    "compress*"
    "checksum"
    "whole-file"
    "partial"
    "inplace"
    "omit-dir-times"
    "modify-window"
    "executability"
    "chmod"
    "timeout"
    "stats"
    "ignore-errors"
    "force"
    "sparse"
    "bwlimit"
    "info"
  ];
  refused = [ "*" ] ++ map (option: "!${option}") accepted ++ [
    "devices"
    "specials"
  ];

  # It begins as root, before the chroot, and becomes the database's owner by itself. "exec": no
  # shell stands between it and rsync, which it looks for among its ancestors.
  hook =
    moment:
    "exec "
    + lib.escapeShellArgs [
      "${cfg.package}/bin/flashpods-rsync-hook"
      moment
      "--database"
      paths.database
      "--max-bytes"
      (toString uploads.max_bytes)
      "--total-bytes"
      (toString uploads.total_bytes)
      "--max-files"
      (toString (uploads.max_files or 500000))
      "--expires-seconds"
      (toString (uploads.finalize_within_seconds or 1800))
    ];

  address = cfg.settings.http.host;
  # It knows no passwords: never without the boundary.
  boundary = [ "flashpods-firewall.service" ];

  configuration = pkgs.writeText "flashpods-rsyncd.conf" ''
    reverse lookup = no

    [uploads]
    path = ${paths.transfers}
    use chroot = yes
    munge symlinks = yes
    numeric ids = yes
    uid = ${transferId}
    gid = ${transferId}
    read only = no
    write only = yes
    list = no
    max connections = 16
    lock file = /run/flashpods-rsyncd/lock
    timeout = 300
    incoming chmod = ug-s
    refuse options = ${lib.concatStringsSep " " refused}
    pre-xfer exec = ${hook "pre"}
    post-xfer exec = ${hook "post"}
  '';
in
{
  options.services.flashpods.rsync = {
    package = lib.mkPackageOption pkgs "rsync" { };
    port = mkOption {
      type = types.port;
      default = 873;
      description = "Port of the rsync daemon, on the API's address.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.etc."flashpods-rsyncd.conf".source = configuration;

    systemd.sockets.flashpods-rsyncd = {
      description = "rsync for Flashpods' uploads";
      wantedBy = [ "sockets.target" ];
      requires = boundary;
      after = boundary;
      socketConfig = {
        ListenStream = "${if lib.hasInfix ":" address then "[${address}]" else address}:${toString cfg.rsync.port}";
        Accept = true;
        FreeBind = true; # WireGuard's interface may come later, and go
        IPAddressAllow = cfg.wireguard.networks ++ [ "localhost" ];
        IPAddressDeny = "any";
        # rsync itself says so from the 17th transfer on; beyond these a connection is closed.
        MaxConnections = 64;
        MaxConnectionsPerSource = 32;
        # A laptop that went to sleep keeps none of them.
        KeepAlive = true;
        KeepAliveTimeSec = "60s";
        KeepAliveIntervalSec = "15s";
        KeepAliveProbes = 4;
        TriggerLimitIntervalSec = 0; # many at once would end it for good
      };
    };

    systemd.services."flashpods-rsyncd@" = {
      description = "rsync daemon for one push of Flashpods' uploads";
      documentation = [ "man:rsyncd.conf(5)" ];
      requires = boundary;
      after = boundary ++ [
        "network.target"
        "flashpods-api.service" # whose database the hook writes to
      ];
      startLimitIntervalSec = 0;
      restartIfChanged = false; # the next connection gets the new one
      unitConfig.CollectMode = "inactive-or-failed";
      serviceConfig = hardening.strict // {
        Type = "exec";
        ExecStart = "-${lib.getExe cfg.rsync.package} --daemon --config=${configuration}";
        ExitType = "cgroup"; # the transfer's watcher has the last word
        StandardInput = "socket";
        StandardOutput = "journal";
        StandardError = "journal";
        RuntimeDirectory = "flashpods-rsyncd";
        RuntimeDirectoryPreserve = true; # all of them count their connections in one lock
        TimeoutStopSec = "10s";
        PrivateNetwork = true; # the connection itself is the host's
        # Root, because rsync must chroot and the hook measures a tree that is nobody's.
        CapabilityBoundingSet = [
          "CAP_SYS_CHROOT"
          "CAP_SETUID" # to the transfers' user; the hook: to flashpods
          "CAP_SETGID"
          "CAP_DAC_READ_SEARCH" # the hook measures what others own
          "CAP_KILL" # the hook ends a transfer over its quota
        ];
        SystemCallFilter = hardening.strict.SystemCallFilter ++ [
          "chroot"
          "@setuid"
        ];
        ReadWritePaths = [ (dirOf paths.database) ];
        BindPaths = [ paths.transfers ];
        # It may read what anybody owns, but there is nothing for it where secrets are.
        InaccessiblePaths = [
          "-/etc/flashpods"
          "-/etc/wireguard"
          "-/run/agenix.d"
          "-/run/secrets.d"
          "-/run/spire"
          "-/var/lib/spire"
        ];
      };
    };
  };
}
