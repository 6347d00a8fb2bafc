"""Where a stack keeps what: its state directory, and the files rendered into it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any

from flashpods_dev.machine import AGENT_IMAGE, IMAGE, RSYNC_UID, UID, StackError

SOCKET_PATH_BYTES = 107  # sun_path less its NUL, unix(7)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one state directory, and what is volatile as on a host after a boot.

    ``volatile`` is short because Podman 4 refuses a run root of more than 50 characters, in the
    cleanup of each container; and it is the same for the same state directory, because Podman
    keeps its run root in its database.
    """

    root: Path
    volatiles: Path

    @property
    def volatile(self) -> Path:
        """Podman's run directory and locks."""
        return self.volatiles / hashlib.sha256(os.fsencode(self.root)).hexdigest()[:10]

    @property
    def run(self) -> Path:
        """XDG_RUNTIME_DIR of the stack's user."""
        return self.volatile / "run"

    @property
    def shm(self) -> Path:
        """What Podman sees as ``/dev/shm``."""
        return self.volatile / "shm"

    @property
    def engine(self) -> Path:
        """Podman's home, store, socket and configuration."""
        return self.root / "engine"

    @property
    def socket(self) -> Path:
        """Podman's socket; a long path's is in the run directory, which only the stack sees."""
        return self.run / "podman.sock" if self.socket_is_hidden else self.engine / "podman.sock"

    @property
    def socket_is_hidden(self) -> bool:
        """Whether the state directory's path is too long for a socket."""
        return len(os.fsencode(self.engine / "podman.sock")) > SOCKET_PATH_BYTES

    @property
    def trees(self) -> Path:
        """Uploads and workspaces: one file system."""
        return self.root / "trees"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "db" / "flashpods.db"

    @property
    def token(self) -> Path:
        """The bearer token."""
        return self.root / "token"

    @property
    def settings(self) -> Path:
        """The API's settings file."""
        return self.root / "settings.json"

    @property
    def logs(self) -> Path:
        """The logs of the stack's own processes."""
        return self.root / "services"

    def prepare(self) -> None:
        """Make all directories with their owners; repeated: puts them right again."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(stat.S_IMODE(self.root.stat().st_mode) | 0o711)
        shutil.rmtree(self.volatile, ignore_errors=True)
        self.socket.unlink(missing_ok=True)
        ours = [self.engine, self.trees, self.database.parent]
        ours += [self.engine / name for name in ("home", "store")]
        ours += [self.run, self.shm]
        ours += [self.root / name for name in ("artifacts", "capture", "joblogs")]
        ours += [self.trees / name for name in ("finalized", "work")]
        for path in ours:
            _directory(path, UID, UID, 0o755)
        _directory(self.trees / "transfers", RSYNC_UID, UID, 0o750)
        _directory(self.trees / "transfers" / ".bases", RSYNC_UID, UID, 0o770)
        self.logs.mkdir(exist_ok=True)
        if not self.token.exists():
            write_for_user(self.token, secrets.token_urlsafe(32) + "\n", secret=True)

    def render_settings(
        self,
        *,
        port: int,
        metrics_port: int,
        rsync_port: int,
        cgroup_parent: str,
        limits_enforced: bool,
    ) -> dict[str, Any]:
        """Return the settings of the embedded default: SQLite, loopback, no identity."""
        return {
            "http": {
                "host": "127.0.0.1",
                "port": port,
                "token_file": str(self.token),
                "metrics_port": metrics_port,
            },
            "paths": {
                "database": str(self.database),
                "transfers": str(self.trees / "transfers"),
                "finalized": str(self.trees / "finalized"),
                "work": str(self.trees / "work"),
                "artifacts": str(self.root / "artifacts"),
                "capture": str(self.root / "capture"),
                "logs": str(self.root / "joblogs"),
            },
            "backup": {"directory": str(self.root / "backups")},
            "podman": {"socket": str(self.socket), "cgroup_parent": cgroup_parent},
            "jobs": {"worker": {"image": IMAGE}, "agent": {"image": AGENT_IMAGE}},
            "uploads": {"rsync_url": f"rsync://127.0.0.1:{rsync_port}/uploads"},
            # A development machine is often nearly full; a host's thresholds would refuse all jobs.
            "disk": {"warn_percent": 95, "critical_percent": 98, "guard_percent": 99},
            "development": {"allow_unenforced_limits": not limits_enforced},
        }

    def engine_config(self, images: Path | None) -> dict[str, str]:
        """Return Podman's two configuration files; ``images``: a store that is read, not written.

        ``rootless_storage_path``: without it Podman 4 ignores ``graphroot`` for a rootless user.
        """
        shared = f'additionalimagestores = ["{images}/store"]' if images else ""
        return {
            "containers.conf": (
                '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n'
                '[containers]\nlog_driver = "k8s-file"\n'
            ),
            "storage.conf": (
                '[storage]\ndriver = "overlay"\n'  # without this line it silently takes vfs
                f'runroot = "{self.run}/containers"\ngraphroot = "{self.engine}/store"\n'
                f'rootless_storage_path = "{self.engine}/store"\n[storage.options]\n{shared}\n'
            ),
        }

    def engine_env(self) -> dict[str, str]:
        """Return the whole environment of every Podman process of this store."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.engine / "home"),
            "XDG_RUNTIME_DIR": str(self.run),
            "TMPDIR": str(self.run),
            "CONTAINERS_CONF": str(self.engine / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.engine / "storage.conf"),
        }

    def write_engine_config(self, images: Path | None) -> None:
        """Write Podman's configuration files."""
        for name, text in self.engine_config(images).items():
            write_for_user(self.engine / name, text)


def _directory(path: Path, uid: int, gid: int, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, uid, gid)
    path.chmod(mode)


def write_for_user(path: Path, text: str, *, secret: bool = False) -> None:
    """Write a file that the stack's user reads; a secret is readable by nobody else.

    Under sudo the group of the person who called may read the secret as well: it is their stack.
    """
    group = os.environ.get("SUDO_GID") if secret else None
    mode = (0o640 if group else 0o600) if secret else 0o644
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchown(descriptor, UID, int(group) if group else UID)
        os.fchmod(descriptor, mode)
        file.write(text)
    new.replace(path)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the keys of ``over`` put in, section by section."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def dump(settings: Mapping[str, Any]) -> str:
    """Return settings as the file's text."""
    return json.dumps(settings, indent=2, default=str) + "\n"


_taken: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nothing listens on, below what the kernel gives to clients.

    Raises:
        StackError: a thousand tries found none.
    """
    for port in SystemRandom().sample(range(20000, 32000), 1000):
        if port not in _taken and port_is_free(port):
            _taken.add(port)
            return port
    raise StackError("no free port between 20000 and 32000 on 127.0.0.1")


def port_is_free(port: int) -> bool:
    """Whether a listener could bind the port on loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
