# The Python application: all of the host's and the laptop's programs but SPIRE and the job's helper.
{
  lib,
  python3Packages,
  fetchPypi,
}:
let
  inherit (lib.importTOML ../../python/pyproject.toml) project;

  # What nixpkgs lacks, or has too old; version and sha256 are those of python/requirements.lock.
  spiffe = python3Packages.buildPythonPackage rec {
    pname = "spiffe";
    version = "0.3.2";
    pyproject = true;
    src = fetchPypi {
      inherit pname version;
      sha256 = "949819e71869c86840c7740d6a9b0c616f0a19886899158da68dfdeb59bd0be1";
    };
    build-system = [ python3Packages.setuptools ];
    dependencies = with python3Packages; [
      grpcio
      cryptography
      pyjwt
      pyasn1
      pyasn1-modules
      pem
      protobuf
    ];
    pythonRelaxDeps = true;
    pythonImportsCheck = [ "spiffe" ];
  };

  sqlite-utils =
    if lib.versionAtLeast python3Packages.sqlite-utils.version "4.0" then
      python3Packages.sqlite-utils
    else
      python3Packages.buildPythonPackage {
        pname = "sqlite-utils";
        version = "4.2.1";
        pyproject = true;
        src = fetchPypi {
          pname = "sqlite_utils";
          version = "4.2.1";
          sha256 = "76114b6a5414714e6c70e5fa5c4781b301b590f6951b5da39c8cc60c21382ba1";
        };
        build-system = [ python3Packages.setuptools ];
        dependencies = with python3Packages; [
          click
          click-default-group
          pluggy
          python-dateutil
          sqlite-fts4
          tabulate
          pip
        ];
        pythonRelaxDeps = true;
        pythonImportsCheck = [ "sqlite_utils" ];
      };
in
python3Packages.buildPythonApplication {
  pname = "flashpods";
  inherit (project) version;
  pyproject = true;

  src = lib.fileset.toSource {
    root = ../../python;
    fileset = lib.fileset.unions [
      ../../python/pyproject.toml
      ../../python/src/flashpods
    ];
  };

  build-system = [ python3Packages.hatchling ];
  # As in pyproject.toml with its extra `host`, which a test compares.
  dependencies =
    with python3Packages;
    [
      asyncinotify
      cryptography
      fastapi
      httptools
      httpx
      mcp
      orjson
      podman
      prometheus-client
      pydantic
      pydantic-settings
      pyjwt
      rich
      structlog
      typer
      uvicorn
      uvloop
      zstandard
    ]
    ++ [
      spiffe
      sqlite-utils
    ];
  # nixpkgs has one version of each; the tests of ./dev run with the lock file's.
  pythonRelaxDeps = true;

  pythonImportsCheck = [
    "flashpods.api.main"
    "flashpods.cli.main"
    "flashpods.mcp.main"
    "flashpods.token.main"
  ];

  meta = {
    description = "One NixOS host as a coding agent's build, test and sub-agent machine";
    license = lib.licenses.asl20;
    mainProgram = "flashpods";
    platforms = lib.platforms.linux;
  };
}
