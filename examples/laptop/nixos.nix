# A laptop with NixOS: the programs, from flashpods.nixosModules.laptop, and WireGuard to the host, by
# wg-quick. The token goes to ~/.config/flashpods/token: `flashpods config init --token-stdin`.
{
  programs.flashpods.enable = true;

  networking.wg-quick.interfaces.wg0 = {
    address = [ "10.0.0.2/32" ];
    privateKeyFile = "/etc/wireguard/private.key"; # umask 077; wg genkey > /etc/wireguard/private.key
    peers = [
      {
        publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="; # on the host: wg show wg0 public-key
        endpoint = "198.51.100.10:51820"; # the host's address on the internet
        allowedIPs = [ "10.0.0.1/32" ];
        persistentKeepalive = 25; # behind a NAT
      }
    ];
  };
}
