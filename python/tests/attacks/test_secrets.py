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


def processes() -> Iterator[Path]:
    yield from Path("/proc").glob("[0-9]*")


@pytest.mark.attack(10, "the token after a run: processes, engine, logs, database, core dumps")
async def test_the_token_is_nowhere(host: Connected, scratch: Path, score: Score) -> None:
    token = token_of(host).encode()
    (scratch / "f").write_text("x")
    upload = await support.pushed(host, scratch)
    ran = await support.run(
        host.client,
        "env; cat /proc/*/environ /proc/*/cmdline; ls -R /run; echo x > /artifacts/a",
        files_id=upload,
    )
    running = await support.submit(host.client, "sleep 60")
    await support.until(host.client, running, "running")
    # Faults that log: a wrong token, bad HTTP, an unknown path that holds it.
    for request in (
        get("/jobs", "wrong" + token.decode()),
        get(f"/jobs/{token.decode()}", token.decode()),
        b"GET /?" + token + b" HTTP/1.1\r\nAuthorization: Bearer " + token + b"\r\n\r\n",
        token + b"\r\n\r\n",
    ):
        await raw(host.stack.port, request)
    with score.attempt():
        for process in processes():
            with contextlib.suppress(OSError):
                assert token not in (process / "cmdline").read_bytes(), process
    with score.attempt():
        for process in processes():
            with contextlib.suppress(OSError):
                assert token not in (process / "environ").read_bytes(), process
    with score.attempt():
        for name in (f"job_{running}",):
            done = host.stack.run_podman("inspect", name)
            assert done.returncode == 0
            assert token.decode() not in done.stdout
    await host.client.delete(f"/jobs/{running}")
    await support.ended(host.client, running)
    with score.attempt():
        text = await support.output(host.client, ran["id"])
        assert token.decode() not in text
        assert "FLASHPODS_SETTINGS" not in text
    with score.attempt():
        root = host.stack.layout.root
        for path in root.rglob("*"):
            if path == host.stack.layout.token or not path.is_file() or path.is_symlink():
                continue
            if "engine/store/overlay/" in str(path) or path.stat().st_size > 200 * MB:
                continue
            # The services' logs, job logs, the database and its WAL, the engine's files, artifacts.
            assert token not in path.read_bytes(), path
    with score.attempt():
        found = [p for p in root.rglob("core*") if p.is_file() and "store" not in p.parts]
        assert not found
        assert not list(host.stack.layout.root.rglob("*.core"))


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
