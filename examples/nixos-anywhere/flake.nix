# A fresh machine, reached by ssh as root, becomes the host:
#
#   nix run github:nix-community/nixos-anywhere -- --flake .#flashpods --extra-files secrets root@ADDRESS
#
# secrets/ has what must be there at the first boot: etc/flashpods/api-token and
# etc/flashpods/secrets.json, mode 0600. The machine's disk is erased.
{
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    flashpods.url = "github:flashpods/flashpods";
    flashpods.inputs.nixpkgs.follows = "nixpkgs";
    disko.url = "github:nix-community/disko";
    disko.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    {
      nixpkgs,
      flashpods,
      disko,
      ...
    }:
    {
      nixosConfigurations.flashpods = nixpkgs.lib.nixosSystem {
        modules = [
          flashpods.nixosModules.default
          disko.nixosModules.disko
          ../host.nix
          ./disk.nix
        ];
      };
    };
}
