# The flake of a host that has NixOS already, to be kept beside host.nix in a repository of yours:
#
#   nixos-rebuild switch --flake .#flashpods
{
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    flashpods.url = "github:flashpods/flashpods";
    flashpods.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, flashpods, ... }:
    {
      nixosConfigurations.flashpods = nixpkgs.lib.nixosSystem {
        modules = [
          flashpods.nixosModules.default
          ./host.nix
          ./hardware.nix # yours: /etc/nixos/hardware-configuration.nix and the boot loader
        ];
      };
    };
}
