"""A git server over HTTP that demands a token: what the tests have in place of GitHub.

It serves the bare repositories below one directory by ``git http-backend`` (git-http-backend(1)),
on loopback or the address that is given, and on a Unix socket that can be mounted into a job, whose
network has no way here.
"""

from __future__ import annotations

import base64
import os
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

USER = "x-access-token"
GIT_SECONDS = 60


class GitServer:
    """The server; a context manager. ``refuse_pushes`` may be set while it runs."""

    def __init__(
        self, root: Path, token: str, *, address: str = "127.0.0.1", socket: Path | None = None
    ) -> None:
        """Serve the repositories in ``root``, and on ``socket`` too if it is given."""
        self.root = root
        self.refuse_pushes = False
        self.refused = 0  # requests without the token
        self.served = 0  # requests with it
        self._expected = "Basic " + base64.b64encode(f"{USER}:{token}".encode()).decode()
        self._cleanup = ExitStack()
        handler = type("Handler", (_Handler,), {"git": self})
        self._tcp = ThreadingHTTPServer((address, 0), handler)
        self._servers: list[socketserver.BaseServer] = [self._tcp]
        if socket is not None:
            self._servers.append(_UnixServer(str(socket), handler))
            socket.chmod(0o666)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._tcp.server_address[1])

    @property
    def host(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Serve."""
        for server in self._servers:
            self._cleanup.callback(server.server_close)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            self._cleanup.callback(server.shutdown)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._cleanup.close()

    def admits(self, authorization: str | None) -> bool:
        """Whether a request shows the token."""
        if authorization != self._expected:
            self.refused += 1
            return False
        self.served += 1
        return True

    def repository(self, name: str, files: dict[str, str]) -> Path:
        """Make a bare repository with one commit on ``main``; without files: an empty one."""
        bare = self.root / f"{name}.git"
        git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
        git("-C", str(bare), "config", "http.receivepack", "true")
        if files:
            here = ("-C", str(bare), *IDENTITY)
            tree = ""
            for path, text in files.items():
                tree += f"100644 blob {git(*here, 'hash-object', '-w', '--stdin', text=text)}\t"
                tree += f"{path}\n"
            made = git(*here, "mktree", text=tree)
            commit = git(*here, "commit-tree", made, "-m", "first")
            git(*here, "update-ref", "refs/heads/main", commit)
        return bare


IDENTITY = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")


def git(*arguments: str, text: str | None = None) -> str:
    """Run git and return what it prints, without the last line feed."""
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
        check=False,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"},
    )
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.removesuffix("\n")


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    git: GitServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""

    def address_string(self) -> str:
        return "job"

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            self._serve(b"".join(self._chunks()))
        else:
            self._serve(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _serve(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        if not self.git.admits(self.headers.get("Authorization")):
            self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        elif self.git.refuse_pushes and "git-receive-pack" in self.path:
            self._answer(403, {}, b"")
        else:
            self._answer(*self._backend(path, query, body))

    def _backend(self, path: str, query: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Run the CGI program; return status, headers and body."""
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.git.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": USER,
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
            env=env,
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = {}
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            headers[name] = value
        status = int(headers.pop("Status", "200").split()[0])
        return status, headers, content

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
