{
  description = "Flashpods: one NixOS host as a coding agent's build, test and sub-agent machine";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAll = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      ours = pkgs: import ./pkgs { inherit pkgs; };
    in
    {
      lib = import ./lib { inherit lib; };

      overlays.default = final: _prev: {
        inherit (ours final) flashpods flashpods-token;
      };

      nixosModules = rec {
        flashpods.imports = [ ./modules ];
        default = flashpods;
        laptop.imports = [ ./modules/laptop ];
      };

      # For home-manager.
      homeModules = rec {
        flashpods.imports = [ ./modules/laptop/home.nix ];
        default = flashpods;
      };

      packages = forAll (
        pkgs:
        let
          packages = ours pkgs;
        in
        {
          inherit (packages)
            flashpods
            flashpods-token
            agent-image
            test-image
            options
            ;
          default = packages.flashpods;
        }
      );

      apps = forAll (
        pkgs:
        import ./pkgs/apps.nix {
          inherit pkgs;
          packages = ours pkgs;
          checks = self.checks.${pkgs.stdenv.hostPlatform.system};
        }
      );

      devShells = forAll (pkgs: {
        default = pkgs.mkShell {
          # ./dev brings the rest, from the lock file.
          packages = with pkgs; [
            deadnix
            go
            nixfmt
            python3
            ruff
            shellcheck
            uv
          ];
        };
      });

      checks = forAll (
        pkgs:
        import ./pkgs/checks.nix {
          inherit pkgs self;
          packages = ours pkgs;
        }
        // import ./checks {
          inherit pkgs;
          module = self.nixosModules.default;
        }
      );

      formatter = forAll (pkgs: pkgs.nixfmt-tree);

      nixosConfigurations.example = lib.nixosSystem {
        modules = [
          self.nixosModules.default
          ./examples/host.nix
          ./examples/hardware.nix
        ];
      };
    };
}
