# The Python application: everything of the host and of the laptop but SPIRE and the job's helper.
{
  lib,
  python3Packages,
}:
let
  project = lib.importTOML ../../python/pyproject.toml;
in
python3Packages.buildPythonApplication {
  pname = "flashpods";
  inherit (project.project) version;
  pyproject = true;

  src = lib.fileset.toSource {
    root = ../../python;
    fileset = lib.fileset.unions [
      ../../python/pyproject.toml
      ../../python/src/flashpods
    ];
  };

  build-system = [ python3Packages.hatchling ];
  dependencies = [ python3Packages.fastapi ];
  meta.mainProgram = "flashpods";
}
