"""Where coding agents keep their MCP servers, and in what form. Facts only.

From the agents' own documentation, November 2026.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["AGENTS", "Agent", "entry", "place"]

TOOL_SECONDS: Final = 120  # a wait takes 95 s at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent: its files (None: it has none of that kind), its key and the entry's form."""

    title: str
    user: str | None  # below the home directory
    project: str | None  # below the project's directory
    key: str = "mcpServers"
    form: Literal["plain", "stdio", "codex", "opencode"] = "plain"


def _vscode() -> str:
    return (
        "Library/Application Support/Code/User/mcp.json"
        if sys.platform == "darwin"
        else ".config/Code/User/mcp.json"
    )


def _claude_desktop() -> str:
    base = "Library/Application Support" if sys.platform == "darwin" else ".config"
    return f"{base}/Claude/claude_desktop_config.json"


AGENTS: Final[Mapping[str, Agent]] = {
    "claude-code": Agent(
        title="Claude Code", user=".claude.json", project=".mcp.json", form="stdio"
    ),
    "claude-desktop": Agent(title="Claude Desktop", user=_claude_desktop(), project=None),
    "codex": Agent(
        title="Codex",
        user=".codex/config.toml",
        project=".codex/config.toml",
        key="mcp_servers",
        form="codex",
    ),
    "cursor": Agent(title="Cursor", user=".cursor/mcp.json", project=".cursor/mcp.json"),
    "gemini": Agent(
        title="Gemini CLI", user=".gemini/settings.json", project=".gemini/settings.json"
    ),
    "opencode": Agent(
        title="opencode",
        user=".config/opencode/opencode.json",
        project="opencode.json",
        key="mcp",
        form="opencode",
    ),
    "vscode": Agent(
        title="VS Code", user=_vscode(), project=".vscode/mcp.json", key="servers", form="stdio"
    ),
    "windsurf": Agent(title="Windsurf", user=".codeium/windsurf/mcp_config.json", project=None),
}


def entry(agent: Agent, command: list[str]) -> dict[str, Any]:
    """Return what the agent's file is to say of the server; never a token."""
    program, *arguments = command
    plain: dict[str, Any] = {"command": program, "args": arguments}
    if agent.form == "stdio":
        return {"type": "stdio", **plain}
    if agent.form == "codex":
        return {**plain, "tool_timeout_sec": TOOL_SECONDS}  # its default is 60
    if agent.form == "opencode":
        return {"type": "local", "command": command, "enabled": True}
    return plain


def place(agent: Agent, *, project: Path | None, env: Mapping[str, str]) -> Path | None:
    """Return the agent's file: of a project, or the user's; None if it has no such."""
    if project is not None:
        return None if agent.project is None else project / agent.project
    if agent.user is None:
        return None
    if agent.form == "codex" and env.get("CODEX_HOME"):
        return Path(env["CODEX_HOME"]) / "config.toml"
    return Path(env.get("HOME") or os.path.expanduser("~")) / agent.user  # noqa: PTH111 - no HOME
