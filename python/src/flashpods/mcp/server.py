"""The server: the SDK's MCPServer with our tools, resources and way of telling failures."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, InputRequiredResult
from mcp_types import Resource as ResourceRow

from flashpods import __version__
from flashpods.mcp import failures, resources
from flashpods.mcp.batches import Batches
from flashpods.mcp.host import Host, isolated
from flashpods.mcp.tasks import WaitTasks
from flashpods.mcp.tools import artifacts, jobs, many, output, wait

__all__ = ["FlashpodsServer", "build"]

log = logging.getLogger(__name__)

INSTRUCTIONS: Final = """\
Flashpods runs commands and sub-agents in containers on a remote host, away from this machine.
Use it for builds, test suites, benchmarks and anything long or heavy; use the local shell for what
takes seconds.

1. spawn_worker pushes a directory (it is /work, read-only, in the job) and runs a command in it.
   It returns a job_id at once; the job goes on whatever happens here.
2. wait_for_job waits up to 95 s. Call it again while `finished` is false. Do other work meanwhile.
3. If it failed, search_output shows the lines around the first failure; get_job_output the end.
4. What the command writes to /artifacts is kept for an hour: get_job_artifacts, download_artifact.

Several commands on the same files: one spawn_many instead of many spawn_worker; it pushes once and
queues what the host has no room for. A task for another agent, which may change files and commits
to a branch: spawn_sub_agent. Copy writable files first: `cp -r /work /tmp/w && cd /tmp/w && make`.
After a restart list_jobs finds the jobs again. Errors are {"error", "message"}: do what it says.
"""


class FlashpodsServer(MCPServer[Any]):
    """Refuses unknown arguments, tells failures as JSON, lists the recent jobs' logs."""

    def __init__(self, host: Host, *, log_level: Any = "WARNING") -> None:
        """Register everything; nothing is connected yet."""
        self.host = host
        self.batches = Batches(host)

        @asynccontextmanager
        async def lifespan(_: MCPServer[Any]) -> AsyncIterator[Host]:
            try:
                yield host
            finally:
                await isolated(self.aclose())

        super().__init__(
            name="flashpods",
            title="Flashpods",
            description="Builds, tests and sub-agents in containers on a Flashpods host",
            instructions=INSTRUCTIONS,
            version=__version__,
            log_level=log_level,
            lifespan=lifespan,
            extensions=[WaitTasks(host)],
        )
        for module in (jobs, wait, many, output, artifacts):
            module.register(self, host, self.batches)
        resources.register(self, host)
        for tool in self._tool_manager.list_tools():
            tool.parameters["additionalProperties"] = False

    async def aclose(self) -> None:
        """Stop the batches' queues and close the connections; jobs go on."""
        await self.batches.aclose()
        await self.host.aclose()

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; every failure is a result with ``{"error", "message"}``."""
        tool = self._tool_manager.get_tool(name)
        if tool is not None:
            wrong = failures.unknown_arguments(arguments, tool.parameters.get("properties", {}))
            if wrong is not None:
                return failures.failed({"error": "invalid_arguments", "message": wrong})
        try:
            return await isolated(super().call_tool(name, arguments, context))
        except ToolError as error:
            return failures.as_result(name, error)

    async def list_resources(self) -> list[ResourceRow]:
        """List the logs and artifact lists of the recent jobs."""
        return [*await super().list_resources(), *await isolated(resources.recent(self.host))]


def build(*, log_level: Any = "WARNING") -> FlashpodsServer:
    """Return the server for the configuration of this user."""
    return FlashpodsServer(Host(), log_level=log_level)
