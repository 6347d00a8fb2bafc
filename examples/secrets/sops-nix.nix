# The host's secrets by sops-nix: add `sops-nix.nixosModules.sops` to the modules, and this file.
{ config, ... }:
{
  sops = {
    defaultSopsFile = ./secrets.yaml;
    secrets = {
      "flashpods/api-token".restartUnits = [ "flashpods-api.service" ];
      # One string, itself JSON: {"anthropic_api_key": "…", "github_token": "…"}
      "flashpods/secrets".restartUnits = [ "flashpods-token-service.service" ];
      "flashpods/wireguard" = { };
    };
  };

  services.flashpods = {
    apiTokenFile = config.sops.secrets."flashpods/api-token".path;
    secretsFile = config.sops.secrets."flashpods/secrets".path;
    wireguard = {
      privateKeyFile = config.sops.secrets."flashpods/wireguard".path;
      generatePrivateKey = false;
    };
  };
}
