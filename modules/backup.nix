# The nightly backup of the database, and by option a copy of it elsewhere, by restic.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  inherit (cfg) backup;
  inherit (cfg.settings) paths;
  inherit (cfg.settings.backup) directory;
  hardening = import ./hardening.nix;
  inherit (import ./declare.nix { inherit lib; }) key keyLike outsideOrNone;
  restic = config.services.restic.backups.flashpods;
  unlock = lib.concatStringsSep " -o " ([ (lib.getExe restic.package) ] ++ restic.extraOptions) + " unlock";
  carried = "flashpods-elsewhere"; # below /var/lib, root's
in
{
  options.services.flashpods = {
    backup = {
      enable = key types.bool true "Whether the database is backed up each night.";
      startAt = mkOption {
        type = types.str;
        default = "*-*-* 02:00:00";
        description = "When, see {manpage}`systemd.time(7)`. A host that was off then does it when it starts.";
      };
      restic = {
        enable = lib.mkEnableOption "a copy of the backups elsewhere after each nightly run, by restic, as root. `restic-flashpods` is the command with the repository's settings";
        repository = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "sftp:backup@example.org:/srv/flashpods";
          description = "Where the copies go.";
        };
        passwordFile = outsideOrNone "File with the repository's password, readable by root alone." // {
          example = "/run/secrets/restic";
        };
        environmentFile = outsideOrNone "File with the variables that the repository's kind needs, such as `AWS_ACCESS_KEY_ID`." // {
          example = "/run/secrets/restic-env";
        };
        pruneOpts = mkOption {
          type = types.listOf types.str;
          default = [
            "--keep-daily 14"
            "--keep-weekly 8"
            "--keep-monthly 12"
          ];
          description = "What restic keeps there.";
        };
      };
    };

    settings = mkOption {
      type = types.submodule {
        options.backup = {
          directory = key types.path "/var/backups/flashpods" "Where the copies are.";
          daily = key types.ints.positive 7 "Days that keep their copy.";
          weekly = key types.ints.unsigned 4 "Weeks that keep the newest of theirs.";
          artifacts = key types.bool false "Also the collected artifacts.";
          logs = key types.bool false "Also the jobs' logs.";
          elsewhere = keyLike (types.nullOr types.path) null "/var/lib/offsite/done" "A file that who carries the backups elsewhere touches when that is done, one that the user `flashpods` may see: its age is watched. With `backup.restic` it is set.";
        };
      };
    };
  };

  config = lib.mkIf (cfg.enable && backup.enable) {
    assertions = [
      {
        assertion = backup.restic.enable -> (backup.restic.repository != null && backup.restic.passwordFile != null);
        message = ''
          services.flashpods.backup.restic.enable is true without repository or passwordFile: give both, such as
          services.flashpods.backup.restic.repository = "sftp:backup@example.org:/srv/flashpods";
          services.flashpods.backup.restic.passwordFile = "/run/secrets/restic";
        '';
      }
    ];

    systemd.services.flashpods-backup = {
      description = "Flashpods' backup of its database";
      onSuccess = lib.optional backup.restic.enable "restic-backups-flashpods.service";
      serviceConfig = hardening.strict // hardening.as "flashpods" // {
        Type = "oneshot";
        ExecStart = "${cfg.package}/bin/flashpods-admin backup --settings ${cfg.settingsFile}";
        TimeoutStartSec = "2h";
        Nice = 10;
        IOSchedulingClass = "idle";
        PrivateNetwork = true;
        # A reader of a database in WAL mode writes to its -shm.
        ReadWritePaths = [
          directory
          (dirOf paths.database)
        ];
      };
    };

    systemd.timers.flashpods-backup = {
      description = "Flashpods' backup, each night";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = backup.startAt;
        Persistent = true;
      };
    };

    systemd.tmpfiles.settings."10-flashpods".${directory}.d = {
      user = "flashpods";
      group = "flashpods";
      mode = "0750";
    };

    services.restic.backups.flashpods = lib.mkIf backup.restic.enable {
      inherit (backup.restic)
        repository
        passwordFile
        environmentFile
        pruneOpts
        ;
      paths = [ directory ];
      initialize = true;
      # A run that was cut off leaves a lock, and none after it could prune. One in use stays.
      backupPrepareCommand = "${unlock} || true # there may be no repository yet";
      timerConfig = null; # after each backup, not at a time of its own
    };
    services.flashpods.settings.backup.elsewhere = lib.mkIf backup.restic.enable "/var/lib/${carried}/done";
    systemd.services.restic-backups-flashpods = lib.mkIf backup.restic.enable {
      serviceConfig = {
        # One that hangs would keep all later ones from beginning.
        TimeoutStartSec = "12h";
        Nice = 10;
        IOSchedulingClass = "idle";
        StateDirectory = carried;
        ExecStartPost = "${pkgs.coreutils}/bin/touch /var/lib/${carried}/done";
      };
    };
  };
}
