# HOST of the lab: the smallest example, and what a machine without an internet needs besides.
{ config, ... }:
{
  imports = [
    ../modules
    ../examples/minimal.nix
    ../checks/common/elsewhere.nix
  ];

  networking.nameservers = [ "127.0.0.53" ]; # the lab's own resolver

  services.flashpods = {
    # No registry: the lab imports its image.
    images = {
      prePull = [ ];
      agent = null;
    };
    # At a test's pace.
    monitoring = {
      enable = true;
      interval = "1s";
    };
    settings = {
      uploads.max_bytes = 256 * 1024 * 1024; # a push over it takes seconds
      backup = {
        artifacts = true;
        logs = true;
      };
      jobs.worker.image = "localhost/lab:busybox";
      jobs.agent.image = "localhost/lab:agent";
      jobs.agent.command = "sh .agent.sh"; # a tree's own stand-in for a model
      # The lab's kernel lacks the controllers; ./dev vm has them.
      development.allow_unenforced_limits = true;
      # The disk is the real machine's, and may be nearly full.
      disk = {
        warn_percent = 95;
        critical_percent = 98;
        guard_percent = 99;
      };
    };
  };

  # By a build of its own, whose outcome the lab has not: promtool runs in ./dev monitoring.
  services.prometheus.checkConfig = false;

  system.stateVersion = config.system.nixos.release;
}
