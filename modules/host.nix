# What all services stand on: the user, its subordinate ids, directories, limits of the kernel.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.flashpods;
  inherit (cfg.settings) paths;
  range = cfg.subordinateIds;
  rsyncId = toString (range.start + range.count - 1);

  directory = user: group: mode: {
    d = { inherit user group mode; };
  };
  ours = directory "flashpods" "flashpods";
  root = directory "root" "root";
in
{
  config = lib.mkIf cfg.enable {
    users = {
      users.flashpods = {
        isSystemUser = true;
        inherit (cfg) uid;
        group = "flashpods";
        description = "API, engine and jobs of Flashpods";
        home = "/var/lib/flashpods";
        # Its manager keeps /run/user/UID, Podman's run directory, from boot to shutdown.
        linger = true;
        subUidRanges = [
          {
            startUid = range.start;
            inherit (range) count;
          }
        ];
        subGidRanges = [
          {
            startGid = range.start;
            inherit (range) count;
          }
        ];
      };
      groups.flashpods.gid = cfg.uid;
    };

    systemd.tmpfiles.settings."10-flashpods" = {
      "/var/lib/flashpods" = ours "0750";
      # Podman's, made before the units that are to write there begin (podman.nix, api.nix).
      "/var/lib/flashpods/.local" = ours "0755";
      "/var/lib/flashpods/.local/share" = ours "0755";
      "/var/lib/flashpods/.local/share/containers" = ours "0755";
      ${cfg.podman.storageConf.storage.graphroot} = ours "0700";
      ${dirOf paths.database} = ours "0700";
      ${paths.artifacts} = ours "0700";
      ${paths.capture} = ours "0700";
      ${paths.logs} = ours "0750";
      # Exempt from the cleaning of /tmp; gone after a reboot, which recovery expects.
      ${dirOf paths.transfers} = root "0755" // {
        x = { };
      };
      # The transfers' user writes, flashpods looks.
      ${paths.transfers} = directory rsyncId "flashpods" "0750";
      "${paths.transfers}/.bases" = directory rsyncId "flashpods" "0770";
      ${paths.finalized} = ours "0755";
      ${paths.work} = ours "0755";
      # Root's, so that no process of flashpods can put a socket of its own in Podman's place.
      "/run/flashpods" = directory "root" "flashpods" "0750";
    };

    boot = {
      kernelModules = [ "tun" ]; # slirp4netns, pasta
      kernel.sysctl = {
        # Each container takes a key, and a user has 200 (keyrings(7)).
        "kernel.keys.maxkeys" = lib.mkDefault 20000;
        "kernel.keys.maxbytes" = lib.mkDefault 2000000;
        "fs.inotify.max_user_instances" = lib.mkDefault 1024;
        "fs.inotify.max_user_watches" = lib.mkDefault 524288;
      };
    };

    # And what doctor, validate and docs/operations.md call that a host does not have anyhow.
    environment.systemPackages = [
      cfg.package
      cfg.rsync.package
      pkgs.jq
      pkgs.nftables
      pkgs.openssl
      pkgs.psmisc
    ];
  };
}
