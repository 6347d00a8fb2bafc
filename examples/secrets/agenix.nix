# The host's secrets by agenix: add `agenix.nixosModules.default` to the modules, and this file.
{ config, ... }:
{
  age.secrets = {
    flashpods-api-token.file = ./api-token.age;
    flashpods-secrets.file = ./secrets.json.age; # {"anthropic_api_key": "…", "github_token": "…"}
    flashpods-wireguard.file = ./wireguard.age;
  };

  services.flashpods = {
    apiTokenFile = config.age.secrets.flashpods-api-token.path;
    secretsFile = config.age.secrets.flashpods-secrets.path;
    wireguard = {
      privateKeyFile = config.age.secrets.flashpods-wireguard.path;
      generatePrivateKey = false;
    };
  };
}
