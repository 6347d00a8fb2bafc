# What a machine has before Flashpods is deployed to it: its keys and secrets.
{ pkgs, ... }:
let
  keys = import ./keys.nix { inherit pkgs; };
in
{
  environment.etc = {
    "wireguard/private.key" = {
      text = keys.host.privateKey;
      mode = "0600";
    };
    "flashpods/api-token" = {
      text = keys.token;
      mode = "0600";
    };
    "flashpods/restic-password" = {
      text = keys.restic.password;
      mode = "0600";
    };
    "flashpods/restic-key" = {
      source = keys.restic.key;
      mode = "0600";
    };
    "flashpods/secrets.json" = {
      text = builtins.toJSON keys.secrets;
      mode = "0600";
    };
  };
}
