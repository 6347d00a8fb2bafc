# Of the tests alone. The keys of WireGuard and ssh are those that NixOS's own tests have.
{ pkgs }:
let
  pairs = import "${pkgs.path}/nixos/tests/wireguard/snakeoil-keys.nix";
  ssh = import "${pkgs.path}/nixos/tests/ssh-keys.nix" pkgs;
  oneLine = builtins.mapAttrs (_: builtins.replaceStrings [ "\n" ] [ "" ]);
in
{
  host = oneLine pairs.peer0;
  laptop = oneLine pairs.peer1;
  restic = {
    password = "0123456789abcdef";
    key = ssh.snakeOilEd25519PrivateKey; # a file
    publicKey = ssh.snakeOilEd25519PublicKey;
  };
  token = "0123456789abcdef0123456789abcdef";
  secrets = {
    anthropic_api_key = "sk-ant-test";
    github_token = "ghp_test";
  };
}
