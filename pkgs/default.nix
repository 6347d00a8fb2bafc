# Our packages, from any nixpkgs: what the flake, the overlay and the module share.
{ pkgs }:
pkgs.lib.makeScope pkgs.newScope (self: {
  flashpods = self.callPackage ./flashpods/package.nix { };
  flashpods-token = self.callPackage ./flashpods-token/package.nix { };
  agent-image = self.callPackage ./agent-image/package.nix { };
  test-image = self.callPackage ./test-image/package.nix { };
  options = pkgs.writeText "options.md" (
    import ../lib/options.nix {
      inherit pkgs;
      inherit (pkgs) lib;
    }
  );
})
