"""What clients are told of a tool's effects, to decide whether to ask the user."""

from __future__ import annotations

from typing import Final

from mcp_types import ToolAnnotations

__all__ = ["KILLS", "READS", "SPAWNS", "WRITES_FILE"]

READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
# A job may reach the internet; two calls make two jobs.
SPAWNS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)
KILLS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
# It replaces a file of the same name.
WRITES_FILE: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
