"""The rsync hook as a real rsync daemon on loopback calls it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rsync_hook_rig import BOUND, ID, ROOT, RSYNC_UID, add_upload, query

from flashpods.adapters.sqlite import transfers
from flashpods.adapters.sqlite.connection import connect_writer
from flashpods_dev.layout import free_port


@dataclass
class Daemon:
    module: Path
    database: Path
    port: int
    source: Path

    def command(self, target: str, *options: str) -> list[str]:
        url = f"rsync://127.0.0.1:{self.port}/uploads/{target}"
        return ["rsync", "-a", "--contimeout=60", "--timeout=120", *options, f"{self.source}/", url]

    def push(self, target: str, *options: str) -> tuple[int, str]:
        done = subprocess.run(
            self.command(target, *options),
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def pids(self) -> set[int]:
        return {int(str(pid)) for (pid,) in query(self.database, "SELECT pid FROM transfers")}


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does; nothing there can wake us, so look often."""
    end, never = time.monotonic() + BOUND, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        never.wait(0.01)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def daemon(place: Path, database: Path) -> Iterator[Daemon]:
    module, source = place / "uploads", place / "source"
    (module / ".bases" / "proj").mkdir(parents=True)
    source.mkdir()
    (source / "hello").write_text("hello\n")
    (source / "link").symlink_to("/etc/passwd")
    if ROOT:
        for owned in (module, module / ".bases", module / ".bases" / "proj"):
            os.chown(owned, RSYNC_UID, RSYNC_UID)
    port = free_port()  # none that the kernel gives to a client meanwhile
    hook = f"{sys.executable} -m flashpods.rsync_hook {{}} --database {database}"
    lines = [
        f"use chroot = {'yes' if ROOT else 'no'}",
        "[uploads]",
        f"path = {module}",
        "read only = no",
        "write only = yes",
        "munge symlinks = yes",
        "numeric ids = yes",
        *([f"uid = {RSYNC_UID}", f"gid = {RSYNC_UID}"] if ROOT else []),
        f"pre-xfer exec = {hook.format('pre')}",
        f"post-xfer exec = {hook.format('post')}",
    ]
    config = place / "rsyncd.conf"
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [
            *("rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}"),
            *("--address=127.0.0.1", f"--log-file={place / 'log'}"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(port))
        yield Daemon(module, database, port, source)
        # a transfer's last process is the post hook; the directory may go when it has ended
        until(lambda: not any(Path(f"/proc/{p}").exists() for p in children(process.pid)))
    finally:
        process.terminate()
        process.wait(BOUND)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_push_is_recorded_while_it_lasts(daemon: Daemon) -> None:
    assert daemon.push(f"{ID}/") == (0, "")
    assert (daemon.module / ID / "hello").read_text() == "hello\n"
    assert str((daemon.module / ID / "link").readlink()) == "/rsyncd-munged/etc/passwd"
    if ROOT:
        assert (daemon.module / ID / "hello").stat().st_uid == RSYNC_UID
    until(lambda: not daemon.pids())
    sql = "SELECT state, size_bytes > 6 FROM uploads WHERE id = ?"
    until(lambda: query(daemon.database, sql, ID) == [("uploading", 1)])
    (daemon.source / "more").write_text("more\n")
    assert daemon.push(f"{ID}/", "--delete", "-z") == (0, "")
    assert daemon.push(f"{ID}/sub/", "-s", "--mkpath") == (0, "")


def test_the_client_sees_why_it_is_refused(daemon: Daemon) -> None:
    code, said = daemon.push("upload_short/")
    assert code != 0
    assert "upload_short/ is no upload" in said
    add_upload(daemon.database, "finalized")
    code, said = daemon.push(f"{ID}/")
    assert code != 0
    assert f"{ID} is finalized; push under a new id" in said
    assert sorted(entry.name for entry in daemon.module.iterdir()) == [".bases"]


def test_options_that_reach_out_are_refused_by_the_daemon(daemon: Daemon) -> None:
    bad = [
        ["--link-dest=/.bases/proj", "--no-s"],
        ["--copy-dest=/.bases/proj/../..", "--no-s"],
        ["--temp-dir=/.bases", "-s"],
        ["-b", "--backup-dir=/.bases/proj", "-s"],
        ["-M--log-file=/x"],
    ]
    for options in bad:
        code, said = daemon.push(f"{ID}/", *options)
        assert code != 0, options
        assert "not allowed" in said
    assert query(daemon.database, "SELECT * FROM uploads") == []
    assert sorted(entry.name for entry in daemon.module.iterdir()) == [".bases"]


def test_a_base_spares_the_unchanged_files(daemon: Daemon) -> None:
    big = daemon.source / "big"
    big.write_bytes(os.urandom(200_000))
    (daemon.source / "link").unlink()
    base = daemon.module / ".bases" / "proj"
    subprocess.run(["cp", "-a", f"{daemon.source}/.", base], check=True, timeout=BOUND)
    code, said = daemon.push(f"{ID}/", "--copy-dest=/.bases/proj", "--stats")
    assert code == 0, said
    assert "Total transferred file size: 0 bytes" in said
    assert (daemon.module / ID / "big").read_bytes() == big.read_bytes()


@pytest.fixture
def slow(daemon: Daemon) -> Iterator[subprocess.Popen[str]]:
    """A push that is under way and takes longer than the test."""
    with (daemon.source / "big").open("wb") as file:
        file.write(os.urandom(2_000_000))
    command = daemon.command(f"{ID}/", "--bwlimit=10", "--whole-file")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: any((daemon.module / ID).glob(".big.*")))
        yield process
        process.kill()


def test_one_transfer_at_a_time(daemon: Daemon, slow: subprocess.Popen[str]) -> None:
    code, said = daemon.push(f"{ID}/")
    assert code != 0
    assert f"another transfer writes to {ID}" in said
    assert daemon.pids()  # the refused one's post hook took only its own rows
    assert daemon.push("upload_mnopqrstuvwx/", "--exclude=big")[0] == 0
    slow.kill()
    # Not by its row: a post hook that can't record it on a busy disk leaves that to the next one.
    with closing(connect_writer(daemon.database)) as connection:
        until(lambda: not transfers.live(connection, ID))
    assert daemon.push(f"{ID}/", "--exclude=big")[0] == 0


def test_a_lost_post_hook_wedges_nothing(daemon: Daemon, slow: subprocess.Popen[str]) -> None:
    with closing(connect_writer(daemon.database)) as connection:
        ((waiter,),) = connection.execute("SELECT DISTINCT rsync_pid FROM transfers").fetchall()
        assert waiter not in daemon.pids()
        os.kill(waiter, signal.SIGKILL)  # it would have called the post hook
        assert transfers.live(connection, ID)  # the receiver is what counts
        slow.kill()
        until(lambda: not transfers.live(connection, ID))
        assert daemon.pids()
    assert daemon.push(f"{ID}/", "--exclude=big")[0] == 0


def test_pushes_may_follow_each_other_at_once(daemon: Daemon) -> None:
    for _ in range(4):
        assert daemon.push(f"{ID}/") == (0, "")
