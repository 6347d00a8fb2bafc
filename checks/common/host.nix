# HOST: the smallest configuration, an image and a name server. Its secrets are in secrets.nix.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  keys = import ./keys.nix { inherit pkgs; };
  ours = import ../../pkgs { inherit pkgs; };
  socket = "unix:///run/flashpods/podman.sock";
  image = "localhost/flashpods/test:latest";
  agentImage = "localhost/flashpods/agent:latest";
in
{
  imports = [ ./elsewhere.nix ];

  services.flashpods = {
    enable = true;
    wireguard.laptops.mine.publicKey = keys.laptop.publicKey;
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
      jobs = {
        worker.image = image;
        agent.image = agentImage;
        agent.command = "sh .agent.sh"; # a tree's own stand-in for a model
      };
      backup = {
        artifacts = true;
        logs = true;
      };
    };
  };

  # No registry is near: the images come with the machine.
  systemd.services.test-image = {
    description = "The images of the tests' jobs";
    wantedBy = [ "multi-user.target" ];
    requires = [ "podman-socket-flashpods.socket" ];
    after = [ "podman-socket-flashpods.socket" ];
    before = [ "flashpods-api.service" ];
    path = [ pkgs.podman ];
    script = ''
      podman --url ${socket} load --input ${ours.test-image}
      podman --url ${socket} load --input ${ours.agent-image}
    '';
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
    };
  };

  # Every name is the internet node.
  services.dnsmasq = {
    enable = true;
    resolveLocalQueries = false;
    settings = {
      listen-address = "127.0.0.53";
      bind-interfaces = true;
      no-resolv = true;
      address = "/#/203.0.113.80";
    };
  };
  networking = {
    nameservers = [ "127.0.0.53" ];
    interfaces.eth1.ipv4.addresses = lib.mkForce [
      {
        address = "198.51.100.10";
        prefixLength = 24;
      }
    ];
    defaultGateway = {
      address = "198.51.100.1";
      interface = "eth1";
    };
    useDHCP = false;
  };

  environment.systemPackages = [
    pkgs.podman
    config.services.flashpods.spire.package
  ];
  virtualisation = {
    vlans = [ 1 ];
    cores = 2;
    memorySize = 4096;
    diskSize = 8192;
  };
}
