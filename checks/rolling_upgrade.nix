# Beside the common nodes: HOST's next generation, as a specialisation of the first.
_: {
  host.specialisation.next.configuration.imports = [ ./common/next.nix ];
}
