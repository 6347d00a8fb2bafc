"""What a client sees of the server, and that docs/mcp.md says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from flashpods.client.errors import ConfigError
from flashpods.mcp.host import Host
from flashpods.mcp.server import FlashpodsServer

DOCUMENT = Path(__file__).parents[3] / "docs" / "mcp.md"
# Contract, section 9: exact names and parameters; "?" may be left out.
CONTRACT = {
    "spawn_worker": "command files? image? cpus? memory_gb? timeout_minutes?",
    "spawn_sub_agent": "task git_branch files? context? cpus? memory_gb? timeout_minutes?",
    "get_job_status": "job_id",
    "get_job_output": "job_id tail?",
    "get_job_artifacts": "job_id",
    "download_artifact": "job_id artifact_name save_to?",
    "list_jobs": "status? limit?",
    "kill_job": "job_id",
}
READS = {
    "get_job_status", "get_job_output", "get_job_artifacts", "list_jobs", "wait_for_job",
    "wait_for_many", "search_output",
}  # fmt: skip


def no_config() -> Any:
    raise ConfigError("none here", code="missing_token")


@pytest.fixture
async def tools() -> dict[str, Any]:
    async with Client(FlashpodsServer(Host(no_config))) as client:
        return {tool.name: tool for tool in (await client.list_tools()).tools}


def parameters(tool: Any) -> str:
    needed = tool.input_schema.get("required", [])
    return " ".join(n if n in needed else f"{n}?" for n in tool.input_schema["properties"])


async def test_the_contracts_tools_have_its_names_and_parameters(tools: dict[str, Any]) -> None:
    assert {name: parameters(tools[name]) for name in CONTRACT} == CONTRACT
    assert set(tools) - set(CONTRACT) == {
        "wait_for_job", "spawn_many", "wait_for_many", "search_output",
    }  # fmt: skip
    files = tools["spawn_worker"].input_schema["$defs"]["Files"]
    assert list(files["properties"]) == ["local_path", "exclude"]
    assert files["required"] == ["local_path"]


async def test_every_tool_says_what_it_does_takes_and_answers(tools: dict[str, Any]) -> None:
    for name, tool in tools.items():
        hints = tool.annotations
        assert tool.title, name
        assert 100 < len(tool.description) < 1500, name
        assert tool.input_schema["additionalProperties"] is False, name
        assert tool.output_schema["type"] == "object", name
        assert hints.read_only_hint == (name in READS), name
        assert hints.open_world_hint is name.startswith("spawn"), name
        if name not in READS:
            assert hints.destructive_hint is (name in {"kill_job", "download_artifact"}), name
            assert hints.idempotent_hint is (not name.startswith("spawn")), name


async def test_the_table_of_the_document_is_the_server(tools: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE)
    written = {name: " ".join(re.findall(r"`([\w?]+)`", given)) for name, given in rows}
    assert written == {name: parameters(tool) for name, tool in tools.items()}


async def test_instructions_and_prompts() -> None:
    server = FlashpodsServer(Host(no_config))
    for name in re.findall(
        r"\b(?:spawn|wait|get|list|kill|search|download)_\w+", server.instructions or ""
    ):
        assert name in {tool.name for tool in await server.list_tools()}, name
