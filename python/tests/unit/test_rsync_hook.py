"""The rsync hook: its checks one by one, then called by a real rsync daemon on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from flashpods import rsync_record
from flashpods.adapters.sqlite import transfers
from flashpods.adapters.sqlite.connection import connect_writer
from flashpods.adapters.sqlite.migrations import migrate
from flashpods.rsync_record import transaction
from flashpods.rsync_request import Refused, check_options, cut, requested_upload, upload_of

ID = "upload_abcdefghijkl"
OWNER, RSYNC_UID = 64901, 64902  # users that no file of the machine has
BOUND = 20.0
ROOT = os.geteuid() == 0
A = "-vlogDtprze.iLsfxCIvu"
FUTURE = "2999-01-01T00:00:00.000Z"
PAST = "2020-01-01T00:00:00.000Z"


# --------------------------------------------------------------------------- the request


@pytest.mark.parametrize("path", [f"{ID}/", f"{ID}/sub/dir/", f"{ID}/f"])
def test_paths_within_an_upload(path: str) -> None:
    assert upload_of(path) == ID


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        ".bases/p/",
        "upload_short/",
        f"upload_{'a' * 65}/",
        ID,
        f"{ID}/..",
        f"{ID}/../upload_mnopqrstuvwx/",
        f"../{ID}/",
        f"/{ID}/",
        f"x/{ID}/",
        f"{ID}é/",
        f"{ID}\n/",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(Refused):
        upload_of(path)


@pytest.mark.parametrize(
    "options",
    [
        ["--server", A],
        ["--server", "-s"],
        ["--server", A, "--delete-during", "--numeric-ids", "--partial", "--stats"],
        ["--server", A, "--copy-dest", "/.bases/proj.1_x-y"],
        ["--server", A, "--copy-dest=/.bases/p/", "--log-format=%i", "-B700", "--timeout=60"],
        [
            "--server",
            "-logDtpre.LsfxC",
            "--delay-updates",
            "--max-size=5M",
            "--bwlimit=100",
            "-@-1",
        ],
    ],
)
def test_options_that_stay_within_are_fine(options: list[str]) -> None:
    check_options(options)


@pytest.mark.parametrize(
    "options",
    [
        ["--link-dest", "/.bases/p"],
        ["--link-dest=/.bases/p"],
        ["--compare-dest=/.bases/p"],
        ["--copy-dest=/upload_mnopqrstuvwx"],
        ["--copy-dest", "/.bases/../upload_mnopqrstuvwx"],
        ["--copy-dest", "/.bases/p/../../x"],
        ["--copy-dest", "/.bases/.hidden"],
        ["--copy-dest", "/.bases/" + "p" * 65],
        ["--copy-dest", "../.bases/p"],
        ["--copy-dest"],
        ["--temp-dir=/x"],
        ["--temp-dir", "/x"],
        ["-T/x"],
        ["-vT", "/x"],
        ["-vTe.x"],
        ["--backup-dir=x"],
        ["--partial-dir=x"],
        ["--files-from=/x"],
        ["--log-file=/x"],
        ["--write-devices"],
        ["--super"],
        ["--fake-super"],
        ["--sender"],
        ["--daemon"],
        ["--config=/x"],
        ["--keep-dirlinks"],
        ["-K"],
        ["-vk"],
        ["-L"],
        ["-M--log-file=/x"],
        ["-f", "merge /x"],
        ["-e/bin/sh"],
        ["-B/x"],
        ["--suffix=/../x"],
        ["/x"],
        ["-"],
        [""],
        ["--unheard-of"],
    ],
)
def test_options_that_reach_out_are_refused(options: list[str]) -> None:
    with pytest.raises(Refused, match=r"not allowed|not expected"):
        check_options(["--server", A, *options])


def request(*arguments: str, **more: str) -> dict[str, str]:
    given = {f"RSYNC_ARG{n}": value for n, value in enumerate(("rsyncd", *arguments))}
    given |= {"RSYNC_MODULE_NAME": "uploads", "RSYNC_REQUEST": f"uploads/{ID}/"}
    return given | more


def test_a_request_names_one_upload() -> None:
    path = f"/{ID}/"
    assert requested_upload(request("--server", A, ".", path)) == ID
    assert requested_upload(request("--server", A, ".", f"{ID}/")) == ID  # without chroot
    for bad in (
        request("--server", A, ".", path, path, RSYNC_REQUEST=f"uploads{path} uploads{path}"),
        request("--server", A, "."),
        request("--server", A, path),
        request("--server", A, ".", path, RSYNC_REQUEST="uploads/upload_mnopqrstuvwx/"),
        request("--server", A, ".", path, RSYNC_REQUEST=f"uploads/x/..{path}"),
        request("--server", A, ".", path, RSYNC_REQUEST=f"uploads//{path}"),
        request("--server", A, ".", path, RSYNC_REQUEST=f"other{path}"),
        request("--server", A, ".", path, "--temp-dir=/x"),
        {},
    ):
        with pytest.raises(Refused):
            requested_upload(bad)


def test_a_refused_value_is_cut_and_harmless_on_a_terminal() -> None:
    assert cut("\x1b[31m\n€") == "?[31m?\\u20ac"
    assert len(cut("x" * 1000)) == 80


# --------------------------------------------------------------------------- the rows


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the other users may enter, unlike pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="flashpods-hook-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def database(place: Path) -> Path:
    directory = place / "db"
    directory.mkdir(mode=0o700)
    path = directory / "flashpods.db"
    migrate(path)
    if ROOT:
        for owned in (directory, *directory.iterdir()):
            os.chown(owned, OWNER, OWNER)
    return path


def run(database: Path, when: str, *options: str, **env: str) -> tuple[int, str]:
    """Run the hook as rsync does; this process is its RSYNC_PID."""
    given = request("--server", A, ".", f"/{ID}/", RSYNC_PID=str(os.getpid()))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "flashpods.rsync_hook", when, "--database", database),
            *("--no-watch", *options),
        ],  # what called is pytest, no transfer
        env={**os.environ, **given, "RSYNC_MODULE_PATH": str(database.parent.parent), **env},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def query(database: Path, sql: str, *values: object) -> list[tuple[object, ...]]:
    with closing(connect_writer(database)) as connection:
        return connection.execute(sql, values).fetchall()


def add_upload(database: Path, state: str = "uploading", **columns: object) -> None:
    given = {"id": ID, "state": state, "created_at": PAST, "expires_at": FUTURE} | columns
    names, marks = ", ".join(given), ", ".join("?" * len(given))
    query(database, f"INSERT INTO uploads ({names}) VALUES ({marks})", *given.values())


def test_pre_adopts_an_unknown_upload_and_post_forgets_the_transfer(
    database: Path, place: Path
) -> None:
    tree = place / ID
    (tree / "sub").mkdir(parents=True)
    (tree / "a").write_bytes(b"x" * 1000)
    (tree / "sub" / "b").write_bytes(b"x" * 234)
    (tree / "away").symlink_to("/etc")
    assert run(database, "pre", "--expires-seconds", "600") == (0, "")
    ((state, seconds),) = query(
        database,
        "SELECT state, strftime('%s', expires_at) - strftime('%s', created_at) FROM uploads",
    )
    assert (state, seconds) == ("uploading", 600)
    pids = {row[0] for row in query(database, "SELECT pid FROM transfers")}
    assert os.getpid() in pids
    code, said = run(database, "pre")
    assert (code, said) == (1, f"another transfer writes to {ID}; wait for it to end")
    assert run(database, "post") == (0, "")
    assert query(database, "SELECT * FROM transfers") == []
    assert query(database, "SELECT size_bytes FROM uploads") == [(1000 + 234,)]
    assert run(database, "pre") == (0, "")
    if ROOT:
        assert {file.stat().st_uid for file in database.parent.iterdir()} <= {OWNER, 0}
        assert database.stat().st_uid == OWNER


REFUSALS = [
    ({"state": "finalized"}, "is finalized"),
    ({"state": "consumed"}, "is consumed"),
    ({"state": "expired"}, "has expired"),
    ({"expires_at": PAST}, "has expired"),
    ({"finalizing_at": PAST}, "is being finalized"),
    ({"size_bytes": 101}, "holds 101 bytes, the limit is 100"),
]


@pytest.mark.parametrize(("columns", "said"), REFUSALS)
def test_pre_refuses_by_the_row_and_changes_nothing(
    database: Path, columns: dict[str, str], said: str
) -> None:
    add_upload(database, **columns)
    before = query(database, "SELECT * FROM uploads")
    code, line = run(database, "pre", "--max-bytes", "100")
    assert code == 1
    assert said in line
    assert "\n" not in line
    assert query(database, "SELECT * FROM uploads") == before
    assert query(database, "SELECT * FROM transfers") == []


def test_pre_refuses_when_all_uploads_hold_the_quota(database: Path) -> None:
    add_upload(database, "finalized", id="upload_number_one", size_bytes=60)
    add_upload(database, id="upload_number_two", size_bytes=40)
    add_upload(database, "consumed", id="upload_number_old", size_bytes=10**9)
    code, line = run(database, "pre", "--total-bytes", "100")
    assert (code, line.partition(";")[0]) == (1, "uploads hold 100 bytes, the limit is 100")
    assert query(database, "SELECT id FROM uploads WHERE id = ?", ID) == []
    assert run(database, "pre", "--total-bytes", "101") == (0, "")


def test_a_dead_transfer_stops_nobody(database: Path) -> None:
    add_upload(database)
    query(database, "INSERT INTO transfers VALUES (?, 1, ?, 1, ?)", ID, os.getpid(), PAST)
    assert run(database, "pre") == (0, "")
    assert query(database, "SELECT * FROM transfers WHERE start_ticks = 1") == []


@pytest.mark.parametrize("pid", ["", "x", "1", "999999999"])
def test_only_the_daemon_that_called_counts(database: Path, pid: str) -> None:
    code, line = run(database, "pre", RSYNC_PID=pid)
    assert code == 1
    assert "RSYNC_PID" in line
    assert query(database, "SELECT * FROM uploads") == []


def test_without_a_database_nothing_begins(place: Path) -> None:
    path = place / "db" / "absent.db"
    code, line = run(path, "pre")
    assert (code, line) == (1, "the host can't record the transfer now; try again")
    assert not path.exists()


def test_a_locked_database_refuses_in_time(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync_record, "BUSY_SECONDS", 0.05)
    with closing(connect_writer(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            transaction(database),
        ):
            pytest.fail("the transaction must not begin")


def test_the_hook_starts_without_heavy_imports() -> None:
    code = (
        "import sys, flashpods.rsync_hook;"
        "heavy = {'pydantic', 'sqlite_utils', 'fastapi', 'asyncio'};"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=BOUND)


# --------------------------------------------------------------------------- a real daemon


@dataclass
class Daemon:
    module: Path
    database: Path
    port: int
    source: Path

    def command(self, target: str, *options: str) -> list[str]:
        url = f"rsync://127.0.0.1:{self.port}/uploads/{target}"
        return ["rsync", "-a", "--contimeout=10", "--timeout=20", *options, f"{self.source}/", url]

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
