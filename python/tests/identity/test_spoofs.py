"""Every known way to take another container's identity: it works without our defence, not with it.

Each theft is tried twice: against an agent or a container without the one defence, where it must
succeed, or the test shows nothing; and against ours.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import identity_rig as rig
import pytest
from support import Connected

from flashpods.spire import agent_config
from flashpods_dev.machine import UID
from flashpods_dev.stack import MiniStack


def believe_mountinfo(docker: dict[str, Any]) -> None:
    """SPIRE's default: the new locator, without matchers."""
    docker["use_new_container_locator"] = True
    docker.pop("container_id_cgroup_matchers")


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """Return the SPIFFE ID that was given, or ``none``."""
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return str(json.loads(line)[0]["svids"][0]["spiffe_id"])
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return str(json.loads(line)["id"])
    assert "no identity issued" in done.stdout + done.stderr, done
    return "none"


@pytest.fixture(scope="module")
def victim(shared: MiniStack) -> Iterator[rig.Container]:
    """An agent's container, whose identity is to be stolen."""
    with rig.container(shared, labels=rig.labels_of("agent")) as running:
        assert outcome(rig.run_in(shared, running, "python3", rig.INSIDE, "fetch")) == AGENT
        yield running


def stolen(attempt: Callable[[], str]) -> str:
    """Return what a theft gets from an agent that was just started, once it knows any entries."""
    found = ["none"]

    def gets_something() -> bool:
        found[0] = attempt()
        return found[0] != "none"

    rig.within(30, gets_something, "the theft gets any identity where our defence is not")
    return found[0]


AGENT = f"{rig.DOMAIN}/agent"
WORKER = f"{rig.DOMAIN}/worker"


# ------------------------------------------------------------------ forged mountinfo


def from_a_user_namespace_of_the_host(
    stack: MiniStack, victim: rig.Container, sockets: Path
) -> str:
    """A user of the host binds the victim's cgroup somewhere, in namespaces of its own."""
    cgroup = f"/sys/fs/cgroup{victim.cgroup}/libpod-{victim.id}"
    fetch = rig.fetch_jwt(rig.identity_of(stack).options.spire.agent, sockets / "agent.sock")
    script = 'mount --bind "$0" /mnt && exec "$@"'
    own = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, cgroup)
    return outcome(rig.as_stranger(*own, *fetch))


def test_mountinfo_forged_by_a_user_of_the_host(shared: MiniStack, victim: rig.Container) -> None:
    with rig.unsafe_agent(shared, believe_mountinfo) as sockets:
        theft = partial(from_a_user_namespace_of_the_host, shared, victim, sockets)
        assert stolen(theft) == AGENT
    ours = rig.identity_of(shared).sockets
    assert from_a_user_namespace_of_the_host(shared, victim, ours) == "none"


FORGE_AS_ROOT = """
set -e
umount -l /sys/fs/cgroup
mkdir -p /tmp/c && mount -t cgroup2 none /tmp/c
mkdir -p /tmp/c/$0 && mount --bind /tmp/c/$0 /mnt && umount -l /tmp/c
exec python3 /opt/inside.py fetch
"""


def as_root_of_a_container(stack: MiniStack, victim: rig.Container, sockets: Path) -> str:
    """Root of a worker's container, without a seccomp profile, names a cgroup after the victim."""
    options = ("--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined")
    labels = rig.labels_of("worker")
    with rig.container(
        stack, *options, "--user=0:0", keep_id=False, labels=labels, sockets=sockets
    ) as root:
        return outcome(rig.run_in(stack, root, "sh", "-c", FORGE_AS_ROOT, victim.id))


def test_mountinfo_forged_by_the_root_of_a_container(
    shared: MiniStack, victim: rig.Container
) -> None:
    with rig.unsafe_agent(shared, believe_mountinfo) as sockets:
        assert stolen(partial(as_root_of_a_container, shared, victim, sockets)) == AGENT
    assert as_root_of_a_container(shared, victim, rig.identity_of(shared).sockets) == WORKER


# ------------------------------------------------------------------ what a job may do at all

UNSHARE = "unshare --user --map-root-user --mount true"
NUMBERS = {  # asm/unistd.h; x86_64, aarch64
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "clone": (56, 220),
    "clone3": (435, 435),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "socket": (41, 198),
}
DOORS = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
numbers = NUMBERS
def call(name, *arguments, what=None):
    number = numbers[name][os.uname().machine == "aarch64"]
    code = libc.syscall(number, *arguments)
    print(what or name, code if code >= 0 else os.strerror(ctypes.get_errno()), sep=": ")
call("unshare", 0x10000000, what="unshare user")
call("unshare", 0x20000, what="unshare mount")
call("setns", 0, 0)
call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
call("pivot_root", b"/", b"/")
call("open_tree", -100, b"/", 1)
call("fsopen", b"tmpfs", 0)
call("clone", 0x10000000 | 17, 0, 0, 0, 0, what="clone with a user namespace")
call("clone3", 0, 0)
call("keyctl", 0, -3, 1)
call("add_key", b"user", b"x", b"y", 1, -3)
call("bpf", 0, 0, 0)
call("perf_event_open", 0, 0, -1, -1, 0)
call("userfaultfd", 0)
call("io_uring_setup", 1, 0)
for family in ("AF_ALG", "AF_VSOCK", "AF_PACKET"):
    try:
        socket.socket(getattr(socket, family), socket.SOCK_SEQPACKET).close()
        print(family, "open", sep=": ")
    except OSError as e:
        print(family, e.strerror, sep=": ")
# The kernel takes 32 bits of the family, a filter sees 64.
call("socket", ctypes.c_long(0x100000026), 5, 0, what="AF_ALG with high bits")
""".replace("NUMBERS", repr(NUMBERS))
EPERM, ENOSYS = "Operation not permitted", "Function not implemented"
SHUT = {
    **dict.fromkeys(
        [
            *("unshare user", "unshare mount", "setns", "mount", "pivot_root", "open_tree"),
            *("fsopen", "keyctl", "add_key", "bpf", "perf_event_open", "userfaultfd"),
        ],
        EPERM,
    ),
    **dict.fromkeys(
        ["clone with a user namespace", "clone3", "io_uring_setup", "AF_ALG with high bits"], ENOSYS
    ),
    **dict.fromkeys(
        ["AF_ALG", "AF_VSOCK", "AF_PACKET"], "Address family not supported by protocol"
    ),
}


def doors(said: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)


async def test_the_seccomp_profile_shuts_the_doors(host: Connected) -> None:
    said = await rig.run_job(host.client, "worker", f"python3 -c {shlex.quote(DOORS)}")
    assert doors(said) == SHUT


def test_the_doors_are_open_without_it(shared: MiniStack) -> None:
    with rig.container(
        shared, "--security-opt=seccomp=unconfined", labels=rig.labels_of("worker")
    ) as other:
        done = rig.run_in(shared, other, "python3", "-c", DOORS)
        new_namespaces = rig.run_in(shared, other, "sh", "-c", UNSHARE)
    found = doors(done.stdout)
    assert (found["unshare user"], new_namespaces.returncode) == ("0", 0), (done, new_namespaces)
    assert found["open_tree"] != SHUT["open_tree"]


async def test_a_job_has_no_privileges_to_gain(host: Connected) -> None:
    said = await rig.run_job(
        host.client,
        "worker",
        f"id -u; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; {UNSHARE} || true",
    )
    facts = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert said.splitlines()[0] == str(UID)
    assert {facts[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert "unshare failed: Operation not permitted" in said


# ------------------------------------------------------------------ labels of an image


@pytest.fixture(scope="module")
def labelled_image(shared: MiniStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image that says it is an agent, and all else that a launcher's labels say."""
    name = "localhost/flashpods/labelled:dev"
    labels = [f"--change=LABEL {k}={v}" for k, v in rig.labels_of("agent").items()]
    with rig.container(shared) as base:
        done = shared.run_podman("commit", *labels, base.name, name)
        assert done.returncode == 0, done.stderr
    yield name
    shared.run_podman("rmi", "--force", name)


async def test_an_image_that_says_it_is_an_agent(
    host: Connected, shared: MiniStack, labelled_image: str
) -> None:
    with rig.container(shared, image=labelled_image) as careless:
        assert outcome(rig.run_in(shared, careless, "python3", rig.INSIDE, "fetch")) == AGENT
    answer = await rig.ask(host.client, "worker", "whole", image=labelled_image)
    assert answer["id"] == WORKER
    assert answer["body"]["ANTHROPIC_API_KEY"] is None


# ------------------------------------------------------------------ a Podman of the attacker's

FAKE_PODMAN = """
import http.server, json, os, socketserver, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def address_string(self):
        return "-"
    def log_message(self, *_):
        pass
    def do_HEAD(self):
        self.do_GET()
    def do_GET(self):
        labels = {"flashpods-job": "true", "flashpods-job-type": "agent"}
        body = json.dumps({"Id": "0" * 64, "Config": {"Labels": labels, "Env": [], "Image": "x"}})
        if self.path.endswith("_ping"):
            body = "OK"
        self.send_response(200)
        self.send_header("API-Version", "1.41")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body.encode())
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
path = sys.argv[1]
try:
    os.unlink(path)
except FileNotFoundError:
    pass
with Server(path, Answer) as server:
    os.chmod(path, 0o666)
    print("ready", flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def fake_podman(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a stranger's server in Podman's place, which says that everybody is an agent."""
    prefix = ["setpriv", f"--reuid={rig.STRANGER}", f"--regid={rig.STRANGER}", "--clear-groups"]
    process = subprocess.Popen(
        [*prefix, "/usr/bin/python3", "-c", FAKE_PODMAN, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_podman_of_the_attackers_own(shared: MiniStack) -> None:
    """In a directory that others may write to; ours is refused there, and can't be replaced."""
    place = shared.layout.volatile / "open"
    place.mkdir()
    place.chmod(0o777)
    fake = place / "podman.sock"

    def in_an_open_directory(docker: dict[str, Any]) -> None:
        docker["docker_socket_path"] = f"unix://{fake}"

    with fake_podman(fake) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with (
            rig.unsafe_agent(shared, in_an_open_directory) as sockets,
            rig.container(shared, labels=rig.labels_of("worker"), sockets=sockets) as worker,
        ):
            fetch = partial(rig.run_in, shared, worker, "python3", rig.INSIDE, "fetch")
            assert stolen(lambda: outcome(fetch())) == AGENT
    content = agent_config.read(rig.identity_of(shared).agent_config)
    docker = agent_config.docker_plugin(content)
    assert docker is not None
    in_an_open_directory(docker)
    (fault,) = agent_config.unsafe(content, shared.cgroup_parent)
    assert f"{place} may be written by others" in fault
    # And where ours is, the stranger can neither unlink nor bind.
    with fake_podman(shared.layout.socket) as process:
        _, complaint = process.communicate(timeout=20)
    assert "PermissionError" in complaint
    assert shared.podman.alive


async def test_a_podman_in_a_jobs_own_file_system(host: Connected, shared: MiniStack) -> None:
    """The agent asks the host's Podman, wherever a job puts a socket of its own."""
    place = shared.layout.socket.parent
    script = (
        f"mkdir -p {place} /run/user/{UID}/podman; "
        f"python3 -c {shlex.quote(FAKE_PODMAN)} /tmp/podman.sock & sleep 1; "
        f"export DOCKER_HOST=unix:///tmp/podman.sock CONTAINER_HOST=unix:///tmp/podman.sock; "
        f"python3 {rig.INSIDE} fetch"
    )
    said = await rig.run_job(host.client, "worker", script)
    assert rig.answers_in(said)[-1]["id"] == WORKER
