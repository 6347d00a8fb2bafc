"""The command ``flashpods-mcp``: MCP over standard input and output, or streamable HTTP.

Standard output carries the protocol and nothing else; every word for a person goes to standard
error. Only what ``--help`` needs is imported at the top.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from typing import Final

from flashpods import __version__

__all__ = ["main"]

LEVELS: Final = ("debug", "info", "warning", "error")
EPILOG: Final = """\
The host and its token come from where `flashpods` takes them: ~/.config/flashpods/config.json,
FLASHPODS_HOST, FLASHPODS_API_TOKEN, FLASHPODS_API_TOKEN_FILE, or a keyring. No option takes a
token: every process may read arguments.

examples:
  flashpods mcp install claude-code   tell an agent how to start this program
  flashpods-mcp                       what the agent runs; speaks MCP on stdin and stdout
  flashpods-mcp --http                at http://127.0.0.1:8765/mcp, for this machine only

exit codes: 0 the client has left; 2 the command line or the configuration is wrong
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flashpods-mcp",
        description="The MCP server of Flashpods, for coding agents.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"flashpods-mcp {__version__}")
    parser.add_argument(
        "--log-level", choices=LEVELS, default="warning", help="for standard error (warning)"
    )
    http = parser.add_argument_group("streamable HTTP")
    http.add_argument("--http", action="store_true", help="serve HTTP instead of stdio")
    http.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    http.add_argument("--port", type=int, default=8765, help="port to listen on (8765)")
    http.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="further Host header"
    )
    http.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a further origin of a browser to answer",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until the client leaves; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 1 <= options.port <= 65535:
        parser.error(f"--port is {options.port}; it must be 1 to 65535")
    logging.basicConfig(
        stream=sys.stderr,
        level=options.log_level.upper(),
        format="flashpods-mcp: %(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    # The SDK builds some thousand models, which live to the end: nothing of them is garbage.
    gc.disable()
    from flashpods.mcp.server import build  # noqa: PLC0415 - the SDK takes half a second

    server = build(log_level=options.log_level.upper())
    gc.freeze()
    gc.enable()
    if not options.http:
        server.run("stdio")
        return 0

    from flashpods.client.errors import ConfigError  # noqa: PLC0415 - only for HTTP
    from flashpods.mcp.http import options_from, serve  # noqa: PLC0415 - likewise

    try:
        serve(
            server,
            options_from(
                options.host, options.port, options.allow_host, options.allow_origin, os.environ
            ),
        )
    except ConfigError as error:
        sys.stderr.write(f"flashpods-mcp: {error.message}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
