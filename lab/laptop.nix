# LAPTOP of the lab: the example as it is.
{
  imports = [ ../examples/laptop/nixos.nix ];
}
