# The static helper that the host mounts into every job (main.go here).
{
  lib,
  buildGoModule,
}:
buildGoModule {
  pname = "flashpods-token";
  version = "0.1.0";

  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      (lib.fileset.fileFilter (file: file.hasExt "go") ./.)
      ./go.mod
      ./go.sum
    ];
  };

  # The hash of all modules of go.sum together, which only a build with a network can tell: it ends
  # with "got: sha256-…", which goes here. See CONTRIBUTING.md, "Nix".
  vendorHash = lib.fakeHash;

  subPackages = [ "." ];
  # Static: it runs in whatever image a job has.
  env.CGO_ENABLED = 0;
  ldflags = [
    "-s"
    "-w"
  ];

  meta = {
    description = "Gets a Flashpods job its tokens, by its SPIFFE identity";
    license = lib.licenses.asl20;
    mainProgram = "flashpods-token";
    platforms = lib.platforms.linux;
  };
}
