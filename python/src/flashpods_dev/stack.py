"""A whole stack in one object: Podman's service, the rsync daemon, the API, the reaper.

``./dev up``, ``demo``, ``bench`` and the system tests all use this class, so what the tests drive
is what a person gets. Each stack has an engine and a store of its own, because recovery removes
every container with our label that its database does not know; the images are shared, read-only.
"""

from __future__ import annotations

import fcntl
import functools
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from flashpods_dev import cgroups, rsyncd
from flashpods_dev.identity.parts import Identity, Options
from flashpods_dev.layout import Layout, dump, free_port, merge, port_is_free, write_for_user
from flashpods_dev.machine import CGROUP_ROOT, IMAGE, UID, Machine, StackError
from flashpods_dev.probe import Unix, answers, listens
from flashpods_dev.service import PATIENCE, Service, as_user, in_cgroup, with_shm
from flashpods_dev.zygote import Child, Zygote

API_GRACE = 9  # seconds; http.shutdown_seconds is 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What ``./dev up`` prints: one line of JSON."""

    api_url: str
    token_file: str
    rsync_url: str
    state_dir: str
    podman_socket: str
    database: str
    image: str

    def line(self) -> str:
        """Return the line, without its newline."""
        return json.dumps(asdict(self))


class MiniStack:
    """A stack; a context manager that starts it and leaves nothing of it running.

    Args:
        state: its directory; what is there from before is taken up (jobs are recovered).
        machine: the namespace.
        overrides: settings that replace the embedded default's, section by section.
        port: of the API; 0 takes a free one.
        parts: which services to start, of ``podman``, ``rsyncd``, ``api``, ``cleanup``.
        images: whether to see the shared images.
        identity: of what, for a stack with identity; None: without.
    """

    PARTS = ("podman", "rsyncd", "api", "cleanup")

    def __init__(
        self,
        state: Path,
        machine: Machine,
        *,
        overrides: Mapping[str, Any] | None = None,
        port: int = 0,
        parts: Sequence[str] = PARTS,
        images: bool = True,
        identity: Options | None = None,
    ) -> None:
        """Only compute names and ports; nothing is started or written."""
        if port and not port_is_free(port):
            raise StackError(f"port {port} on 127.0.0.1 is taken: choose another with --port")
        self.layout = Layout(state.absolute(), machine.volatiles)
        self.machine = machine
        self.port = port or free_port()
        self.metrics_port = free_port()
        self.rsync_port = free_port()
        self._parts = tuple(parts)
        self._images = images
        self._lock: IO[str] | None = None
        self._zygote: Zygote | None = None
        # Of this process and object, so that stacks of one run don't meet.
        self.cgroup = f"{machine.cgroup}/{os.getpid():x}-{id(self):x}"
        self.cgroup_parent = f"{self.cgroup}/ctrs"
        self.identity: Identity | None = None
        if identity is not None:
            self.identity = Identity(
                self.layout, identity, cgroup_dir=self.cgroup_dir, cgroup_parent=self.cgroup_parent
            )
        rendered = self.layout.render_settings(
            port=self.port,
            metrics_port=self.metrics_port,
            rsync_port=self.rsync_port,
            cgroup_parent=self.cgroup_parent,
            limits_enforced=machine.limits_enforced,
        )
        with_identity = self.identity.overrides() if self.identity else {}
        self.settings = merge(merge(rendered, with_identity), overrides or {})
        self.podman = self._podman()
        self.rsyncd = self._rsyncd()
        self.api = self._python("api", ["flashpods.api.main"], self._api_answers)
        self.cleanup = self._python("cleanup", ["flashpods.cleanup_main"], lambda: True)

    # ------------------------------------------------------------------ life

    def start(self) -> Self:
        """Start all parts and return when they answer.

        Raises:
            StackError: another stack has this state directory, or a part does not come up.
        """
        layout = self.layout
        self._claim()
        layout.prepare()
        layout.write_engine_config(self.machine.images / "engine" if self._images else None)
        cgroups.delegate(self.cgroup_dir, UID, limits=self.machine.limits_enforced)
        self.write_settings({})
        hooks = {}
        if "api" in self._parts:
            hooks = {m: rsyncd.hook(m, self.settings) for m in ("pre", "post")}
        config = rsyncd.render(
            transfers=layout.trees / "transfers",
            port=self.rsync_port,
            pid_file=layout.root / "rsyncd.pid",
            hooks=hooks,
        )
        write_for_user(layout.root / "rsyncd.conf", config)
        (layout.root / "rsyncd.pid").unlink(missing_ok=True)  # a stale one stops the daemon
        with ExitStack() as undo:
            undo.callback(self.stop)
            running = [getattr(self, name) for name in self.PARTS if name in self._parts]
            early = [service for service in running if service in {self.podman, self.rsyncd}]
            for service in early:
                service.start(wait=False)
            for service in early:
                service.wait_ready()
            if self.identity:
                self.identity.prepare()
                self.identity.start()
            for service in running:
                service.start()
            undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop the API and the reaper in order, then end all that is left; repeated: nothing."""
        for service in (self.api, self.cleanup):
            if service.alive:
                os.kill(service.pid, 15)
        for service in (self.api, self.cleanup):
            service.terminate(API_GRACE)
        self.rsyncd.kill()
        if self.identity:
            self.identity.stop()
        if not cgroups.clear(self.cgroup_dir):
            raise StackError(f"processes are left in {self.cgroup_dir}")
        self.podman.kill()
        shutil.rmtree(self.layout.volatile, ignore_errors=True)
        self.layout.socket.unlink(missing_ok=True)
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    # ------------------------------------------------------------------ what others need

    @property
    def api_url(self) -> str:
        """Where the API listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def services(self) -> tuple[Service, ...]:
        """All processes of it, whether or not they run."""
        identity = self.identity.services if self.identity else ()
        return (self.podman, self.rsyncd, *identity, self.api, self.cleanup)

    @property
    def info(self) -> Info:
        """What ``./dev up`` prints."""
        return Info(
            api_url=self.api_url,
            token_file=str(self.settings["http"]["token_file"]),
            rsync_url=self.settings["uploads"]["rsync_url"],
            state_dir=str(self.layout.root),
            podman_socket=str(self.layout.socket),
            database=str(self.layout.database),
            image=self.settings["jobs"]["worker"]["image"],
        )

    def write_settings(self, overrides: Mapping[str, Any]) -> None:
        """Put further overrides into the settings file; the next start of the API reads them."""
        self.settings = merge(self.settings, overrides)
        write_for_user(self.layout.settings, dump(self.settings))

    def run_podman(self, *args: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the podman command on this stack's store, as its user; the caller checks the code."""
        return subprocess.run(
            self._as_engine(["podman", *args]),
            cwd=self.layout.engine,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start_podman(self, *args: str) -> subprocess.Popen[bytes]:
        """Start the podman command as :meth:`run_podman` does; its output is a pipe."""
        return subprocess.Popen(
            self._as_engine(["podman", *args]),
            cwd=self.layout.engine,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )

    def use_api(self, *wrap: str, env: Mapping[str, str] | None = None) -> None:
        """Give the API's next start a wrapping command and further variables; without: none.

        Raises:
            StackError: it runs.
        """
        if self.api.alive:
            raise StackError("the API runs: stop it before it gets another environment")
        self.api = self._python(
            "api", ["flashpods.api.main"], self._api_answers, wrap=wrap, env=env or {}
        )

    def fork_api(self, env: Mapping[str, str]) -> None:
        """Have the API's next start forked from a process that has imported everything.

        ``env`` is that of the first call, for all of them.

        Raises:
            StackError: it runs.
        """
        if self.api.alive:
            raise StackError("the API runs: stop it before it is started otherwise")
        arguments = ["--config", str(self.layout.settings)]
        fork = functools.partial(self._zygote_with(env).fork, "api", arguments)
        self.api = self._service("api", [], self._api_answers, fork=fork)

    def fork_cleanup(self, *arguments: str, env: Mapping[str, str]) -> tuple[int, str]:
        """Run the reaper in a fork, likewise; return its exit code and what it wrote."""
        log = self.layout.logs / "fork.log"
        log.write_bytes(b"")
        os.chown(log, UID, UID)
        code = self._zygote_with(env).fork("cleanup", arguments, log).wait(PATIENCE)
        return code, log.read_text(errors="replace")

    def _zygote_with(self, env: Mapping[str, str]) -> Zygote:
        if self._zygote is None:
            argv = self._as_user([sys.executable, "-m", "flashpods_dev.zygote"], env)
            self._zygote = Zygote(argv, self.layout.root)
        return self._zygote

    def run_python(
        self, *args: str, seconds: float = PATIENCE, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a module of ours as the stack's user: ``run_python("flashpods.cleanup_main", …)``."""
        return subprocess.run(
            self._as_user([sys.executable, "-m", *args], env),
            cwd=self.layout.root,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    # ------------------------------------------------------------------ recipes

    @property
    def cgroup_dir(self) -> Path:
        return CGROUP_ROOT / self.cgroup.lstrip("/")

    def _as_user(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        variables = {**self.layout.engine_env(), **(env or {})}
        return in_cgroup(self.cgroup_dir / "svc", as_user(argv, variables))

    def _as_engine(self, argv: Sequence[str]) -> list[str]:
        return with_shm(self.layout.shm, self._as_user(argv))

    def _service(
        self,
        name: str,
        argv: Sequence[str],
        ready: Callable[[], bool],
        *,
        twins: bool = False,
        fork: Callable[[Path], Child] | None = None,
    ) -> Service:
        log, cwd = self.layout.logs / f"{name}.log", self.layout.root
        return Service(name, argv, log=log, ready=ready, cwd=cwd, twins=twins, fork=fork)

    def _podman(self) -> Service:
        argv = ["podman", "system", "service", "--time=0", f"unix://{self.layout.socket}"]
        return self._service("podman", self._as_engine(argv), self._podman_answers, twins=True)

    def _podman_answers(self) -> bool:
        if not answers(Unix(self.layout.socket), "/_ping", [200]):
            return False
        if self.identity:
            self.identity.tend()
        return True

    def _rsyncd(self) -> Service:
        config = self.layout.root / "rsyncd.conf"
        argv = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
        wrapped = in_cgroup(self.cgroup_dir / "svc", rsyncd.confined(argv))
        return self._service("rsyncd", wrapped, lambda: listens(self.rsync_port))

    def _python(
        self,
        name: str,
        module: Sequence[str],
        ready: Callable[[], bool],
        *,
        wrap: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Service:
        argv = [*wrap, sys.executable, "-m", *module, "--config", str(self.layout.settings)]
        return self._service(name, self._as_user(argv, env), ready)

    def _api_answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        return answers(connection, "/health", [200, 503])

    def _claim(self) -> None:
        self.layout.root.mkdir(parents=True, exist_ok=True)
        lock = (self.layout.root / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            lock.close()
            raise StackError(f"another stack runs on {self.layout.root}: stop it first") from e
        self._lock = lock


__all__ = ["IMAGE", "Info", "MiniStack", "StackError"]
