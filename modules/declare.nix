# Options in a line: what the modules declare again and again.
{ lib }:
let
  inherit (lib) mkOption types;
in
rec {
  # key TYPE DEFAULT DESCRIPTION
  key =
    type: default: description:
    mkOption { inherit type default description; };

  # keyLike TYPE DEFAULT EXAMPLE DESCRIPTION: where the default does not show what else there is.
  keyLike =
    type: default: example: description:
    key type default description // { inherit example; };

  # Files outside of the Nix store: strings in the end, so that Nix does not copy them into it, where
  # everybody could read them.
  outside =
    default: description:
    key types.path default description // { apply = toString; };
  outsideOrNone =
    description:
    key (types.nullOr types.path) null description
    // {
      apply = path: if path == null then null else toString path;
    };
}
