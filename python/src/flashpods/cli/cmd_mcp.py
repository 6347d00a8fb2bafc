"""``flashpods mcp …``: options and help."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from flashpods.cli.app import Json, examples
from flashpods.cli.mcp_agents import AGENTS

__all__ = ["mcp"]

mcp = typer.Typer(
    help="The MCP server, for coding agents.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class AgentName(Enum):
    """The agents that ``install`` knows: the keys of ``AGENTS``."""

    CLAUDE_CODE = "claude-code"
    CLAUDE_DESKTOP = "claude-desktop"
    CODEX = "codex"
    CURSOR = "cursor"
    GEMINI = "gemini"
    OPENCODE = "opencode"
    VSCODE = "vscode"
    WINDSURF = "windsurf"


@mcp.callback()
def _group() -> None:
    """Set up the MCP server, for coding agents."""


@mcp.command(
    "install",
    epilog=examples(
        "flashpods mcp install claude-code             for you, in every project",
        "flashpods mcp install cursor --project .      for this project, to be committed",
        "flashpods mcp install codex --print           show what to add by hand",
        "flashpods mcp install vscode --command 'uvx --from flashpods flashpods-mcp'",
    ),
)
def install(
    agent: Annotated[AgentName, typer.Argument(metavar="AGENT", help=", ".join(AGENTS))],
    *,
    project: Annotated[
        Path | None,
        typer.Option("--project", help="Write to this project's file instead of yours."),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Show it and write nothing.")] = False,
    command: Annotated[
        str | None, typer.Option("--command", help="How to start flashpods-mcp.")
    ] = None,
    json: Json = False,
) -> None:
    """Put the server into a coding agent's configuration, beside what is there.

    Doing it again changes nothing. The token is never written there: the server takes it from
    where flashpods does.
    """
    from flashpods.cli.mcp_install import InstallOptions, install  # noqa: PLC0415 - not for --help

    words = None
    if command is not None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise typer.BadParameter(f"{error}: {command!r}", param_hint="--command") from error
        if not words:
            raise typer.BadParameter("it is empty", param_hint="--command")
    options = InstallOptions(agent=agent.value, project=project, show=show, command=words)
    raise typer.Exit(install(options, as_json=json))
