"""``flashpods-rsync-hook``: who may push where, asked by the rsync daemon before each transfer.

``rsyncd.conf(5)``, "pre-xfer exec" and "post-xfer exec": the daemon calls it as root, before its
chroot, with the request in ``RSYNC_*``; what ``pre`` prints on stdout before a non-zero exit is
shown to the client. It touches the database only as the database's owner. It starts often, so it
imports little: the standard library and :mod:`flashpods.adapters.sqlite.transfers`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from flashpods import rsync_watch
from flashpods.adapters.sqlite import transfers

BUSY_SECONDS: Final = 5.0
MEASURE_SECONDS: Final = 20.0
MAX_ANCESTORS: Final = 16
WITH_WAITER: Final = 3  # rsync processes above the hook: helper, receiver, and who waits for it
SUCCEED_SECONDS: Final = 1.0  # a push that follows another at once waits so long for its end

UPLOAD_ID: Final = re.compile(r"upload_[A-Za-z0-9_-]{12,64}")
BASE: Final = re.compile(r"/\.bases/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/?")

# What rsync 3.1 to 3.5 and openrsync send to a receiving server (options.c, server_options()),
# less all that names a place (backup-dir, temp-dir, partial-dir, compare-dest, link-dest,
# files-from, log-file, …), follows links there (K, k, L), or acts as root. -D comes with -a.
FLAGS: Final = frozenset("svqbunldmOJyWHogDtUNpEAXrcCIRxSz")
WITH_VALUE: Final = frozenset("B@")  # -B700, -@-1: the rest of the word is a number
LONG: Final = frozenset(
    (
        *("server", "append", "checksum-choice", "checksum-seed", "compress-choice", "compress"),
        *("compress-level", "delete", "delete-after", "delete-before", "delete-delay"),
        *("delete-during", "delete-excluded", "delete-missing-args", "delay-updates", "existing"),
        *("force", "fsync", "iconv", "ignore-errors", "ignore-existing", "inplace", "info"),
        *("debug", "log-format", "max-delete", "max-size", "min-size", "mkpath"),
        *("modify-window", "msgs2stderr", "new-compress", "no-implied-dirs", "no-msgs2stderr"),
        *("no-r", "no-relative", "no-specials", "no-W", "numeric-ids", "old-compress"),
        *("open-noatime", "partial", "preallocate", "remove-sent-files", "remove-source-files"),
        *("safe-links", "size-only", "specials", "stats", "timeout", "bwlimit", "use-qsort"),
    )
)


class Refused(Exception):
    """The transfer may not begin; the message is one line for the client."""


class InTransfer(Refused):
    """Another transfer writes to the upload; it may be about to end."""


def requested_upload(env: Mapping[str, str]) -> str:
    """Return the id of the upload that the request writes to, after checking all of the request.

    Raises:
        Refused: an option that reaches beyond the upload, several targets, or no upload's path.
    """
    arguments: list[str] = []
    while (value := env.get(f"RSYNC_ARG{len(arguments)}")) is not None:
        arguments.append(value)
    if "." not in arguments:
        raise Refused("the request has no path; push to rsync://<host>/uploads/upload_<id>/")
    end = arguments.index(".")
    check_options(arguments[1:end])
    paths = arguments[end + 1 :]
    module = env.get("RSYNC_MODULE_NAME", "")
    # The arguments are the paths after expansion, the request is what the client sent; where they
    # differ (several paths, wildcards, dots) it is not worth knowing why.
    inner = paths[0].removeprefix("/") if len(paths) == 1 else ""
    if env.get("RSYNC_REQUEST") != f"{module}/{inner}":
        raise Refused("the request must name one directory, .../upload_<id>/, and nothing else")
    return upload_of(inner)


def upload_of(path: str) -> str:
    """Return the upload's id in ``<upload id>/...``, a path within the module.

    Raises:
        Refused: another path.
    """
    upload_id, *inner = path.split("/")
    if not UPLOAD_ID.fullmatch(upload_id):
        raise Refused(
            f"{cut(path)} is no upload; the first directory must be upload_ and 12 to 64 letters, "
            f"digits, _ or -"
        )
    if not inner:  # a single file would take the directory's place
        raise Refused(f"{cut(path)} must end with a /")
    if ".." in inner or "\0" in path:
        raise Refused(f"{cut(path)} leaves the upload")
    return upload_id


def check_options(options: Sequence[str]) -> None:
    """Refuse what this module does not know to stay within the upload.

    Raises:
        Refused: it names the option.
    """
    rest = iter(options)
    for option in rest:
        name, has_value, value = option.removeprefix("--").partition("=")
        if option.startswith("--") and name == "copy-dest":
            place = value if has_value else next(rest, "")
            if not BASE.fullmatch(place):
                raise Refused(f"--copy-dest={cut(place)} is not allowed; /.bases/<project> is")
        elif option.startswith("--") and name not in LONG:
            raise Refused(f"--{cut(name)} is not allowed here; leave it out")
        elif not option.startswith("--"):
            _check_flags(option)


def _check_flags(word: str) -> None:
    """Check one word of single-letter options; ``e`` ends it (the client's capabilities)."""
    if len(word) < 2 or word[0] != "-":
        raise Refused(f"argument {cut(word)} is not expected here")
    for place, letter in enumerate(word[1:], 1):
        if letter == "e" and word[place + 1 :].replace(".", "").isalnum():
            return
        if letter in WITH_VALUE and word[place + 1 :].lstrip("-").isdigit():
            return
        if letter not in FLAGS:
            raise Refused(f"-{cut(letter)} is not allowed here; leave it out")


def cut(text: str) -> str:
    """Return printable ASCII, at most 80 characters: it goes to a terminal and a log."""
    return text.encode("ascii", "backslashreplace").decode()[:80].translate(_UNPRINTABLE)


_UNPRINTABLE: Final = dict.fromkeys((*range(32), 127), "?")


def processes(env: Mapping[str, str]) -> tuple[int, list[tuple[int, int]]]:
    """Return RSYNC_PID, and the processes that may write, each with its start.

    From the bottom: this hook, perhaps a shell, rsync's helper that called it, the process that
    receives, and RSYNC_PID, which only waits for that one, to call ``post`` (clientserver.c,
    rsync 3.2 and later with a post-xfer exec). It is left out, for it lives as long as ``post``
    does, and a client that finalizes at once would find its own push still in progress.

    Raises:
        Refused: not called by an rsync daemon.
    """
    try:
        rsync_pid = int(env["RSYNC_PID"])
    except (KeyError, ValueError):
        raise Refused("RSYNC_PID is missing: this is the hook of an rsync daemon") from None
    line = [os.getppid()]
    while line[-1] not in (0, 1, rsync_pid) and len(line) < MAX_ANCESTORS:
        line.append(transfers.parent(line[-1]))
    if line[-1] != rsync_pid or rsync_pid <= 1:
        raise Refused("RSYNC_PID is not the process that called: try again")
    if len([pid for pid in line if program(pid) == program(rsync_pid)]) >= WITH_WAITER:
        line.pop()
    found = [(pid, ticks) for pid in line if (ticks := transfers.start_ticks(pid)) is not None]
    return rsync_pid, found


def program(pid: int) -> str | None:
    """Return the program that the process executes; None if it can't be seen."""
    try:
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - a deleted program's path is no path
    except OSError:
        return None


def become_owner(database: Path) -> None:
    """Give up root for the owner of the database, for good; without root it stays as it is."""
    owner = database.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
        os.umask(0o077)


@contextlib.contextmanager
def transaction(database: Path) -> Iterator[sqlite3.Connection]:
    """Open the database, which exists; commit at the end, roll back on any error."""
    uri = f"{database.absolute().as_uri()}?mode=rw"
    with contextlib.closing(
        sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")  # its processes die with the power too
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


def now_text(later_seconds: float = 0.0) -> str:
    """Return the time, or a later one, as the database has it."""
    at = datetime.now(UTC) + timedelta(seconds=later_seconds)
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"


def admit(connection: sqlite3.Connection, upload_id: str, options: argparse.Namespace) -> None:
    """Refuse an upload that may not be written to, and adopt one that no row knows.

    Raises:
        Refused: finalizing, finalized, consumed, expired, in transfer, or over a quota.
    """
    now = now_text()
    row = connection.execute(
        "SELECT state, expires_at, finalizing_at, size_bytes, file_count FROM uploads WHERE id = ?",
        (upload_id,),
    ).fetchone()
    state, expires_at, finalizing_at, size, files = row or ("uploading", None, None, None, None)
    if state == "expired" or (state == "uploading" and expires_at and expires_at <= now):
        raise Refused(f"{upload_id} has expired; push under a new id")
    if state != "uploading":
        raise Refused(f"{upload_id} is {state}; push under a new id")
    if finalizing_at:
        raise Refused(f"{upload_id} is being finalized; push under a new id")
    if transfers.live(connection, upload_id):
        raise InTransfer(f"another transfer writes to {upload_id}; wait for it to end")
    for have, most, what in (
        (size, options.max_bytes, "bytes"),
        (files, options.max_files, "files and directories"),
    ):
        if have is not None and have > most:
            raise Refused(
                f"{upload_id} holds {have} {what}, the limit is {most}; push less under a new id"
            )
    (stored,) = connection.execute(
        "SELECT coalesce(sum(size_bytes), 0) FROM uploads WHERE state IN ('uploading', 'finalized')"
    ).fetchone()
    if stored >= options.total_bytes:
        raise Refused(
            f"uploads hold {stored} bytes, the limit is {options.total_bytes}; "
            f"run or delete some first"
        )
    if row is None:
        connection.execute(
            "INSERT INTO uploads (id, state, created_at, expires_at) VALUES (?, 'uploading', ?, ?)",
            (upload_id, now, now_text(options.expires_seconds)),
        )
    connection.execute("DELETE FROM transfers WHERE upload_id = ?", (upload_id,))  # the dead ones


def pre(options: argparse.Namespace, env: Mapping[str, str]) -> None:
    """Check the request and record the transfer, in one transaction.

    Raises:
        Refused: the transfer may not begin; nothing was changed.
    """
    upload_id = requested_upload(env)
    rsync_pid, found = processes(env)
    begin_watch = watcher(options, Path(env["RSYNC_MODULE_PATH"]) / upload_id, found)
    become_owner(options.database)
    end = time.monotonic() + SUCCEED_SECONDS
    while True:
        try:
            with transaction(options.database) as connection:
                admit(connection, upload_id, options)
                transfers.record(connection, upload_id, rsync_pid, found, now_text())
        except InTransfer:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)  # nothing tells when a process that is not our child ends
        else:
            begin_watch()
            return


def watcher(
    options: argparse.Namespace, tree: Path, found: list[tuple[int, int]]
) -> Callable[[], None]:
    """Start what will watch the transfer, still as root; it waits until it is told to begin."""
    if options.no_watch or not found:
        return lambda: None
    quota = rsync_watch.Quota(
        max_bytes=options.max_bytes, total_bytes=options.total_bytes, max_files=options.max_files
    )
    pending: tuple[int, int] | None = None

    def tell(size: int, files: int, last: bool) -> int | None:
        nonlocal pending
        others = None
        if pending and (last or select.select([pending[1]], [], [], 0)[0]):
            with contextlib.suppress(Refused, ValueError):  # a busy database: the next time
                others = int(finished(*pending))
            pending = None
        elif not pending:
            pending = as_owner(options.database, lambda c: keep_size(c, tree.name, size, files))
        if last:
            with contextlib.suppress(Refused):  # the post-transfer hook measures as well
                finished(
                    *as_owner(options.database, lambda c: keep_size(c, tree.name, size, files))
                )
        return others

    # The last is the process that receives, and whose children do.
    return rsync_watch.start(rsync_watch.Watch(tree, found[-1], quota, tell).run)


def keep_size(connection: sqlite3.Connection, upload_id: str, size: int, files: int) -> str:
    """Keep what an arriving tree holds; return the bytes of all other uploads."""
    connection.execute(
        "UPDATE uploads SET size_bytes = ?, file_count = ? WHERE id = ? AND state = 'uploading'",
        (size, files, upload_id),
    )
    (others,) = connection.execute(
        "SELECT coalesce(sum(size_bytes), 0) FROM uploads"
        " WHERE state IN ('uploading', 'finalized') AND id <> ?",
        (upload_id,),
    ).fetchone()
    return str(others)


def as_owner(database: Path, work: Callable[[sqlite3.Connection], str]) -> tuple[int, int]:
    """Begin a transaction in a child that gives up root; :func:`finished` returns what it says."""
    receive, send = os.pipe()
    child = os.fork()
    if child:
        os.close(send)
        return child, receive
    status = 1
    try:
        os.close(receive)
        become_owner(database)
        with transaction(database) as connection:
            said = work(connection)
        os.write(send, said.encode())
        status = 0
    finally:
        os._exit(status)  # the parent's cleanup is not ours


def finished(child: int, receive: int) -> str:
    """Wait for a child of :func:`as_owner` and return what it says.

    Raises:
        Refused: it failed; what it did is undone.
    """
    with open(receive, "rb") as pipe:
        said = pipe.read().decode()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise Refused("the host can't record the transfer now; try again")
    return said


def post(options: argparse.Namespace, env: Mapping[str, str]) -> None:
    """Forget the transfer at once, then measure what it left, for the quotas of the next one.

    The tree belongs to another user, so root measures it; a child of ours goes to the database
    before that, so that the client's finalize does not wait for the measuring.
    """
    rsync_pid = int(env["RSYNC_PID"])
    module = Path(env["RSYNC_MODULE_PATH"])
    forget = as_owner(options.database, lambda c: " ".join(transfers.forget(c, rsync_pid)))
    ids = finished(*forget).split()
    sizes = [(measure(module, upload_id), upload_id) for upload_id in ids]
    become_owner(options.database)
    with transaction(options.database) as connection:
        # What was ended for its quota keeps the figures that say so: its temporary file is gone.
        connection.executemany(
            "UPDATE uploads SET size_bytes = ?, file_count = ? WHERE id = ? AND state = 'uploading'"
            " AND coalesce(size_bytes, 0) <= ? AND coalesce(file_count, 0) <= ?",
            [
                (*found, upload_id, options.max_bytes, options.max_files)
                for found, upload_id in sizes
                if found is not None
            ],
        )


def measure(module: Path, upload_id: str) -> tuple[int, int] | None:
    """Return (bytes, entries) of the tree; None if it is too large to be walked in time."""
    if not UPLOAD_ID.fullmatch(upload_id):
        return None
    return rsync_watch.measure(module / upload_id, seconds=MEASURE_SECONDS)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="flashpods-rsync-hook", description="pre-xfer and post-xfer exec of the rsync daemon"
    )
    parser.add_argument("when", choices=("pre", "post"))
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, default=2 * 1024**3, help="of one upload")
    parser.add_argument("--total-bytes", type=int, default=10 * 1024**3, help="of all uploads")
    parser.add_argument("--max-files", type=int, default=500_000, help="of one upload")
    parser.add_argument(
        "--no-watch", action="store_true", help="leave the transfer alone while it arrives"
    )
    parser.add_argument(
        "--expires-seconds", type=float, default=1800.0, help="until an unknown id must be final"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hook; 0 lets the transfer begin, 1 refuses it with one line on stdout."""
    options = parse(argv)
    try:
        (pre if options.when == "pre" else post)(options, os.environ)
    except Refused as e:
        sys.stdout.write(f"{e}\n")
        return 1
    except (sqlite3.Error, OSError) as e:
        sys.stdout.write("the host can't record the transfer now; try again\n")
        sys.stderr.write(f"flashpods-rsync-hook {options.when}: {type(e).__name__}: {e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
