"""An agent's surroundings without a container: /work, /artifacts, a git server, an identity."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flashpods_dev.fake_identity import fake_identity
from flashpods_dev.git_server import GitServer, git
from flashpods_dev.helper_build import Programs

CHECKOUT = Path(__file__).resolve().parents[3]
ENTRYPOINT = CHECKOUT / "pkgs" / "agent-image" / "entrypoint.sh"
TOKEN = "ghp_test_0123456789"
KEY = "sk-test-0123456789"
TOKENS = {"GITHUB_TOKEN": TOKEN, "ANTHROPIC_API_KEY": KEY}
FIRST = {"README": "hello\n", "app.py": "print(1)\n"}
BOUND = 120  # seconds, for what takes a second on a machine without other work

# A model's command line: it reads its task, changes a file, says what it did.
STAND_IN = """
cat >{root}/prompt
printf '%s|%s' "$ANTHROPIC_API_KEY" "$GITHUB_TOKEN" >{root}/tokens
echo 'print(2)' >app.py
echo new >'new file'
echo 'I changed app.py.' >{artifacts}/summary.md
"""


@dataclass
class Rig:
    """One run's directories and servers."""

    root: Path
    server: GitServer
    programs: Programs
    sockets: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def url(self) -> str:
        return f"{self.server.host}/app.git"

    def script(self, text: str, name: str = "agent.sh") -> str:
        """Write the stand-in for the model's command line; return the command that runs it."""
        path = self.root / name
        path.write_text(text.format(root=self.root, artifacts=self.artifacts))
        return f"sh {path}"

    def environment(self, **changes: str | None) -> dict[str, str]:
        """Return what the launcher and the image give, with changes; None takes one out."""
        host = self.server.host
        env: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "FLASHPODS_WORK": str(self.work),
            "FLASHPODS_ARTIFACTS": str(self.artifacts),
            "FLASHPODS_HELPER": str(self.root / "helper"),
            "FLASHPODS_JOB_ID": "0123456789abcdef",
            "FLASHPODS_TASK": "Make it print 2",
            "FLASHPODS_CONTEXT": "",
            "FLASHPODS_GIT_BRANCH": "fix/it",
            "FLASHPODS_GIT_URL": self.url,
            "FLASHPODS_AGENT_COMMAND": self.script(STAND_IN, "stand-in.sh"),
            "FLASHPODS_GIT_HOSTS": host,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"credential.{host}.helper",
            "GIT_CONFIG_VALUE_0": f"{self.root / 'helper'} git-credential",
            "SPIFFE_ENDPOINT_SOCKET": f"unix://{self.sockets}/agent.sock",
            "FLASHPODS_TOKEN_SOCKET": f"{self.sockets}/token.sock",
            **self.env,
            **changes,
        }
        return {name: value for name, value in env.items() if value is not None}

    def start(self, **changes: str | None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ENTRYPOINT],
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        )

    def run(self, **changes: str | None) -> tuple[int, str]:
        """Run the entrypoint to its end; return its exit code and output."""
        with self.start(**changes) as process:
            try:
                out, _ = process.communicate(timeout=BOUND)
            finally:
                process.kill()
        return process.returncode, out

    def remote(self, *arguments: str) -> str:
        """Run git in the server's repository."""
        return git("-C", str(self.server.root / "app.git"), *arguments)

    def branches(self) -> list[str]:
        """Return the server's branches."""
        return self.remote("for-each-ref", "--format=%(refname:short)", "refs/heads").split()

    def local(self, *arguments: str) -> str:
        """Run git in /work, as somebody with a name."""
        return git("-C", str(self.work), "-c", "user.name=U", "-c", "user.email=u@x", *arguments)

    def push_tree(self) -> None:
        """Leave a clone in /work, as a push of a tree with its .git does."""
        git("clone", "--quiet", str(self.server.root / "app.git"), str(self.work))
        self.local("remote", "set-url", "origin", self.url)

    @property
    def summary(self) -> str:
        return (self.artifacts / "summary.md").read_text()

    @property
    def patch(self) -> str:
        return (self.artifacts / "changes.patch").read_text()


@contextmanager
def rig(
    root: Path, programs: Programs, *, refuse: bool = False, status: int = 200
) -> Iterator[Rig]:
    """Serve everything; ``refuse`` and ``status`` are those of :func:`fake_identity`."""
    for name in ("work", "artifacts", "repositories", "home"):
        (root / name).mkdir()
    seconds = 1 if refuse else 60  # the one is waited for
    (root / "helper").write_text(f'#!/bin/sh\nexec {programs.helper} --timeout {seconds} "$@"\n')
    (root / "helper").chmod(0o755)
    with (
        GitServer(root / "repositories", TOKEN) as server,
        fake_identity(programs, TOKENS, refuse=refuse, status=status) as sockets,
    ):
        server.repository("app", FIRST)
        yield Rig(root, server, programs, sockets)
