# A laptop with NixOS: WireGuard to the host, by wg-quick. Values in capitals are the host's.
{
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
