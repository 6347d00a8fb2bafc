"""The rsync hook as a real rsync daemon on loopback calls it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from rsync_hook_rig import (
    BOUND,
    BUSY,
    ID,
    ROOT,
    RSYNC_UID,
    TRIES,
    Daemon,
    add_upload,
    opened,
    query,
    until,
)

from flashpods.adapters.sqlite import transfers


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
    code, said = daemon.push_once(f"{ID}/")
    assert code != 0
    assert f"{BUSY} to {ID}" in said
    assert daemon.pids()  # the refused one's post hook took only its own rows
    assert daemon.push("upload_mnopqrstuvwx/", "--exclude=big")[0] == 0
    slow.kill()
    # Not by its row: a post hook that can't record it on a busy disk leaves that to the next one.
    with closing(opened(daemon.database)) as connection:
        until(lambda: not transfers.live(connection, ID))
    assert daemon.push(f"{ID}/", "--exclude=big")[0] == 0


def test_a_lost_post_hook_wedges_nothing(daemon: Daemon, slow: subprocess.Popen[str]) -> None:
    with closing(opened(daemon.database)) as connection:
        ((waiter,),) = connection.execute("SELECT DISTINCT rsync_pid FROM transfers").fetchall()
        assert waiter not in daemon.pids()
        os.kill(waiter, signal.SIGKILL)  # it would have called the post hook
        assert transfers.live(connection, ID)  # the receiver is what counts
        slow.kill()
        until(lambda: not transfers.live(connection, ID))
        assert daemon.pids()
    assert daemon.push(f"{ID}/", "--exclude=big")[0] == 0


def test_pushes_may_follow_each_other_at_once(daemon: Daemon) -> None:
    for _ in range(TRIES):  # one that is stopped may outlast the second that the next one waits
        done = [daemon.push_once(f"{ID}/") for _ in range(4)]
        if not any(BUSY in said for _, said in done):
            break
    assert done == [(0, "")] * 4
