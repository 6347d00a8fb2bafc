# The rsync daemon, into which laptops push: chroot, a user that nobody else is, an allow list.
# A unit of our own rather than services.rsyncd, which a host may have for itself.
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

  configuration = pkgs.writeText "flashpods-rsyncd.conf" ''
    port = ${toString cfg.rsync.port}
    address = ${cfg.settings.http.host}
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

    systemd.services.flashpods-rsyncd = hardening.daemon hardening.strict {
      description = "rsync daemon for Flashpods' uploads";
      documentation = [ "man:rsyncd.conf(5)" ];
      requires = [ "flashpods-firewall.service" ]; # it knows no passwords: never without the boundary
      wants = [ "wireguard-${cfg.wireguard.interface}.service" ];
      after = [
        "network.target"
        "flashpods-api.service" # whose database the hook writes to
        "flashpods-firewall.service"
        "wireguard-${cfg.wireguard.interface}.service"
      ];
      serviceConfig = {
        Type = "exec";
        ExecStart = "${lib.getExe cfg.rsync.package} --daemon --no-detach --config=${configuration}";
        RuntimeDirectory = "flashpods-rsyncd";
        TimeoutStopSec = "10s";
        # Root, because rsync must chroot and the hook measures a tree that is nobody's.
        CapabilityBoundingSet = [
          "CAP_NET_BIND_SERVICE" # 873
          "CAP_SYS_CHROOT"
          "CAP_SETUID" # to the transfers' user; the hook: to flashpods
          "CAP_SETGID"
          "CAP_DAC_READ_SEARCH" # the hook measures what others own
          "CAP_KILL" # the hook ends a transfer over its quota
        ];
        RestrictAddressFamilies = hardening.families;
        IPAddressAllow = cfg.wireguard.networks ++ [ "localhost" ];
        SystemCallFilter = hardening.strict.SystemCallFilter ++ [
          "chroot"
          "@setuid"
        ];
        # The hook finds out which processes write to a tree.
        ProtectProc = "default";
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
