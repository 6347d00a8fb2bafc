"""The program: what it refuses to start with, signals, restarts, its journal, its real callers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from token_rig import AGENT, SECRETS, WORKER, claims
from token_service_rig import PROGRAM, Service, process

JOB = "0123456789abcdef"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with process() as up:
        yield up


def own_cgroup() -> str:
    return Path("/proc/self/cgroup").read_text().split("0::")[1].split("\n")[0].rstrip("/")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A directory of the v2 hierarchy, wherever it is mounted, with a job's container in it."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup2" and "ro" not in options.split(","):
            root, mounted = Path(place), None
            break
    else:
        mounted = root = Path(tempfile.mkdtemp(prefix="fp-cgroup-"))
        subprocess.run(["mount", "-t", "cgroup2", "none", root], check=True, timeout=30)
    top = root / own_cgroup().lstrip("/") / f"fp-test-{os.getpid()}"
    container = top / f"job_{JOB}" / f"libpod-{JOB * 4}"
    container.mkdir(parents=True)
    yield container
    (top / "cgroup.kill").write_text("1")
    until = time.monotonic() + 60
    while "populated 1" in (top / "cgroup.events").read_text():
        assert time.monotonic() < until, "a process in the test's cgroup does not die"
    for directory in (container, container.parent, top):
        directory.rmdir()
    if mounted is not None:
        subprocess.run(["umount", mounted], check=True, timeout=30)
        mounted.rmdir()


def secret_free(service: Service, *tokens: str) -> None:
    text = json.dumps(service.lines) + "".join(service.other)
    for secret in (*SECRETS.values(), *tokens):
        assert secret not in text


@pytest.mark.parametrize("user", [None, 64_123])
async def test_a_real_caller_in_a_real_cgroup(
    service: Service, cgroup: Path, user: int | None
) -> None:
    """The kernel's word for it: the same request from in the container, and from outside of it."""
    service.parent = own_cgroup() + f"/{cgroup.parent.parent.name}"
    service.podman.add(JOB, "agent")
    service.user = user
    await service.start()
    token = service.key.sign(claims(AGENT))
    status, body = await service.ask(token)
    assert (status, body["error"]) == (403, "identity_mismatch")  # we are no container

    inside = (
        f"echo $$ > {cgroup}/cgroup.procs && exec curl -sS --max-time 30 --unix-socket "
        f"{service.path} -H @- http://x/tokens"
    )
    child = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", inside),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await child.communicate(f"Authorization: Bearer {token}\n".encode())
    assert json.loads(out) == {
        "ANTHROPIC_API_KEY": SECRETS["anthropic_api_key"],
        "GITHUB_TOKEN": SECRETS["github_token"],
    }
    granted = await service.said(lambda line: line.get("outcome") == "granted")
    assert (granted["job_id"], granted["pid"]) == (JOB, child.pid)
    assert await service.stop() == 0
    secret_free(service, token)


async def test_a_peer_that_has_died_is_nobody(service: Service, cgroup: Path) -> None:
    """Its child goes on with the socket, from the same container; its pid may be another's."""
    service.parent = own_cgroup() + f"/{cgroup.parent.parent.name}"
    service.podman.add(JOB, "agent")
    await service.start()
    script = (
        "import os, socket, sys\n"
        f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"s.connect({str(service.path)!r})\n"
        "gate, done = os.pipe()\n"
        "parent = os.getpid()\n"
        "if os.fork():\n"
        "    os._exit(0)\n"
        "os.close(done)\n"
        "os.read(gate, 1)\n"  # ends when the parent has died
        "s.sendall(sys.stdin.buffer.read())\n"
        "print(s.makefile().read())\n"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    token = service.key.sign(claims(AGENT))
    head = f"GET /tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}"
    async with asyncio.timeout(60):
        out, _ = await child.communicate(f"{head}\r\n\r\n".encode())
    assert b"403 " in out
    assert b"identity_mismatch" in out
    line = await service.said(lambda line: line.get("outcome") == "identity_mismatch")
    assert line["job_id"] is None


async def test_secrets_are_read_again_and_bad_ones_are_not(service: Service, cgroup: Path) -> None:
    await service.start()
    assert (await service.ask(None, "/health"))[0] == 200
    assert service.process is not None
    new = {"anthropic_api_key": "sk-new-" + "N" * 20, "github_token": "ghp_new_" + "N" * 20}
    for text, mode, why in (
        ('{"github_token": "ghp_leak"}', 0o600, "lacks anthropic_api_key"),
        ("sk-ant-not-json", 0o600, "is not JSON"),
        (json.dumps(new), 0o640, "mode 0640"),
    ):
        service.write_secrets(text, mode)
        service.process.send_signal(signal.SIGHUP)
        line = await service.event("secrets not reloaded, the old ones stay")
        assert why in line["why"]
        assert "leak" not in json.dumps(line)
        assert "sk-ant" not in json.dumps(line)
    service.write_secrets(json.dumps(new))
    service.process.send_signal(signal.SIGHUP)
    assert (await service.event("secrets reloaded"))["changed"] is True
    service.process.send_signal(signal.SIGHUP)
    assert (await service.event("secrets reloaded"))["changed"] is False
    service.secrets.unlink()
    service.process.send_signal(signal.SIGHUP)
    assert "No such file" in (await service.event("secrets not reloaded, the old ones stay"))["why"]
    assert (await service.ask(None, "/health"))[1]["checks"]["secrets"] == {"status": "ok"}
    assert await service.stop() == 0
    secret_free(service, *new.values())


async def test_a_reload_that_cannot_bring_a_new_credential_says_so(service: Service) -> None:
    credentials = service.root / "credentials"
    credentials.mkdir()
    service.secrets.rename(credentials / "secrets.json")
    await service.start({"CREDENTIALS_DIRECTORY": str(credentials)})
    assert (await service.ask(None, "/health"))[0] == 200
    assert service.process is not None
    service.process.send_signal(signal.SIGHUP)
    await service.said(lambda line: "to take in a new file, restart" in line["event"])


async def test_callers_wait_through_a_restart(service: Service) -> None:
    await service.start()
    assert (await service.ask(None, "/health"))[0] == 200
    assert await service.stop() == 0
    assert service.path.exists()  # the socket is not ours to remove
    waiting = asyncio.create_task(service.ask(service.key.sign(claims(WORKER))))
    await service.start()
    status, body = await waiting
    assert (status, body["error"]) == (403, "identity_mismatch")  # we are no container: answered


async def test_systemd_is_told(service: Service) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(service.root / "notify"))
        manager.settimeout(60)
        told: list[str] = []

        async def until(state: str) -> None:
            while state not in told:
                told.append((await asyncio.to_thread(manager.recv, 1000)).decode().split("\n")[0])

        await service.start(
            {"NOTIFY_SOCKET": str(service.root / "notify"), "WATCHDOG_USEC": "200000"}
        )
        await until("READY=1")
        await until("WATCHDOG=1")
        assert service.process is not None
        told.clear()
        service.process.send_signal(signal.SIGHUP)
        await until("RELOADING=1")
        await until("READY=1")
        service.process.terminate()
        await until("STOPPING=1")
        assert await service.ended() == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: s.secrets.unlink(), "secrets.json: No such file"),
        (lambda s: s.secrets.chmod(0o604), "mode 0604"),
        (lambda s: s.write_secrets("{}"), "lacks anthropic_api_key, github_token"),
        (lambda s: setattr(s, "parent", None), "podman.cgroup_parent is not set"),
    ],
)
async def test_a_start_without_what_it_needs(
    service: Service, spoil: Callable[[Service], None], says: str
) -> None:
    spoil(service)
    await service.start()
    assert await service.ended() == 78
    (line,) = service.other
    assert says in line
    assert service.lines == []
    secret_free(service)


async def test_a_start_without_a_bundle(service: Service) -> None:
    await asyncio.to_thread(service.agent.stop)
    await service.start(start_seconds=0.5)
    assert await service.ended() == 75
    (line,) = service.other
    assert "no trust bundle of flashpods.local" in line
    secret_free(service)


def test_a_start_without_a_socket(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text("{}")
    done = subprocess.run(
        [*PROGRAM, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert "start it through flashpods-token-service.socket" in done.stderr
    assert done.stderr.count("\n") == 1


async def test_junk_does_not_fill_the_journal(service: Service) -> None:
    await service.start(rate_per_second=0.01, rate_burst=5)
    for n in range(60):
        reader, writer = await asyncio.open_unix_connection(str(service.path))
        if n % 2:
            writer.write(b"SSH-2.0-x\r\n\r\n")
        else:
            writer.write(b"GET /tokens HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n")
        async with asyncio.timeout(60):
            assert await reader.read(9) == b"HTTP/1.1 "
        writer.close()
    assert await service.stop() == 0
    assert service.other == []
    events = [line["event"] for line in service.lines]
    assert events.count("token exchange") <= 5
    assert events.count("token exchanges refused") == 1
    assert len(events) <= 5 + 1 + 1  # and the trust bundle


async def test_metrics_have_a_listener_of_their_own(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    await service.start(metrics_host="127.0.0.1", metrics_port=port)
    token = service.key.sign(claims(AGENT))
    await service.ask(token)
    await service.ask("x")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(30):
        text = (await reader.read()).decode()
    writer.close()
    for outcome, count in (("identity_mismatch", 1), ("invalid_jwt", 1), ("granted", 0)):
        name = f'flashpods_token_exchange_duration_seconds_count{{outcome="{outcome}"}}'
        assert f"{name} {count}.0" in text
    assert "flashpods_token_bundle_age_seconds 0.0" in text
    assert token not in text
    assert (await service.ask(None, "/metrics"))[0] == 404
