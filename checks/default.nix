# The VM tests as the flake's checks, each by its file's name. What is told of them, and where each
# ran: docs/checks.md.
{ pkgs, module }:
pkgs.lib.mapAttrs (_: pkgs.testers.runNixOSTest) (
  import ./tests.nix {
    inherit (pkgs) lib;
    inherit module;
  }
)
