"""The helper in real jobs: identity, tokens and git, without a secret where others look."""

from __future__ import annotations

import json

import identity_rig as rig
import pytest
from support import Connected

HELPER = "/usr/local/bin/flashpods-token"


@pytest.mark.parametrize("kind", ["worker", "agent"])
async def test_whoami(host: Connected, kind: str) -> None:
    said = await rig.run_job(host.client, kind, f"{HELPER} whoami")
    assert f"{rig.DOMAIN}/{kind}" in said


@pytest.mark.parametrize(
    ("kind", "names"),
    [("worker", ["GITHUB_TOKEN"]), ("agent", ["ANTHROPIC_API_KEY", "GITHUB_TOKEN"])],
)
async def test_a_command_gets_what_is_granted(host: Connected, kind: str, names: list[str]) -> None:
    said = await rig.run_job(
        host.client,
        kind,
        f"{HELPER} exec -- python3 -c 'import json, os; print(json.dumps(dict(os.environ)))'",
    )
    env = json.loads(said.splitlines()[-1])
    for name in ("ANTHROPIC_API_KEY", "GITHUB_TOKEN"):
        assert env.get(name) == (rig.SECRETS[name.lower()] if name in names else None)


async def test_git_asks_the_helper_for_its_hosts_only(host: Connected) -> None:
    ask = "printf 'protocol=https\\nhost=%s\\n\\n' {} | git credential fill 2>&1"
    said = await rig.run_job(host.client, "worker", f"{ask.format('github.com')}; true")
    assert f"password={rig.SECRETS['github_token']}" in said.splitlines()
    said = await rig.run_job(host.client, "worker", f"{ask.format('evil.example')}; true")
    assert rig.SECRETS["github_token"] not in said
    assert "terminal prompts disabled" in said
