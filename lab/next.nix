# HOST's next generation in the lab.
{
  imports = [
    ./host.nix
    ../checks/common/next.nix
  ];
}
