# Of the tests alone. The keys of WireGuard are those that NixOS's own tests have.
{ pkgs }:
let
  pairs = import "${pkgs.path}/nixos/tests/wireguard/snakeoil-keys.nix";
  oneLine = builtins.mapAttrs (_: builtins.replaceStrings [ "\n" ] [ "" ]);
in
{
  host = oneLine pairs.peer0;
  laptop = oneLine pairs.peer1;
  token = "0123456789abcdef0123456789abcdef";
  secrets = {
    anthropic_api_key = "sk-ant-test";
    github_token = "ghp_test";
  };
}
