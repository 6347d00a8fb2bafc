# The MCP SDK 2 and what it needs, as an overlay of Python packages, for a nixpkgs that still has 1.x:
#   python3.override { packageOverrides = import ./pkgs/python-mcp; }
# Wheels of PyPI; versions and digests are those of python/requirements.lock, a test compares them.
final: _prev:
let
  wheel =
    pname: version: hash: dependencies:
    final.buildPythonPackage {
      inherit pname version dependencies;
      format = "wheel";
      src = final.fetchPypi {
        pname = builtins.replaceStrings [ "-" ] [ "_" ] pname;
        inherit version hash;
        format = "wheel";
        dist = "py3";
        python = "py3";
      };
    };
in
{
  httpcore2 = wheel "httpcore2" "2.16.2" "sha256-FgUa4qQvd2AHVD8y3pNJoxeyPSy7ThRWtLrA6IuHQZo=" [
    final.h11
    final.truststore
  ];
  httpx2 = wheel "httpx2" "2.16.2" "sha256-8FwTqt5MRdvxyQYGR6EFjwrK1iOY+tludBJp7bM9RvU=" [
    final.anyio
    final.httpcore2
    final.idna
    final.truststore
    final.typing-extensions
  ];
  mcp-types = wheel "mcp-types" "2.3.0" "sha256-lo79va7fqwatrkDTeKNDlfEJDFkh1L48nN4oOq922R0=" [
    final.pydantic
    final.typing-extensions
  ];
  mcp = wheel "mcp" "2.3.0" "sha256-3QxEwInRZFPorjGjh3oAVNeiMUyqqB9eBUG5sXNLI3c=" [
    final.anyio
    final.cryptography
    final.httpx2
    final.jsonschema
    final.mcp-types
    final.opentelemetry-api
    final.pydantic
    final.pyjwt
    final.python-multipart
    final.sse-starlette
    final.starlette
    final.typing-extensions
    final.typing-inspection
    final.uvicorn
  ];
}
