"""``./dev nix``: the NixOS modules, really evaluated, and what the lab boots of them."""
