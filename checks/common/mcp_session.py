"""A session with ``flashpods-mcp`` over stdio, by the protocol's official client: runs on LAPTOP.

Standard input is a JSON list of steps ``[tool, arguments]``; ``["read", {"uri": …}]`` reads a
resource. ``$job_id`` in an argument, or any other field's name, is what the latest answer that has
it says. Standard output is a JSON list, first the tools' names, then an answer a step:
``{"step", "failed", "answer"}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import string
import sys
from typing import Any

from mcp import Client, StdioServerParameters

SECONDS = 240


def filled(value: Any, known: dict[str, str]) -> Any:
    """Put what is known into every text of a value."""
    if isinstance(value, str):
        return string.Template(value).safe_substitute(known)
    if isinstance(value, list):
        return [filled(item, known) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, known) for key, item in value.items()}
    return value


async def read(client: Client, uri: str) -> dict[str, Any]:
    """Read a resource; return its texts."""
    result = await client.read_resource(uri)
    return {"failed": False, "answer": [getattr(c, "text", None) for c in result.contents]}


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool; return what it answered."""
    result = await client.call_tool(tool, arguments)
    failed = bool(result.is_error)
    answer = json.loads(result.content[0].text) if failed else result.structured_content
    return {"failed": failed, "answer": answer}


async def session(steps: list[Any]) -> list[dict[str, Any]]:
    """Start a server, take the steps, leave."""
    server = StdioServerParameters(command="flashpods-mcp", env=dict(os.environ))
    known: dict[str, str] = {}
    done = []
    async with asyncio.timeout(SECONDS), Client(server) as client:
        tools = (await client.list_tools()).tools
        done.append({"step": "tools", "failed": False, "answer": [tool.name for tool in tools]})
        for name, arguments in steps:
            given = filled(arguments, known)
            asked = read(client, given["uri"]) if name == "read" else call(client, name, given)
            made = await asked
            done.append({"step": name, **made})
            if isinstance(made["answer"], dict):
                known |= {k: v for k, v in made["answer"].items() if isinstance(v, str)}
    return done


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(session(json.load(sys.stdin)))))
