"""The peer of a Unix socket, and the socket that systemd passes; both from the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from errno import EINVAL, ENOPROTOOPT
from pathlib import Path
from typing import overload

import pytest

from flashpods import sdlisten
from flashpods.adapters.peercred import SO_PEERPIDFD, SocketPeer
from flashpods.config_base import ConfigError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def fake_proc(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / str(os.getpid())).mkdir()
    (tmp_path / str(os.getpid()) / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def test_a_peer_and_its_cgroup(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    proc = fake_proc(tmp_path, "4:memory:/elsewhere", "1:name=systemd:/x", "0::/fp/ctrs/a")
    peer = SocketPeer(pair[0], proc=proc)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert peer.cgroup() == "/fp/ctrs/a"
    (proc / str(os.getpid()) / "cgroup").write_text("4:memory:/elsewhere\n")
    assert peer.cgroup() is None
    peer.close()
    peer.close()
    assert peer.cgroup() is None


class OldKernel:
    """A socket of before Linux 6.5, or one whose peer is hidden."""

    def __init__(self, real: socket.socket, *, errno: int = ENOPROTOOPT) -> None:
        self._real, self._errno = real, errno

    @overload
    def getsockopt(self, level: int, name: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...
    def getsockopt(self, level: int, name: int, size: int = 0, /) -> int | bytes:
        if name == SO_PEERPIDFD:
            raise OSError(self._errno, os.strerror(self._errno))
        return self._real.getsockopt(level, name, size)


def test_an_older_kernel(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    proc = fake_proc(tmp_path, "0::/a")
    peer = SocketPeer(OldKernel(pair[0]), proc=proc)
    assert peer.cgroup() == "/a"
    peer.close()
    with pytest.raises(OSError, match="Invalid argument"):
        SocketPeer(OldKernel(pair[0], errno=EINVAL))


def test_a_peer_of_another_pid_namespace(pair: tuple[socket.socket, socket.socket]) -> None:
    class Hidden(OldKernel):
        @overload
        def getsockopt(self, level: int, name: int, /) -> int: ...
        @overload
        def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...
        def getsockopt(self, level: int, name: int, size: int = 0, /) -> int | bytes:
            if name == SO_PEERPIDFD:
                return os.open("/dev/null", os.O_RDONLY)
            return b"\0" * 12

    peer = SocketPeer(Hidden(pair[0]))
    assert peer.cgroup() is None
    peer.close()


@pytest.mark.parametrize("old", [False, True])
def test_a_dead_peer_is_nobody(tmp_path: Path, old: bool) -> None:
    """Also while its pid is still taken, and its cgroup to be read."""
    ours, theirs = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0flashpods-test-{os.getpid()}-{old}")
    listener.listen()
    code = (
        "import socket, sys, os\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1].replace('@', chr(0)))\n"
        "os.read(int(sys.argv[2]), 1)\n"
    )
    child = subprocess.Popen(
        [
            *(sys.executable, "-c", code),
            f"@flashpods-test-{os.getpid()}-{old}",
            str(theirs.fileno()),
        ],
        pass_fds=[theirs.fileno()],
    )
    accepted, _ = listener.accept()
    peer = SocketPeer(OldKernel(accepted) if old else accepted)
    assert peer.pid == child.pid
    assert peer.cgroup() is not None
    ours.send(b"x")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its pid is still its own
    assert Path(f"/proc/{child.pid}/cgroup").exists()
    assert peer.cgroup() is None
    assert child.wait(30) == 0
    assert peer.cgroup() is None
    for each in (peer, accepted, listener, ours, theirs):
        each.close()


def activated(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with descriptor 3 as it makes it."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


LISTENING = "import os, socket; s = socket.socket({kind}); {bind}; os.dup2(s.fileno(), 3)\n"
CALL = (
    "from flashpods import sdlisten; from flashpods.config import ConfigError\n"
    "os.environ['LISTEN_PID'] = str(os.getpid() + {off}); os.environ['LISTEN_FDS'] = '{count}'\n"
    "try:\n"
    "    got = sdlisten.unix_listener('x.socket')\n"
    "    assert 'LISTEN_FDS' not in os.environ and not got.get_inheritable()\n"
    "    print('ok')\n"
    "except ConfigError as e: print(e)\n"
)
UNIX = LISTENING.format(kind="socket.AF_UNIX", bind="s.bind(''); s.listen()")


@pytest.mark.parametrize(
    ("make", "off", "count", "says"),
    [
        (UNIX, 0, "1", "ok"),
        (UNIX, 1, "1", "start it through x.socket"),
        (UNIX, 0, "", "start it through x.socket"),
        (UNIX, 0, "2", "must have one ListenStream"),
        (LISTENING.format(kind="socket.AF_UNIX", bind="0"), 0, "1", "not a listening Unix"),
        (
            LISTENING.format(kind="socket.AF_INET", bind="s.bind(('', 0)); s.listen()"),
            *(0, "1", "not a listening Unix"),
        ),
        ("import os; os.dup2(0, 3)\n", 0, "1", "is not a socket"),
    ],
)
def test_the_socket_of_systemd(make: str, off: int, count: str, says: str) -> None:
    done = activated(make + CALL.format(off=off, count=count))
    assert says in done.stdout, done.stderr


def test_no_socket_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    monkeypatch.delenv("LISTEN_PID", raising=False)
    with pytest.raises(ConfigError, match=r"start it through x\.socket"):
        sdlisten.unix_listener("x.socket")
