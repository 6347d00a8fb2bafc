# What options can't say by their types: each message names the value and the remedy.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.flashpods;
  wg = cfg.wireguard;
  inherit (cfg.settings) paths;
  listed = lib.concatStringsSep ", ";
  systemd = lib.getVersion config.systemd.package;

  inherit (import ../lib { inherit lib; }) isIPv6 isWithin;

  # What a person would call it: without the hash that a path into the store begins with.
  named = path: lib.last (builtins.match "([0-9a-z]{32}-)?(.*)" (baseNameOf path));
  inStore = path: lib.hasPrefix builtins.storeDir path;
  secret = option: path: {
    assertion = !inStore path;
    message = ''
      services.flashpods.${option} is ${path}, in the Nix store, which everybody on this host can read:
      give the path of a file outside of it, as a string, such as "/run/secrets/${named path}".
    '';
  };
  psks = lib.filterAttrs (_: laptop: laptop.presharedKeyFile != null) wg.laptops;
  keysOf = key: lib.attrNames (lib.filterAttrs (_: laptop: laptop.publicKey == key) wg.laptops);
  sameKey = lib.filter (names: lib.length names > 1) (
    lib.unique (map (laptop: keysOf laptop.publicKey) (lib.attrValues wg.laptops))
  );

  addresses = lib.concatMap (laptop: laptop.addresses) (lib.attrValues wg.laptops);
  twice = lib.unique (lib.filter (a: lib.count (b: a == b) addresses > 1) addresses);
  outside = lib.filter (
    a: !isIPv6 a && !lib.any (n: !isIPv6 n && isWithin n a) wg.networks
  ) addresses;
  restic = cfg.backup.restic;
  hosts = map (a: builtins.head (lib.splitString "/" a)) wg.addresses;
  trees = [
    paths.transfers
    paths.finalized
    paths.work
  ];
  ports = [
    cfg.settings.http.port
    cfg.rsync.port
    cfg.settings.http.metrics_port
    cfg.settings.tokens.metrics_port
    cfg.spire.port
  ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      (secret "apiTokenFile" cfg.apiTokenFile)
      (secret "secretsFile" cfg.secretsFile)
      (secret "wireguard.privateKeyFile" wg.privateKeyFile)
    ]
    ++ lib.mapAttrsToList (
      name: laptop: secret "wireguard.laptops.${name}.presharedKeyFile" laptop.presharedKeyFile
    ) psks
    ++ lib.optional (restic.passwordFile != null) (secret "backup.restic.passwordFile" restic.passwordFile)
    ++ lib.optional (restic.environmentFile != null) (
      secret "backup.restic.environmentFile" restic.environmentFile
    )
    ++ [
      {
        assertion = lib.versionAtLeast systemd "257";
        message = ''
          systemd.package is systemd ${systemd}: before 257 the API could map no user ids. Take NixOS 25.05 or
          later as the flake's input nixpkgs.
        '';
      }
      {
        assertion = wg.laptops != { };
        message = ''
          services.flashpods.wireguard.laptops is empty: nobody could use this host. Give the laptop's public key:
          services.flashpods.wireguard.laptops.mine.publicKey = "…"; (on the laptop: wg genkey | tee key | wg pubkey).
        '';
      }
      {
        assertion = twice == [ ];
        message = ''
          services.flashpods.wireguard.laptops: ${listed twice} belongs to more than one laptop: give each
          its own, such as services.flashpods.wireguard.laptops.NAME.addresses = [ "10.0.0.3" ];
        '';
      }
      {
        assertion = sameKey == [ ];
        message = ''
          services.flashpods.wireguard.laptops: ${lib.concatMapStringsSep "; " listed sameKey} have one publicKey, and
          WireGuard would know only one of them: each laptop makes a key of its own (wg genkey | tee key | wg pubkey).
        '';
      }
      {
        assertion = outside == [ ];
        message = ''
          services.flashpods.wireguard.laptops: ${listed outside} is in none of services.flashpods.wireguard.networks
          (${listed wg.networks}), and the API answers only those: give the laptop an address within.
        '';
      }
      {
        assertion = lib.intersectLists hosts addresses == [ ];
        message = ''
          services.flashpods.wireguard: ${listed (lib.intersectLists hosts addresses)} is this host's own address:
          give the laptop another one of its network.
        '';
      }
      {
        assertion = lib.any (lib.hasInfix ":") (hosts ++ addresses) -> lib.any (lib.hasInfix ":") wg.networks;
        message = ''
          services.flashpods.wireguard.networks is ${listed wg.networks}, without the IPv6 network of your addresses,
          which jobs could then reach: add it, such as [ "10.0.0.0/24" "fd77::/64" ].
        '';
      }
      {
        assertion = restic.enable -> cfg.backup.enable;
        message = ''
          services.flashpods.backup.restic.enable is true and services.flashpods.backup.enable is false: there would
          be nothing to copy. Enable both, or neither.
        '';
      }
      {
        assertion = cfg.monitoring.grafana.enable -> cfg.monitoring.enable;
        message = ''
          services.flashpods.monitoring.grafana.enable is true and services.flashpods.monitoring.enable is false: the
          dashboard would have no data. Enable both, or neither.
        '';
      }
      {
        assertion = cfg.firewall.resolvers != [ ];
        message = ''
          services.flashpods.firewall.resolvers is empty: jobs could resolve no name. Set
          networking.nameservers, or services.resolved.enable, or the resolvers themselves.
        '';
      }
      {
        assertion = lib.length (lib.unique (map dirOf trees)) == 1;
        message = ''
          services.flashpods.settings.paths: transfers, finalized and work are ${listed trees}: they must be in
          one directory, on one file system, because trees move between them by rename.
        '';
      }
      {
        assertion = lib.allUnique ports;
        message = ''
          services.flashpods: two listeners can't share a port, and these are API, rsync, API's metrics, token
          service's metrics, SPIRE's server: ${listed (map toString ports)}. Change one.
        '';
      }
      {
        assertion = cfg.podman.storageConf.storage.driver == "overlay";
        message = ''
          services.flashpods.podman.storageConf.storage.driver is "${cfg.podman.storageConf.storage.driver}": only
          "overlay" shares layers between jobs; leave the option out.
        '';
      }
      {
        assertion = !(config.networking.nftables.enable && config.networking.nftables.flushRuleset);
        message = ''
          networking.nftables.flushRuleset is true: each reload would take Flashpods' boundary away. Set it to
          false, and give your own rules as networking.nftables.tables.
        '';
      }
      {
        assertion = !(config.services.spire.server.enable or false);
        message = ''
          services.spire.server.enable is true, and Flashpods runs a SPIRE server of its own as spire-server.service:
          turn one of them off (services.flashpods.settings.identity.enabled = false).
        '';
      }
    ];
  };
}
