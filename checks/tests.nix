# What each VM test is made of: every NAME.py beside this file, after common/prelude.py, on the nodes
# of common/, and with what NAME.nix adds to them, where there is one.
{ lib, module }:
let
  names = map (lib.removeSuffix ".py") (
    builtins.filter (lib.hasSuffix ".py") (builtins.attrNames (builtins.readDir ./.))
  );

  own =
    name:
    let
      file = ./. + "/${name}.nix";
    in
    lib.optionalAttrs (builtins.pathExists file) (import file { inherit module; });

  test = name: {
    name = "flashpods-${lib.replaceStrings [ "_" ] [ "-" ] name}";
    globalTimeout = 1800;
    nodes = lib.zipAttrsWith (_: imports: { inherit imports; }) [
      {
        host.imports = [
          module
          ./common/host.nix
          ./common/secrets.nix
        ];
        laptop = ./common/laptop.nix;
        internet = ./common/internet.nix;
      }
      (own name)
    ];
    testScript = builtins.readFile ./common/prelude.py + "\n" + builtins.readFile (./. + "/${name}.py");
  };
in
lib.genAttrs names test
