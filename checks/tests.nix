# What each VM test is made of: every NAME.py beside this file, after common/prelude.py, on the nodes
# of common/.
{ lib, module }:
let
  names = map (lib.removeSuffix ".py") (
    builtins.filter (lib.hasSuffix ".py") (builtins.attrNames (builtins.readDir ./.))
  );

  test = name: {
    name = "flashpods-${lib.replaceStrings [ "_" ] [ "-" ] name}";
    globalTimeout = 1800;
    nodes = {
      host.imports = [
        module
        ./common/host.nix
      ];
      laptop = ./common/laptop.nix;
      internet = ./common/internet.nix;
    };
    testScript = builtins.readFile ./common/prelude.py + "\n" + builtins.readFile (./. + "/${name}.py");
  };
in
lib.genAttrs names test
