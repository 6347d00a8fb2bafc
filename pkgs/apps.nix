# `nix run .#demo` and `nix run .#validate`.
{
  pkgs,
  packages,
  checks,
}:
let
  app = name: description: text: {
    type = "app";
    program = "${pkgs.writeShellScript "flashpods-${name}" text}";
    meta.description = description;
  };
in
{
  demo = app "demo" "Boot a host, a laptop and an internet as virtual machines, and run a job end to end" ''
    exec ${checks.job_life.driver}/bin/nixos-test-driver "$@"
  '';
  validate = app "validate" "Check a live host: run it there, as root" ''
    exec ${packages.flashpods}/bin/flashpods-admin validate "$@"
  '';
}
