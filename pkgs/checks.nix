# Checks without a virtual machine: packages build, Nix files are formatted and hold nothing unused, the
# example is a system, the committed option reference is the modules'.
{
  pkgs,
  self,
  packages,
}:
let
  inherit (pkgs) lib;
  check =
    name: tools: text:
    pkgs.runCommand "flashpods-check-${name}" { nativeBuildInputs = tools; } ''
      cd ${self}
      ${text}
      touch $out
    '';
in
{
  inherit (packages) flashpods flashpods-token;
  example = self.nixosConfigurations.example.config.system.build.toplevel;
  formatting = check "formatting" [ pkgs.nixfmt ] ''
    find . -name '*.nix' -print0 | xargs -0 nixfmt --check
  '';
  deadnix = check "deadnix" [ pkgs.deadnix ] "deadnix --fail .";
  options = check "options" [ pkgs.diffutils ] ''
    diff -u docs/options.md ${packages.options}
  '';
}
// lib.mapAttrs (_: image: image) { inherit (packages) agent-image test-image; }
