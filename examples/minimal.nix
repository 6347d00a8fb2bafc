# The smallest host: what is left to say when a machine has NixOS and a network.
{
  services.flashpods = {
    enable = true;
    wireguard.laptops.mine.publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
  };
}
