# The trust boundary: ruleset.nft filled in, and loaded before there is a network.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  fw = cfg.firewall;
  wg = cfg.wireguard;
  hardening = import ../hardening.nix;

  ours = import ../../lib { inherit lib; };
  laptops = lib.concatMap (laptop: laptop.addresses) (lib.attrValues wg.laptops);

  # What flashpods.boundary takes in Python: it checks them, and that its text is ours.
  parameters = {
    user = cfg.uid;
    subordinates = {
      first = cfg.subordinateIds.start;
      inherit (cfg.subordinateIds) count;
    };
    inherit (wg) interface networks;
    inherit laptops;
    wireguard_port = wg.port;
    api_port = cfg.settings.http.port;
    rsync_port = cfg.rsync.port;
    inherit (fw) ssh metrics resolvers;
    ssh_port = fw.sshPort;
    metrics_port = cfg.settings.http.metrics_port;
    allow_private = fw.allowPrivateNetworks;
    allowed = fw.allowedDestinations;
    max_flows = fw.maxFlows;
    new_flows = fw.newFlowsPerSecond;
  };
  parametersFile = pkgs.writeText "flashpods-boundary.json" (builtins.toJSON parameters);
in
{
  options.services.flashpods.firewall = {
    ssh = mkOption {
      type = types.enum [
        "nobody"
        "laptops"
        "anybody"
      ];
      default =
        if config.services.openssh.enable && config.services.openssh.openFirewall then
          "anybody"
        else
          "nobody";
      defaultText = lib.literalMD ''"anybody" if `services.openssh` is on and opens the firewall, else "nobody"'';
      description = ''
        Who reaches ssh. All else that comes in is dropped, whatever {option}`networking.firewall`
        says; "laptops" lets in the peers of WireGuard alone, once that works.
      '';
    };
    sshPort = mkOption {
      type = types.port;
      default = if config.services.openssh.ports == [ ] then 22 else builtins.head config.services.openssh.ports;
      defaultText = lib.literalExpression "builtins.head config.services.openssh.ports";
      description = "Port of ssh.";
    };
    metrics = mkOption {
      type = types.enum [
        "nobody"
        "laptops"
      ];
      default = "nobody";
      description = ''
        Who reaches the API's metrics from outside. For "laptops" set
        {option}`services.flashpods.settings.http.metrics_host` to the address in WireGuard as well.
      '';
    };
    resolvers = mkOption {
      type = types.listOf types.str;
      default =
        if config.services.resolved.enable then [ "127.0.0.53" ] else config.networking.nameservers;
      defaultText = lib.literalMD "systemd-resolved's `127.0.0.53`, or {option}`networking.nameservers` without it";
      example = [ "192.0.2.53" ];
      description = "The name servers of {file}`/etc/resolv.conf`; jobs may ask no other.";
    };
    allowPrivateNetworks = mkOption {
      type = types.bool;
      default = false;
      description = "Whether jobs reach private networks (RFC 1918 and the like) beside the internet.";
    };
    allowedDestinations = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.168.7.0/24" ];
      description = "Private networks that jobs may reach all the same.";
    };
    maxFlows = mkOption {
      type = types.ints.between 16 1048576;
      default = 16384;
      description = ''
        Flows (TCP connections, UDP associations, pings) that all jobs together may have open at once;
        a further one is refused. Each is an entry of the kernel's connection tracking table
        (`net.netfilter.nf_conntrack_max`: 262144 on a machine with more than 4 GB, 65536 below), and
        when that is full, nobody gets a new connection, the laptop included. Together with
        {option}`newFlowsPerSecond` jobs can hold at most `maxFlows + 120 × newFlowsPerSecond` of it:
        a closed connection is not counted, but in the table for two minutes yet. It is one share for
        all jobs, because their packets all leave as one user.
      '';
    };
    newFlowsPerSecond = mkOption {
      type = types.ints.between 1 65536;
      default = 500;
      description = ''
        Flows that all jobs together may begin in a second, after four seconds' worth at once; a
        further one is refused. Name servers get as many questions, by their bytes: one on this host
        begins a flow of its own for each.
      '';
    };
    ruleset = mkOption {
      type = types.package;
      internal = true;
      readOnly = true;
      description = "The rules, as nft reads them.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.resolved.enable = lib.mkIf (config.networking.nameservers == [ ]) (lib.mkDefault true);

    services.flashpods.firewall.ruleset = pkgs.writeTextFile {
      name = "flashpods-ruleset.nft";
      text = ours.ruleset parameters;
      checkPhase = ''
        ${cfg.package}/bin/flashpods-boundary ${./ruleset.nft} ${parametersFile} | cmp - "$target"
      '';
    };

    # Every table has to accept: ours is the stricter one.
    networking.firewall = {
      allowedUDPPorts = [ wg.port ];
      interfaces.${wg.interface}.allowedTCPPorts = [
        cfg.settings.http.port
        cfg.rsync.port
      ];
    };

    environment.etc."flashpods/ruleset.nft".source = fw.ruleset;

    systemd.services.flashpods-firewall = {
      description = "Flashpods' trust boundary";
      wantedBy = [
        "sysinit.target"
        "multi-user.target"
      ];
      wants = [ "network-pre.target" ];
      before = [
        "network-pre.target"
        "shutdown.target"
      ];
      after = [
        "local-fs.target"
        "systemd-modules-load.service"
        "nftables.service"
      ];
      conflicts = [ "shutdown.target" ];
      unitConfig.DefaultDependencies = false;
      # New rules are exchanged in one transaction; a stop would leave the host without.
      reloadIfChanged = true;
      serviceConfig = hardening.strict // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${lib.getExe' pkgs.nftables "nft"} -f ${fw.ruleset}";
        ExecReload = "${lib.getExe' pkgs.nftables "nft"} -f ${fw.ruleset}";
        CapabilityBoundingSet = [ "CAP_NET_ADMIN" ];
        RestrictAddressFamilies = [ "AF_NETLINK" ];
        TimeoutStartSec = "60s";
        # Before the network there is no /tmp of our own to be had either.
        PrivateTmp = false;
      };
    };
  };
}
