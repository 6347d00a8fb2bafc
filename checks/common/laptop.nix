# LAPTOP: the example as it is, with a key, the token, a way to the internet, and what drives the MCP
# server there: the protocol's official client.
{ lib, pkgs, ... }:
let
  keys = import ./keys.nix { inherit pkgs; };
  ours = import ../../pkgs { inherit pkgs; };
in
{
  imports = [
    ../../modules/laptop
    ../../examples/laptop/nixos.nix
  ];

  networking = {
    wg-quick.interfaces.wg0.peers = lib.mkForce [
      {
        inherit (keys.host) publicKey;
        endpoint = "198.51.100.10:51820";
        allowedIPs = [ "10.0.0.1/32" ];
        persistentKeepalive = 25;
      }
    ];
    interfaces.eth1.ipv4.addresses = lib.mkForce [
      {
        address = "192.0.2.2";
        prefixLength = 24;
      }
    ];
    defaultGateway = {
      address = "192.0.2.1";
      interface = "eth1";
    };
    useDHCP = false;
  };
  # Where HOST's backups are carried.
  services.openssh.enable = true;
  users.users.root.openssh.authorizedKeys.keys = [ keys.restic.publicKey ];
  environment.etc."wireguard/private.key" = {
    text = keys.laptop.privateKey;
    mode = "0600";
  };
  systemd.tmpfiles.settings.test-token = {
    "/root/.config/flashpods".d.mode = "0700";
    "/root/.config/flashpods/token".f = {
      mode = "0600";
      argument = keys.token;
    };
  };
  environment.systemPackages = [
    ours.flashpods
    pkgs.curl
    pkgs.git
    pkgs.jq
    pkgs.rsync
    (pkgs.writeShellScriptBin "mcp-session" ''
      exec ${ours.python.withPackages (p: [ p.mcp ])}/bin/python ${./mcp_session.py} "$@"
    '')
  ];
  virtualisation.vlans = [ 2 ];
}
