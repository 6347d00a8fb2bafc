# The internet: it joins the two, and answers on the ports of the web and of name servers.
{ lib, ... }:
let
  address = ip: {
    address = ip;
    prefixLength = 24;
  };
in
{
  boot.kernel.sysctl."net.ipv4.ip_forward" = 1;
  networking = {
    firewall.enable = false;
    useDHCP = false;
    interfaces = {
      eth1.ipv4.addresses = lib.mkForce [ (address "198.51.100.1") ];
      eth2.ipv4.addresses = lib.mkForce [ (address "192.0.2.1") ];
      lo.ipv4.addresses = map (ip: (address ip) // { prefixLength = 32; }) [
        "203.0.113.80"
        "203.0.113.53"
        "169.254.169.254"
        "192.168.99.99"
        "172.16.5.5"
      ];
    };
  };
  services.nginx = {
    enable = true;
    virtualHosts.default = {
      default = true;
      listen =
        map
          (port: {
            addr = "0.0.0.0";
            inherit port;
          })
          [
            80
            443
            53
            853
            8080
            873
          ];
      locations."/".return = "200 internet";
    };
  };
  virtualisation.vlans = [
    1
    2
  ];
}
