"""``flashpods-rsync-hook``: who may push where, asked by the rsync daemon before each transfer.

``rsyncd.conf(5)``, "pre-xfer exec" and "post-xfer exec": the daemon calls it as root, before its
chroot, with the request in ``RSYNC_*``; what ``pre`` prints on stdout before a non-zero exit is
shown to the client. What a request may hold is in :mod:`flashpods.rsync_request`, what is recorded
of it in :mod:`flashpods.rsync_record`, and :mod:`flashpods.rsync_watch` watches the transfer. It
starts often, so all of this imports little: the standard library and the table of transfers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from flashpods import rsync_watch
from flashpods.adapters.sqlite import transfers
from flashpods.rsync_measure import Count, measure
from flashpods.rsync_record import (
    InTransfer,
    admit,
    as_owner,
    become_owner,
    finished,
    keep_size,
    now_text,
    settle,
    transaction,
)
from flashpods.rsync_request import UPLOAD_ID, Refused, requested_upload

MEASURE_SECONDS: Final = 20.0
MAX_ANCESTORS: Final = 16
WITH_WAITER: Final = 3  # rsync processes above the hook: helper, receiver, and who waits for it
SUCCEED_SECONDS: Final = 1.0  # a push that follows another at once waits so long for its end


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
    """Return the name of what the process executes; None if it is gone.

    Not ``/proc/PID/exe``: the receiver is the transfers' user by now, and only root with
    CAP_SYS_PTRACE may see that of it.
    """
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace")
    except OSError:
        return None


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
                admit(connection, upload_id, quota_of(options), options.expires_seconds)
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
    return rsync_watch.start(rsync_watch.Watch(tree, found[-1], quota_of(options), tell).run)


def post(options: argparse.Namespace, env: Mapping[str, str]) -> None:
    """Forget the transfer at once, then measure what it left, for the quotas of the next one.

    The tree belongs to another user, so root measures it; a child of ours goes to the database
    before that, so that the client's finalize does not wait for the measuring.
    """
    rsync_pid = int(env["RSYNC_PID"])
    module = Path(env["RSYNC_MODULE_PATH"])
    forget = as_owner(options.database, lambda c: " ".join(transfers.forget(c, rsync_pid)))
    ids = finished(*forget).split()
    sizes = {i: count(module, i) for i in ids if UPLOAD_ID.fullmatch(i)}
    become_owner(options.database)
    with transaction(options.database) as connection:
        settle(connection, sizes, quota_of(options))


def quota_of(options: argparse.Namespace) -> rsync_watch.Quota:
    """Return the quotas of the command line."""
    return rsync_watch.Quota(
        max_bytes=options.max_bytes, total_bytes=options.total_bytes, max_files=options.max_files
    )


def count(module: Path, upload_id: str) -> Count:
    """Count the tree; one that can't be walked holds, as far as is known, at least nothing."""
    try:
        return measure(module / upload_id, seconds=MEASURE_SECONDS)
    except OSError as e:
        sys.stderr.write(f"flashpods-rsync-hook post: {upload_id} was not measured: {e}\n")
        return Count(0, 0, in_time=False)


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
