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

  # Of all modules of go.sum together; python/tests/integration/test_helper.py computes it anew.
  vendorHash = "sha256-rSYUvC05M9BXygNiXFzxvKYPEM/SeaEjmxFFewWn7u0=";

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
