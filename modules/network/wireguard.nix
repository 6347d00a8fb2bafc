# WireGuard: the only way in for laptops.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  wg = cfg.wireguard;
  bare = address: builtins.head (lib.splitString "/" address);
  inherit (import ../../lib { inherit lib; }) isIPv6 networkOf;
in
{
  options.services.flashpods.wireguard = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to set the interface up. Without, you set one up yourself that bears
        {option}`services.flashpods.wireguard.interface` as its name and the address
        {option}`services.flashpods.settings.http.host`.
      '';
    };
    interface = mkOption {
      type = types.strMatching "[A-Za-z0-9_.-]{1,15}";
      default = "wg0";
      description = "Name of the interface.";
    };
    addresses = mkOption {
      type = types.nonEmptyListOf (types.strMatching "[0-9a-fA-F.:]+/[0-9]{1,3}");
      default = [ "10.0.0.1/24" ];
      example = [
        "10.0.0.1/24"
        "fd77::1/64"
      ];
      description = "This host's addresses within WireGuard, with their networks.";
    };
    networks = mkOption {
      type = types.nonEmptyListOf types.str;
      default = map networkOf (lib.filter (address: !isIPv6 address) wg.addresses);
      defaultText = lib.literalMD "the networks of the IPv4 `addresses`";
      example = [
        "10.0.0.0/24"
        "fd77::/64"
      ];
      description = "The networks that are WireGuard's: no job reaches them. List IPv6 ones here.";
    };
    port = mkOption {
      type = types.port;
      default = 51820;
      description = "UDP port on which WireGuard listens, on all addresses.";
    };
    privateKeyFile = mkOption {
      type = types.path;
      apply = toString;
      default = "/etc/wireguard/private.key";
      description = "This host's private key. It must not be in the Nix store.";
    };
    generatePrivateKey = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to make the key on the first start if it is not there. Its public part, for the
        laptop: `wg show wg0 public-key`. Turn it off where a secrets manager brings the key.
      '';
    };
    laptops = mkOption {
      default = { };
      example.mine.publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
      description = "Who may use the API and rsync, by name.";
      type = types.attrsOf (
        types.submodule {
          options = {
            publicKey = mkOption {
              type = types.strMatching "[A-Za-z0-9+/]{43}=\n?"; # as readFile gives it
              apply = lib.removeSuffix "\n";
              example = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
              description = "The laptop's public key, as `wg pubkey` prints it.";
            };
            addresses = mkOption {
              type = types.nonEmptyListOf (types.strMatching "[0-9a-fA-F.:]+");
              default = [ "10.0.0.2" ];
              example = [
                "10.0.0.2"
                "fd77::2"
              ];
              description = "The laptop's addresses within WireGuard.";
            };
            presharedKeyFile = mkOption {
              type = types.nullOr types.path;
              apply = file: if file == null then null else toString file;
              default = null;
              example = "/etc/wireguard/mine.psk";
              description = "A key that both know beside their own, outside of the Nix store.";
            };
          };
        }
      );
    };
  };

  config = lib.mkIf (cfg.enable && wg.enable) {
    services.flashpods.settings.http.host = lib.mkDefault (bare (builtins.head wg.addresses));

    networking.wireguard.interfaces.${wg.interface} = {
      ips = wg.addresses;
      listenPort = wg.port;
      inherit (wg) privateKeyFile;
      generatePrivateKeyFile = wg.generatePrivateKey;
      peers = lib.mapAttrsToList (name: laptop: {
        inherit name;
        inherit (laptop) publicKey presharedKeyFile;
        allowedIPs = map (address: "${address}/${if isIPv6 address then "128" else "32"}") laptop.addresses;
      }) wg.laptops;
    };
  };
}
