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
  inherit (import ../declare.nix { inherit lib; })
    key
    keyLike
    outside
    outsideOrNone
    ;
  matching = pattern: types.nonEmptyListOf (types.strMatching pattern);
  publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

  laptop = types.submodule {
    options = {
      publicKey = mkOption {
        type = types.strMatching "[A-Za-z0-9+/]{43}=\n?"; # as readFile gives it
        apply = lib.removeSuffix "\n";
        example = publicKey;
        description = "The laptop's public key, as `wg pubkey` prints it.";
      };
      addresses =
        keyLike (matching "[0-9a-fA-F.:]+")
          [ "10.0.0.2" ]
          [
            "10.0.0.2"
            "fd77::2"
          ]
          "The laptop's addresses within WireGuard.";
      presharedKeyFile =
        outsideOrNone "A key that both know beside their own, outside of the Nix store."
        // {
          example = "/etc/wireguard/mine.psk";
        };
    };
  };
in
{
  options.services.flashpods.wireguard = {
    enable = key types.bool true ''
      Whether to set the interface up. Without, you set one up yourself that bears
      {option}`services.flashpods.wireguard.interface` as its name and the address
      {option}`services.flashpods.settings.http.host`.
    '';
    interface = key (types.strMatching "[A-Za-z0-9_.-]{1,15}") "wg0" "Name of the interface.";
    addresses =
      keyLike (matching "[0-9a-fA-F.:]+/[0-9]{1,3}")
        [ "10.0.0.1/24" ]
        [
          "10.0.0.1/24"
          "fd77::1/64"
        ]
        "This host's addresses within WireGuard, with their networks.";
    networks =
      keyLike (types.nonEmptyListOf types.str)
        (map networkOf (lib.filter (address: !isIPv6 address) wg.addresses))
        [
          "10.0.0.0/24"
          "fd77::/64"
        ]
        "The networks that are WireGuard's: no job reaches them. List IPv6 ones here."
      // {
        defaultText = lib.literalMD "the networks of the IPv4 `addresses`";
      };
    port = key types.port 51820 "UDP port on which WireGuard listens, on all addresses.";
    privateKeyFile = outside "/etc/wireguard/private.key" "This host's private key. It must not be in the Nix store.";
    generatePrivateKey = key types.bool true ''
      Whether to make the key on the first start if it is not there. Its public part, for the
      laptop: `wg show wg0 public-key`. Turn it off where a secrets manager brings the key.
    '';
    laptops = keyLike (types.attrsOf laptop) { } {
      mine = { inherit publicKey; };
    } "Who may use the API and rsync, by name.";
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
