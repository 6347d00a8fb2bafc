"""``./dev up``: what it prints, how it stops, and that nothing is left, however it ends."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import SECONDS

from flashpods_dev.machine import CGROUP_ROOT, RSYNC_UID, Machine, StackError
from flashpods_dev.stack import MiniStack

KEYS = {
    "api_url", "token_file", "rsync_url", "state_dir", "podman_socket", "database", "image",
}  # fmt: skip


@contextmanager
def dev_up(
    machine: Machine, *arguments: str
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """Run ./dev up and give its process and its line."""
    up = subprocess.Popen(
        [machine.checkout / "dev", "up", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert up.stdout is not None
    assert up.stderr is not None
    try:
        readable, _, _ = select.select([up.stdout], [], [], SECONDS)
        line = up.stdout.readline() if readable else b""
        assert line, up.stderr.read().decode() if up.poll() is not None else "no line in time"
        yield up, json.loads(line)
    finally:
        up.kill()
        up.communicate()


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Poll a condition of the machine that has no event."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        select.select([], [], [], 0.02)
    return True


def get(url: str, **more: Any) -> httpx.Response:
    """GET, with the patience of a busy machine."""
    return httpx.get(url, trust_env=False, timeout=SECONDS, **more)


def traces(machine: Machine, mark: str) -> list[str]:
    """Return what names ``mark`` among processes, mounts, cgroups and scratch directories."""
    found = [str(p) for p in CGROUP_ROOT.rglob("flashpods-dev-*") if p.name in mark]
    found += [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if mark in line
    ]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it just ended
            continue
        if mark in command and int(process.name) != os.getpid():
            found.append(command)
    return found


def runs(machine: Machine) -> set[str]:
    """Return the scratch directories of runs, each named as its cgroup."""
    return {path.name for path in (machine.dev / "run").iterdir()}


def run_of(up: subprocess.Popen[bytes]) -> str:
    """Return the name of a ./dev's run, which its children are told; others may run beside it."""
    children = Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split()
    said = "".join(Path(f"/proc/{child}/cmdline").read_text() for child in children)
    found = re.search(r"flashpods-dev-[0-9a-f]{8}", said)
    assert found, said
    return found[0]


def start_container(line: dict[str, str]) -> None:
    """Run a container on the stack's engine, over its socket, from outside its namespace."""
    transport = httpx.HTTPTransport(uds=line["podman_socket"])
    with httpx.Client(
        transport=transport, base_url="http://podman/v4.0.0/libpod", timeout=SECONDS
    ) as podman:
        spec = {
            "name": "left",
            "image": line["image"],
            "command": ["sleep", "1000"],
            "netns": {"nsmode": "none"},
        }
        podman.post("/containers/create", json=spec).raise_for_status()
        podman.post("/containers/left/start").raise_for_status()
        assert podman.get("/containers/left/json").json()["State"]["Running"]


def test_up_prints_one_line_and_serves(machine: Machine) -> None:
    with dev_up(machine) as (up, line):
        assert set(line) == KEYS
        token = Path(line["token_file"])
        assert token.stat().st_mode & 0o007 == 0
        health = f"{line['api_url']}/health"
        # On a loaded machine Podman may miss a check's two seconds, and then it says so.
        assert until(lambda: get(health).status_code == 200), health
        refused = get(f"{line['api_url']}/capacity")
        assert refused.status_code == 401
        start_container(line)
        name = run_of(up)
        assert name in runs(machine)
        os.kill(up.pid, signal.SIGINT)
        out, err = up.communicate(timeout=SECONDS)
    assert up.returncode == 0, err.decode()  # by itself: outside.STOP_SECONDS later it is killed
    assert out == b""  # one line was all
    assert name not in runs(machine)
    assert not Path(line["state_dir"]).exists()
    assert traces(machine, name) == []


def test_killed_it_takes_all_with_it(machine: Machine, reachable_path: Path) -> None:
    state = reachable_path / "state"
    with dev_up(machine, "--state", str(state)) as (up, line):
        start_container(line)
        name = run_of(up)
        assert name in runs(machine)
        assert traces(machine, name)
        up.kill()
        up.wait(SECONDS)
        assert until(lambda: name not in runs(machine))
        assert until(lambda: traces(machine, name) == []), traces(machine, name)
    assert Path(line["database"]).exists()  # the state is what a person asked to keep


def test_state_is_taken_up_again(machine: Machine, reachable_path: Path) -> None:
    state = reachable_path / "state"
    seen: list[str] = []
    for _ in range(2):
        with dev_up(machine, "--state", str(state)) as (up, line):
            token = Path(line["token_file"]).read_text().strip()
            headers = {"Authorization": f"Bearer {token}"}
            url = f"{line['api_url']}/uploads"
            if not seen:
                made = httpx.post(url, json={}, headers=headers, trust_env=False, timeout=SECONDS)
                assert made.status_code == 201, made.text
                seen.append(made.json()["upload_id"])
            found = get(f"{url}/{seen[0]}", headers=headers)
            assert found.status_code == 200, found.text
            os.kill(up.pid, signal.SIGTERM)
            up.communicate(timeout=SECONDS)
        assert up.returncode == 0


def test_up_refuses_a_port_that_is_taken(machine: Machine, stack: Any) -> None:
    port = int(stack.info.api_url.rsplit(":", 1)[1])
    done = subprocess.run(
        [machine.checkout / "dev", "up", "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"port {port} on 127.0.0.1 is taken: choose another with --port" in done.stderr


def test_the_account_outlives_changes_of_the_machines_account_files(machine: Machine) -> None:
    shell = ["./dev", "shell", "sh", "-c", "echo ready; read _; getent passwd flashpods newcomer"]
    with subprocess.Popen(
        shell, cwd=machine.checkout, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as inner:
        assert inner.stdout is not None
        assert inner.stdout.readline() == "ready\n"
        # As useradd does, for which this test's own namespace is the machine.
        old = Path("/etc/passwd").read_text()
        Path("/etc/passwd.new").write_text(old + "newcomer:x:64890:64890::/:/bin/false\n")
        Path("/etc/passwd.new").rename("/etc/passwd")
        try:
            out, _ = inner.communicate("go\n", timeout=SECONDS)
        finally:
            Path("/etc/passwd").write_text(old)
    assert [line.split(":")[0] for line in out.splitlines()] == ["flashpods"]


def test_one_state_directory_one_stack(machine: Machine, reachable_path: Path) -> None:
    with (
        MiniStack(reachable_path / "s", machine, parts=["podman"]),
        pytest.raises(StackError, match="another stack runs on"),
    ):
        MiniStack(reachable_path / "s", machine, parts=["podman"]).start()


def test_stacks_do_not_see_each_other(machine: Machine, reachable_path: Path) -> None:
    with (
        MiniStack(reachable_path / "a", machine, parts=["podman"]) as a,
        MiniStack(reachable_path / "b", machine, parts=["podman"]) as b,
    ):
        made = a.run_podman("create", "--name=mine", "--network=none", a.info.image, "true")
        assert made.returncode == 0, made.stderr
        names = "{{.Names}}"
        assert a.run_podman("ps", "-a", "--format", names).stdout.split() == ["mine"]
        assert b.run_podman("ps", "-a", "--format", names).stdout.split() == []
        for done in runs_in_time(b, "id", "-u"):
            assert done.stdout.strip() == "64900", done.stderr


def runs_in_time(stack: MiniStack, *command: str) -> Iterator[subprocess.CompletedProcess[str]]:
    """Run a container until one took less than Podman waits where conmon's cleanup fails: 20 s.

    A machine that stalls may take so long once; without the cleanup each takes so long.
    """
    run = [f"--cgroup-parent={stack.cgroup_parent}/x", "--userns=keep-id", "--network=none"]
    took: list[float] = []
    while not took or (took[-1] > 18 and len(took) < 4):
        began = time.monotonic()
        yield stack.run_podman("run", *run, stack.info.image, *command)
        took.append(time.monotonic() - began)
    assert took[-1] < 18, took


def test_the_checkouts_path_may_be_long(machine: Machine, reachable_path: Path) -> None:
    """Neither the socket nor what conmon and Podman make of the path may be in its way."""
    state = reachable_path / ("d" * 100) / ("e" * 60)
    with MiniStack(state, machine, parts=["podman"]) as stack:
        start_container({"podman_socket": str(stack.layout.socket), "image": stack.info.image})
        done = stack.run_podman("exec", "left", "echo", "inside")
        assert (done.returncode, done.stdout) == (0, "inside\n"), done.stderr
        for done in runs_in_time(stack, "true"):
            assert done.returncode == 0, done.stderr


def test_a_killed_engine_stops_answering_and_keeps_its_containers(
    machine: Machine, reachable_path: Path
) -> None:
    with MiniStack(reachable_path / "s", machine, parts=["podman"]) as stack:
        info = {"podman_socket": str(stack.layout.socket), "image": stack.info.image}
        start_container(info)
        stack.podman.kill()
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(info["podman_socket"])
        stack.podman.start()
        shown = stack.run_podman("inspect", "--format", "{{.State.Status}}", "left")
        assert shown.stdout.strip() == "running", shown.stderr


@pytest.mark.parametrize(
    "option",
    [
        "--copy-unsafe-links", "--keep-dirlinks", "--hard-links", "--xattrs", "--specials",
        "--devices", "--super", "--backup", "--backup-dir=/x", "--temp-dir=/", "--partial-dir=x",
        "--link-dest=/x", "--compare-dest=/x", "--mkpath", "--append",
    ],
)  # fmt: skip
def test_rsync_refuses(option: str, machine: Machine, reachable_path: Path) -> None:
    with MiniStack(reachable_path / "s", machine, parts=["rsyncd"]) as stack:
        source = reachable_path / "source"
        source.mkdir()
        (source / "file").write_text("x")
        done = push(stack, source, option)
        assert done.returncode == 4, done.stderr
        assert "configured to refuse" in done.stderr
        assert list((stack.layout.trees / "transfers").glob("u*")) == []


def test_rsync_takes_a_tree_under_its_own_uid(machine: Machine, reachable_path: Path) -> None:
    with MiniStack(reachable_path / "s", machine, parts=["rsyncd"]) as stack:
        source = reachable_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "sub" / "file").write_text("x")
        (source / "link").symlink_to("/etc/passwd")
        done = push(stack, source, "--delete")
        assert done.returncode == 0, done.stderr
        tree = stack.layout.trees / "transfers" / "upload_abcdefghijkl"
        assert (tree / "sub" / "file").stat().st_uid == RSYNC_UID
        assert str((tree / "link").readlink()) == "/rsyncd-munged/etc/passwd"
        back = subprocess.run(
            ["rsync", "-r", f"{stack.info.rsync_url}/", str(reachable_path / "back")],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert back.returncode != 0
        assert "write only" in back.stderr


def push(stack: MiniStack, source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Push a tree straight to the daemon."""
    url = f"{stack.info.rsync_url}/upload_abcdefghijkl/"
    return subprocess.run(
        ["rsync", "-rlpt", *options, "--timeout=60", f"{source}/", url],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
