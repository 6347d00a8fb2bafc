"""Keys and tokens of our own, a Workload API that serves them, an engine, and the service."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from spiffe._proto import workload_pb2, workload_pb2_grpc

from flashpods.adapters.podman.labels import ContainerLabels
from flashpods.adapters.podman.rest import RestClient
from flashpods.adapters.spiffe.bundles import BundleKeeper
from flashpods.adapters.spiffe.verify import BundleVerifier
from flashpods.config import Settings
from flashpods.token.app import Parts, create_app
from flashpods.token.door import Door
from flashpods.token.main import SecretsFile, Server, configure
from flashpods.token.metrics import Metrics
from flashpods.token.policy import Policy
from flashpods.token.secrets import Vault

AUDIENCE = "flashpods-token-service"
DOMAIN = "flashpods.local"
AGENT = f"spiffe://{DOMAIN}/agent"
WORKER = f"spiffe://{DOMAIN}/worker"
SECRETS = {"anthropic_api_key": "sk-ant-" + "A" * 40, "github_token": "ghp_" + "G" * 36}
PARENT = "/fp/ctrs"
HOST = "/system.slice/ssh.service"


class Key:
    """A signing key of a trust domain."""

    def __init__(
        self, kid: str, private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None
    ) -> None:
        self.kid = kid
        self.private = private or ec.generate_private_key(ec.SECP256R1())
        self.algorithm = "RS256" if isinstance(self.private, rsa.RSAPrivateKey) else "ES256"

    @property
    def jwk(self) -> dict[str, Any]:
        if isinstance(self.private, rsa.RSAPrivateKey):
            public = RSAAlgorithm.to_jwk(self.private.public_key())
        else:
            public = ECAlgorithm.to_jwk(self.private.public_key())
        return {
            **json.loads(public),
            "kid": self.kid,
            "use": "jwt-svid",
        }

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        return jwt.encode(
            claims, self.private, self.algorithm, headers={"kid": self.kid, **headers}
        )


def jwks(*keys: Key) -> bytes:
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


def claims(sub: object = AGENT, **changes: Any) -> dict[str, Any]:
    """An SVID's claims, as SPIRE writes them; a change to None leaves the claim out."""
    now = int(time.time())
    made = {"aud": [AUDIENCE], "exp": now + 300, "iat": now, "sub": sub, **changes}
    return {name: value for name, value in made.items() if value is not None}


async def eventually(true: Callable[[], bool]) -> None:
    """Return once that is so; within a bound."""
    async with asyncio.timeout(60):
        while True:
            if true():
                return
            await asyncio.sleep(0.002)


def raw_token(header: dict[str, Any], payload: bytes, signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), payload, signature)
    return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts)


class FakeAgent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """SPIRE's agent, as far as bundles go; it can be stopped and started again."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._changed = threading.Condition()
        self._bundles: dict[str, bytes] = {}
        self._version = 0
        self._end: grpc.StatusCode | None = None
        self.streams = 0
        self.silent = False
        self._server: grpc.Server | None = None

    def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._end = None
        self._server = grpc.server(ThreadPoolExecutor(8))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)  # type: ignore[no-untyped-call] # generated code
        self._server.add_insecure_port(f"unix:{self._path}")
        self._server.start()

    def stop(self, status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Go away, streams ending with a status."""
        if self._server is None:
            return
        with self._changed:
            self._end = status
            self._changed.notify_all()
        self._server.stop(0.2).wait(5)
        self._server = None
        self._path.unlink(missing_ok=True)

    def serve(self, **bundles: bytes) -> None:
        """Send these bundles; a domain's dots are written as underscores."""
        with self._changed:
            self._bundles = {name.replace("_", "."): jwk for name, jwk in bundles.items()}
            self._version += 1
            self._changed.notify_all()

    def FetchJWTBundles(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802 - the service's
        assert ("workload.spiffe.io", "true") in context.invocation_metadata()
        seen = 0
        with self._changed:
            self.streams += 1
            self._changed.notify_all()
        while True:
            with self._changed:
                while (seen == self._version or self.silent) and self._end is None:
                    self._changed.wait(0.2)
                    if not context.is_active():
                        return
                if self._end is not None:
                    context.abort(self._end, "shutting down")
                seen = self._version
                sent = dict(self._bundles)
            yield workload_pb2.JWTBundlesResponse(bundles=sent)


class FakePodman:
    """The engine's REST socket: containers by their labels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: dict[str, dict[str, Any]] = {}
        self.inspected: list[str] = []
        self.hangs = False
        self.status = 200
        self._server: asyncio.Server | None = None
        self._never = asyncio.Event()  # held: what waits for it would be garbage otherwise

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def add(self, job_id: str, kind: str, /, **labels: str | None) -> str:
        """Add a job's container; return the cgroup of a process in it."""
        container = (job_id * 4)[:64]
        found = {
            "flashpods-job": "true",
            "flashpods-job-id": job_id,
            "flashpods-job-type": kind,
            **{f"flashpods-{name.replace('_', '-')}": value for name, value in labels.items()},
        }
        self.containers[container] = {
            "Id": container,
            "Name": f"job_{job_id}",
            "Config": {"Labels": {k: v for k, v in found.items() if v is not None}},
        }
        return f"{PARENT}/job_{job_id}/libpod-{container}/container"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(asyncio.IncompleteReadError, ConnectionError),
        ):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                target = head.split(" ", 2)[1]
                if self.hangs:
                    await self._never.wait()
                status, body = self._answer(target)
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )

    def _answer(self, target: str) -> tuple[int, bytes]:
        if self.status != 200:
            return self.status, b'{"message": "out of order"}'
        if target.endswith("/_ping"):
            return 200, b"OK"
        name = target.split("/")[-2]
        self.inspected.append(name)
        found = self.containers.get(name)
        return (200, json.dumps(found).encode()) if found else (404, b'{"message": "no such"}')


@dataclass
class FakePeer:
    """A peer whose cgroup the test decides."""

    path: str | None
    pid: int = 4242
    uid: int = 990
    closed: bool = False

    def cgroup(self) -> str | None:
        return self.path

    def close(self) -> None:
        self.closed = True


@dataclass
class Answer:
    """As much of httpx's as is looked at."""

    status_code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Rig:
    """The service behind its real server on a Unix socket, in this process."""

    root: Path
    settings: Settings
    agent: FakeAgent
    podman: FakePodman
    key: Key
    peer: FakePeer = field(default_factory=lambda: FakePeer(HOST))
    peers: list[FakePeer] = field(default_factory=list)
    parts: Parts = field(init=False)
    keeper: BundleKeeper = field(init=False)
    server: Server = field(init=False)

    @property
    def socket(self) -> Path:
        return self.root / "token.sock"

    def take_peer(self, _: Any) -> FakePeer:
        taken = FakePeer(self.peer.path, self.peer.pid, self.peer.uid)
        self.peers.append(taken)
        return taken

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client whose connections come from ``rig.peer``."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://token") as client:
            yield client

    async def ask(self, token: str | None, path: str = "/tokens") -> httpx.Response:
        """One request on a connection of its own."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with self.client() as client:
            return await client.get(path, headers=headers)

    async def until(self, token: Callable[[], str], status: int, code: str | None = None) -> Any:
        """Ask with fresh tokens until that is the answer; within a bound."""
        async with asyncio.timeout(60):
            while True:
                answer = await self.ask(token())
                if answer.status_code == status and answer.json().get("error") == code:
                    return answer

    async def raw(self, *headers: bytes, line: bytes = b"GET /tokens HTTP/1.1") -> Answer:
        """One request with these header lines as they are, on a connection of its own."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        async with asyncio.timeout(60):
            writer.write(b"\r\n".join([line, b"Host: x", *headers, b"Connection: close"]))
            writer.write(b"\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return Answer(int(head.split()[1]), body.decode())

    def token(self, sub: object = AGENT, **changes: Any) -> str:
        return self.key.sign(claims(sub, **changes))

    def write_secrets(self, content: object = None) -> Path:
        file = self.settings.tokens.secrets_file
        text = json.dumps(SECRETS if content is None else content)
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)
        return file


@contextlib.asynccontextmanager
async def running(**tokens: Any) -> AsyncIterator[Rig]:
    """The service, up; ``tokens`` are settings of its section."""
    with tempfile.TemporaryDirectory(prefix="fp-") as name:
        root = Path(name)
        agent, podman, key = FakeAgent(root / "agent"), FakePodman(root / "podman"), Key("k1")
        section = {
            "secrets_file": root / "secrets.json",
            "workload_api": agent.url,
            "rate_per_second": 10_000,
            "rate_burst": 10_000,
            **tokens,
        }
        settings = Settings(tokens=section, podman={"socket": podman.path, "cgroup_parent": PARENT})
        rig = Rig(root, settings, agent, podman, key)
        agent.serve(flashpods_local=jwks(key))
        agent.start()
        await podman.start()
        rig.write_secrets()
        try:
            async with _serving(rig):
                yield rig
        finally:
            podman.stop()
            await asyncio.to_thread(agent.stop)


@contextlib.asynccontextmanager
async def _serving(rig: Rig) -> AsyncIterator[None]:
    section = rig.settings.tokens
    metrics, vault = Metrics(), Vault(Policy(section.policy).names)
    file = SecretsFile(section.secrets_file, vault, metrics)
    file.fill()
    rig.keeper = BundleKeeper(
        section.workload_api, section.trust_domain, grace_seconds=section.bundle_grace_seconds
    )
    rest = RestClient(rig.podman.path, call_seconds=section.podman_seconds, calls=4, waits=1)
    rig.parts = Parts(
        settings=section,
        vault=vault,
        verifier=BundleVerifier(rig.keeper, section.audience),
        types=ContainerLabels(rest, seconds=section.podman_seconds),
        door=Door(
            cgroup_parent=PARENT,
            most=section.connections,
            most_per_peer=section.connections_per_peer,
            metrics=metrics,
            peer_of=rig.take_peer,
        ),
        metrics=metrics,
    )
    rig.keeper.start()
    await rig.keeper.wait(60)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(rig.socket))
    listener.listen(64)
    rig.server = Server(configure(create_app(rig.parts)), file.reload)
    task = asyncio.create_task(rig.server._serve([listener]))  # without its signal handlers
    try:
        yield
    finally:
        rig.server.should_exit = True
        async with asyncio.timeout(60):
            await task
        await rig.keeper.close()
        await rest.close()
