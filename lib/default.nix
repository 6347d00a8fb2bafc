# Pure functions, for the modules and for whoever builds on them: the flake's output `lib`.
{ lib }:
let
  # networkOf "10.0.0.1/24" → "10.0.0.0/24", IPv4 only
  networkOf =
    cidr:
    let
      parts = lib.splitString "/" cidr;
      prefix = lib.toInt (lib.last parts);
      free = octet: lib.min 8 (lib.max 0 (8 * (octet + 1) - prefix));
      size = octet: lib.foldl' (n: _: 2 * n) 1 (lib.range 1 (free octet));
      masked = octet: text: (lib.toInt text) / (size octet) * (size octet);
      octets = lib.imap0 masked (lib.splitString "." (builtins.head parts));
    in
    "${lib.concatMapStringsSep "." toString octets}/${toString prefix}";

  isIPv6 = lib.hasInfix ":";
  block = lib.concatStringsSep "\n\t\t";
  family = address: if isIPv6 address then "ip6" else "ip";
  tcp = port: "tcp dport ${toString port} accept";
in
{
  inherit isIPv6 networkOf;

  # isWithin "10.0.0.0/24" "10.0.0.7" → true, IPv4 only
  isWithin =
    network: address:
    networkOf "${address}/${lib.last (lib.splitString "/" network)}" == networkOf network;

  # The trust boundary's rules for `nft -f`, from what flashpods.boundary takes in Python. That checks
  # the parameters when a host is built, and that both give the same text.
  ruleset =
    p:
    let
      inherit (p.subordinates) first count;
      words = {
        inherit (p) interface;
        wireguard_port = toString p.wireguard_port;
        api_port = toString p.api_port;
        rsync_port = toString p.rsync_port;
        user = toString p.user;
        subordinates = "${toString first}-${toString (first + count - 1)}";
        private_verdict = if p.allow_private then "goto share" else "goto refuse";
        laptop_rules = block (
          map (a: ''iifname "${p.interface}" ${family a} saddr ${a} goto laptop'') p.laptops
        );
        laptop_ports = block (
          lib.optional (p.ssh == "laptops") (tcp p.ssh_port)
          ++ lib.optional (p.metrics == "laptops") (tcp p.metrics_port)
        );
        public_ports = lib.optionalString (p.ssh == "anybody") (tcp p.ssh_port);
        resolver_rules = block (
          lib.concatMap (
            a:
            map (protocol: "${family a} daddr ${a} ${protocol} dport 53 goto names") [
              "udp"
              "tcp"
            ]
          ) p.resolvers
        );
        network_rules = block (
          map (n: "${family n} daddr ${n} counter name job_to_wireguard goto refuse") p.networks
        );
        allowed_rules = block (map (n: "${family n} daddr ${n} goto share") p.allowed);
        new_flows = toString p.new_flows;
        burst = toString (4 * p.new_flows);
        name_bytes = toString (80 * p.new_flows);
        name_burst = toString (4 * 80 * p.new_flows);
        flow_rules =
          let
            each = (p.max_flows + 15) / 16;
            bits = list: "0x${lib.fixedWidthString 2 "0" (lib.toLower (lib.toHexString (2 * list)))}";
            rule =
              list:
              "th sport & 0x1e == ${bits list} ct count over ${toString each} counter name job_over_flows goto refuse";
          in
          block (map rule (lib.range 0 15));
      };
    in
    builtins.replaceStrings (map (name: "@${name}@") (lib.attrNames words)) (lib.attrValues words) (
      builtins.readFile ../modules/network/ruleset.nft
    );
}
