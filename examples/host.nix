# A host, as README shows it. Keys and addresses are yours to change; docs/agents.md has what agents run.
{
  networking.hostName = "flashpods";
  services.openssh.enable = true;
  users.users.root.openssh.authorizedKeys.keys = [
    "ssh-ed25519 AAAA… you@laptop"
  ];

  services.flashpods = {
    enable = true;
    # The public part of the key that the laptop makes (examples/laptop).
    wireguard.laptops.mine.publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    images.prePull = [ "docker.io/library/rust:1" ];
    settings.jobs = {
      reserve_cpus = 1; # for the host itself
      reserve_memory_gb = 2;
      worker.image = "docker.io/library/ubuntu:22.04";
      agent.git_url = "https://github.com/example/project.git";
    };
  };

  system.stateVersion = "26.05";
}
