# The static helper that the host mounts into every job (pkgs/flashpods-token/main.go).
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
  vendorHash = lib.fakeHash;
  meta.mainProgram = "flashpods-token";
}
