# A host, as README shows it. Keys, addresses and the agent's command are yours to change.
{
  networking.hostName = "flashpods";
  services.openssh.enable = true;
  users.users.root.openssh.authorizedKeys.keys = [
    "ssh-ed25519 AAAA… you@laptop"
  ];

  services.flashpods = {
    enable = true;
    # On the laptop: wg genkey | tee private.key | wg pubkey
    wireguard.laptops.mine.publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    images.prePull = [
      "docker.io/library/ubuntu:22.04"
      "docker.io/library/rust:1"
    ];
    settings.jobs = {
      reserve_cpus = 1; # for the host itself
      reserve_memory_gb = 2;
      worker.image = "docker.io/library/ubuntu:22.04";
      agent.git_url = "https://github.com/example/project.git";
    };
  };

  system.stateVersion = "26.05";
}
