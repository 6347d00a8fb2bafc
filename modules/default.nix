# Flashpods as a NixOS module, `services.flashpods`: one file a concern, this one only imports them.
{
  imports = [
    ./options.nix
    ./settings.nix
    ./asserts.nix
    ./host.nix
    ./podman.nix
    ./images.nix
    ./api.nix
    ./backup.nix
    ./cleanup.nix
    ./token-service.nix
    ./rsyncd.nix
    ./spire/server.nix
    ./spire/agent.nix
    ./spire/entries.nix
    ./network/wireguard.nix
    ./network/firewall.nix
    ./monitoring
    ./validation.nix
  ];
}
