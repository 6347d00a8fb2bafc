# Beside the common nodes: an empty machine elsewhere, of HOST's configuration and without its secrets.
{ module }:
{
  spare =
    { lib, ... }:
    {
      imports = [
        module
        ./common/host.nix
      ];
      networking = {
        interfaces.eth1.ipv4.addresses = lib.mkOverride 40 [
          {
            address = "198.18.1.10";
            prefixLength = 24;
          }
        ];
        defaultGateway.address = lib.mkOverride 40 "198.18.1.1";
      };
      virtualisation.vlans = lib.mkOverride 40 [ 3 ];
    };

  internet =
    { lib, ... }:
    {
      networking.interfaces.eth3.ipv4.addresses = lib.mkForce [
        {
          address = "198.18.1.1";
          prefixLength = 24;
        }
      ];
      virtualisation.vlans = [ 3 ];
    };
}
