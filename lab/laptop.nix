# LAPTOP of the lab: the example as it is.
{
  imports = [
    ../modules/laptop
    ../examples/laptop/nixos.nix
  ];
}
