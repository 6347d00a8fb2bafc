"""SPIRE's server, its agent and the token service of one stack."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashpods.config import Settings
from flashpods.spire.server import SpireError, SpireServer
from flashpods_dev import activate
from flashpods_dev.identity import render
from flashpods_dev.identity.build import Spire
from flashpods_dev.identity.render import Lifetimes
from flashpods_dev.layout import Layout, dump, free_port
from flashpods_dev.machine import TOKEN_UID, UID, StackError
from flashpods_dev.probe import Unix, accepts, answers
from flashpods_dev.service import Service, as_user, in_cgroup

REGISTER_SECONDS = 300
READY_SECONDS = 120  # on a machine that is busy with builds


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a stack with identity is made of."""

    spire: Spire
    helper: Path | None = None  # the static program that is mounted into jobs
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    secrets: Mapping[str, str] | None = None  # None: invented at the first start


class Identity:
    """The identity part of a :class:`~flashpods_dev.stack.MiniStack`.

    Server and agent run as root, as on a host. All of it may be killed and started again, each by
    itself; the token service's socket belongs to this process, as to systemd's socket unit.
    """

    def __init__(
        self,
        layout: Layout,
        options: Options,
        *,
        cgroup_dir: Path,
        cgroup_parent: str,
    ) -> None:
        """Only compute names and ports."""
        self.layout = layout
        self.options = options
        self.port = free_port()
        self.metrics_port = free_port()
        self._cgroup_dir = cgroup_dir
        self._cgroup_parent = cgroup_parent
        self._listener: socket.socket | None = None
        run_server = [str(options.spire.server), "run", "-config", str(self.server_config)]
        self.server = self._service("spire-server", self._wrapped(run_server), self._server_answers)
        self.agent = self._service(
            "spire-agent",
            self._wrapped(self._python("flashpods.spire.agent_main")),
            lambda: accepts(self.agent_socket),
        )
        self.tokens = self._service(
            "token-service", self._token_command, self._tokens_answer, passes=self._descriptors
        )

    # ------------------------------------------------------------------ where things are

    @property
    def root(self) -> Path:
        """What outlives a restart of the stack: data and configuration; root's."""
        return self.layout.root / "spire"

    @property
    def server_config(self) -> Path:
        return self.root / "server.json"

    @property
    def agent_config(self) -> Path:
        return self.root / "agent.json"

    @property
    def server_data(self) -> Path:
        return self.root / "server"

    @property
    def agent_data(self) -> Path:
        return self.root / "agent"

    @property
    def sockets(self) -> Path:
        """The directory that is mounted into jobs."""
        return self.layout.volatile / "spire" / "sockets"

    @property
    def agent_socket(self) -> Path:
        """The Workload API's socket."""
        return self.sockets / "agent.sock"

    @property
    def server_socket(self) -> Path:
        """The server's private socket, root's alone."""
        return self.layout.volatile / "spire" / "server" / "api.sock"

    @property
    def token_socket(self) -> Path:
        return self.layout.volatile / "token" / "token.sock"

    @property
    def secrets(self) -> Path:
        """The token service's secrets file: invented values, kept with the state."""
        return self.layout.root / "secrets.json"

    def overrides(self) -> dict[str, Any]:
        """Return the settings that go with it."""
        helper = self.options.helper
        return {
            "identity": {
                "enabled": True,
                "spire_socket_dir": str(self.sockets),
                "token_socket": str(self.token_socket),
                "helper": helper and str(helper),
            },
            "tokens": {
                "secrets_file": str(self.secrets),
                "workload_api": f"unix://{self.agent_socket}",
                "trust_domain": render.TRUST_DOMAIN,
                "metrics_port": self.metrics_port,
            },
            "spire": {
                "trust_domain": render.TRUST_DOMAIN,
                "server_binary": str(self.options.spire.server),
                "server_socket": str(self.server_socket),
                "agent_binary": str(self.options.spire.agent),
                "agent_config": str(self.agent_config),
                "agent_data": str(self.agent_data),
                "call_seconds": READY_SECONDS / 2,
            },
        }

    # ------------------------------------------------------------------ life

    @property
    def services(self) -> tuple[Service, ...]:
        """All processes, in the order of their start."""
        return (self.server, self.agent, self.tokens)

    def prepare(self) -> None:
        """Make directories, configuration and the token socket; repeated: the same again."""
        for private in (self.root, self.server_data, self.agent_data, self.server_socket.parent):
            private.mkdir(parents=True, exist_ok=True)
            private.chmod(0o700)
        for shared in (self.sockets, self.token_socket.parent):
            shared.mkdir(parents=True, exist_ok=True)
            shared.chmod(0o755)
        self.sockets.parent.chmod(0o711)
        self.write_config()
        if self.options.secrets is not None:
            self.write_secrets(self.options.secrets)
        elif not self.secrets.exists():
            names = ("anthropic_api_key", "github_token")
            self.write_secrets({name: f"dev-{secrets.token_urlsafe(24)}" for name in names})
        self.listen()

    def write_config(self) -> None:
        """Write the configuration of server and agent."""
        self.server_config.write_text(
            dump(
                render.server(
                    data=self.server_data,
                    socket=self.server_socket,
                    port=self.port,
                    lifetimes=self.options.lifetimes,
                )
            )
        )
        self.agent_config.write_text(
            dump(
                render.agent(
                    data=self.agent_data,
                    socket=self.agent_socket,
                    server_port=self.port,
                    podman_socket=self.layout.socket,
                    cgroup_parent=self._cgroup_parent,
                    lifetimes=self.options.lifetimes,
                )
            )
        )

    def write_secrets(self, values: Mapping[str, str]) -> None:
        """Write the secrets file; the token service reads it at its start and on SIGHUP."""
        new = self.secrets.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchown(descriptor, TOKEN_UID, UID)
            file.write(dump(values))
        new.replace(self.secrets)

    def tend(self) -> None:
        """Let the token service ask Podman: on a host the socket unit's group does that.

        Podman makes its socket anew at each start, for its own user alone.
        """
        with contextlib.suppress(FileNotFoundError):
            self.layout.socket.chmod(0o660)

    def listen(self) -> None:
        """Bind the token service's socket; bound already: nothing."""
        if self._listener is not None:
            return
        self._listener = activate.listen(self.token_socket, uid=UID, gid=UID)

    def start(self) -> None:
        """Start server, entries, agent, tokens, each when what it needs is there.

        Raises:
            StackError: one of them does not come up.
        """
        self.server.start()
        self.register()
        self.agent.start()
        self.tokens.start()

    def register(self) -> subprocess.CompletedProcess[str]:
        """Run the product's registration.

        Raises:
            StackError: it failed.
        """
        done = subprocess.run(
            self._wrapped(self._python("flashpods.spire.register_main")),
            capture_output=True,
            text=True,
            timeout=REGISTER_SECONDS,
            check=False,
            cwd=self.root,
        )
        if done.returncode:
            raise StackError(f"flashpods-spire-register: {done.stderr.strip()[-2000:]}")
        return done

    def stop(self) -> None:
        """End all; repeated: nothing."""
        for service in reversed(self.services):
            service.terminate(5)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def client(self) -> SpireServer:
        """Return the product's client of the server."""
        return SpireServer(Settings(**self.overrides() | self._parent()).spire)

    # ------------------------------------------------------------------ recipes

    def _parent(self) -> dict[str, Any]:
        return {"podman": {"cgroup_parent": self._cgroup_parent}}

    def _python(self, module: str) -> list[str]:
        return [sys.executable, "-P", "-m", module, "--config", str(self.layout.settings)]

    def _wrapped(self, argv: Sequence[str]) -> list[str]:
        return in_cgroup(self._cgroup_dir / "svc", argv)

    def _service(
        self,
        name: str,
        argv: Sequence[str] | Callable[[], Sequence[str]],
        ready: Callable[[], bool],
        *,
        passes: Callable[[], Sequence[int]] = tuple,
    ) -> Service:
        log, cwd = self.layout.logs / f"{name}.log", self.layout.root
        return Service(
            name, argv, log=log, ready=ready, cwd=cwd, passes=passes, patience=READY_SECONDS
        )

    def _token_command(self) -> list[str]:
        if self._listener is None:
            raise StackError("the token service has no socket before the stack is prepared")
        argv = activate.command(self._listener, self._python("flashpods.token.main"))
        return self._wrapped(
            as_user(argv, {"PATH": os.environ.get("PATH", os.defpath)}, uid=TOKEN_UID)
        )

    def _descriptors(self) -> list[int]:
        return [self._listener.fileno()] if self._listener else []

    def _tokens_answer(self) -> bool:
        return answers(Unix(self.token_socket), "/health", [200])

    def _server_answers(self) -> bool:
        try:
            self.client().call("bundle", "count")
        except SpireError:
            return False
        return True
