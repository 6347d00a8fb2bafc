"""The token service as a process, with its socket held here and its journal in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from token_rig import PARENT, SECRETS, FakeAgent, FakePodman, Key, jwks

from flashpods_dev import activate

PROGRAM = [sys.executable, "-m", "flashpods.token.main", "--config"]


class Service:
    """The program as a process, its socket held here, its journal in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agent, self.podman = FakeAgent(root / "agent"), FakePodman(root / "podman")
        self.key = Key("k1")
        self.path = root / "token.sock"
        self.listener = activate.listen(self.path)
        self.secrets = root / "secrets.json"
        self.engine, self.parent = self.podman.path, PARENT
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []  # what was said in no JSON
        self._said = asyncio.Condition()
        self.user: int | None = None  # as whom it runs; None: as we do
        self.process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.write_secrets(json.dumps(SECRETS))

    def write_secrets(self, text: str, mode: int = 0o600) -> None:
        fresh = self.root / "fresh"
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.rename(self.secrets)

    def settings(self, **tokens: Any) -> Path:
        file = self.root / "settings.json"
        section = {
            "secrets_file": str(self.secrets),
            "workload_api": self.agent.url,
            "metrics_host": None,
            "rate_per_second": 1000,
            "rate_burst": 1000,
            **tokens,
        }
        podman = {"socket": str(self.engine), "cgroup_parent": self.parent}
        file.write_text(json.dumps({"tokens": section, "podman": podman}))
        return file

    async def start(self, environment: dict[str, str] | None = None, **tokens: Any) -> None:
        argv = [*PROGRAM, str(self.settings(**tokens))]
        if self.user is not None:
            self._open_to(self.user)
            ids = [f"--{kind}={self.user}" for kind in ("reuid", "regid")]
            argv = ["setpriv", *ids, "--clear-groups", *argv]
        self.process = await asyncio.create_subprocess_exec(
            *activate.command(self.listener, argv),
            pass_fds=[self.listener.fileno()],
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        self._reading = asyncio.create_task(self._read(self.process.stderr))

    def _open_to(self, user: int) -> None:
        """Give the user what its unit would: its sockets, and the secrets as a credential."""
        self.root.chmod(0o755)
        (self.root / "agent").chmod(0o777)
        self.podman.path.chmod(0o666)
        os.chown(self.secrets, user, user)
        self.secrets.chmod(0o400)

    async def _read(self, stream: Any) -> None:
        async for line in stream:
            async with self._said:
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.other.append(line.decode())
                self._said.notify_all()

    async def said(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first line of the journal that is wanted, and forget it."""
        async with asyncio.timeout(60), self._said:
            await self._said.wait_for(lambda: any(map(wanted, self.lines)))
            found = next(line for line in self.lines if wanted(line))
            self.lines.remove(found)
            return found

    async def event(self, name: str) -> dict[str, Any]:
        return await self.said(lambda line: line["event"] == name)

    async def ended(self) -> int:
        assert self.process is not None
        assert self._reading is not None
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await self._reading
        return code

    async def stop(self) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        return await self.ended()

    async def ask(self, token: str | None, path: str = "/tokens") -> tuple[int, dict[str, Any]]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {token}\r\n\r\n" if token else "\r\n"
        async with asyncio.timeout(60):
            writer.write(head.encode())
            top, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(top.split()[1]), json.loads(body)


@contextlib.asynccontextmanager
async def process() -> AsyncIterator[Service]:
    """The service, not yet started, with an agent that serves its key, and an engine."""
    with tempfile.TemporaryDirectory(prefix="fp-") as name:
        up = Service(Path(name))
        up.agent.serve(flashpods_local=jwks(up.key))
        up.agent.start()
        await up.podman.start()
        try:
            yield up
        finally:
            if up.process is not None and up.process.returncode is None:
                await up.stop()
            up.podman.stop()
            up.listener.close()
            await asyncio.to_thread(up.agent.stop)
