# Our packages, from any nixpkgs: what the flake, the overlay and the module share.
{ pkgs }:
let
  # The lock file's MCP SDK is 2.x.
  python =
    if pkgs.lib.versionAtLeast pkgs.python3Packages.mcp.version "2.3" then
      pkgs.python3
    else
      pkgs.python3.override { packageOverrides = import ./python-mcp; };
in
pkgs.lib.makeScope pkgs.newScope (self: {
  inherit python;
  flashpods = self.callPackage ./flashpods/package.nix { python3Packages = python.pkgs; };
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
