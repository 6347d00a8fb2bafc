# ruff: noqa: ASYNC240 - /proc and short starts do not block
"""Attack 10: after a whole run the token is where it belongs and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from attacker import get, raw, token_of
from scoring import MB, Score
from support import Connected

from flashpods_dev.machine import UID
from flashpods_dev.stack import MiniStack


def in_processes(token: bytes, what: str) -> list[Path]:
    """Return the processes whose ``cmdline`` or ``environ`` holds the token."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it just ended
            if token in (process / what).read_bytes():
                found.append(process)
    return found


def kept(stack: MiniStack) -> Iterator[Path]:
    """Yield the files of a stack: logs, database and WAL, the engine's, artifacts; no images."""
    for path in stack.layout.root.rglob("*"):
        if path == stack.layout.token or not path.is_file() or path.is_symlink():
            continue
        if "engine/store/overlay/" not in str(path) and path.stat().st_size <= 200 * MB:
            yield path


def faults_that_log(token: str) -> tuple[bytes, ...]:
    """Return requests with a wrong token, bad HTTP, an unknown path that holds it."""
    secret = token.encode()
    return (
        get("/jobs", f"wrong{token}"),
        get(f"/jobs/{token}", token),
        b"GET /?" + secret + b" HTTP/1.1\r\nAuthorization: Bearer " + secret + b"\r\n\r\n",
        secret + b"\r\n\r\n",
    )


@pytest.mark.attack(10, "the token after a run: processes, engine, logs, database, core dumps")
async def test_the_token_is_nowhere(host: Connected, scratch: Path, score: Score) -> None:
    token = token_of(host)
    (scratch / "f").write_text("x")
    upload = await support.pushed(host, scratch)
    ran = await support.run(
        host.client,
        "env; cat /proc/*/environ /proc/*/cmdline; ls -R /run; echo x > /artifacts/a",
        files_id=upload,
    )
    running = await support.submit(host.client, "sleep 600")
    await support.until(host.client, running, "running")
    for request in faults_that_log(token):
        await raw(host.stack.port, request)
    for what in ("cmdline", "environ"):
        with score.attempt():
            assert in_processes(token.encode(), what) == []
    with score.attempt():
        done = host.stack.run_podman("inspect", f"job_{running}")
        assert done.returncode == 0
        assert token not in done.stdout
    await host.client.delete(f"/jobs/{running}")
    await support.ended(host.client, running)
    with score.attempt():
        text = await support.output(host.client, ran["id"])
        assert token not in text
        assert "FLASHPODS_SETTINGS" not in text
    with score.attempt():
        assert [path for path in kept(host.stack) if token.encode() in path.read_bytes()] == []
    with score.attempt():
        root = host.stack.layout.root
        found = [p for p in root.rglob("core*") if p.is_file() and "store" not in p.parts]
        assert not found
        assert not list(root.rglob("*.core"))


@pytest.mark.attack(10, "who can read the token's file, the API's memory and its core")
async def test_who_can_read(host: Connected, score: Score) -> None:
    with score.attempt():
        info = host.stack.layout.token.stat()
        assert (info.st_mode & 0o077, info.st_uid) == (0, UID)
    with score.attempt():
        limits = Path(f"/proc/{host.stack.api.pid}/limits").read_text()
        (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core.split()[4] == "0", f"a core dump of the API would hold the token: {core}"
    with score.attempt():
        status = await host.client.get("/openapi.json")
        assert token_of(host) not in status.text
        answer = await host.client.get("/health")
        assert token_of(host) not in answer.text
