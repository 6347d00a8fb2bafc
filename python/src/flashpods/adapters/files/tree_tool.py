"""The verbs on trees, as functions and as a program.

The trees in the rsync module belong to a subordinate user id, which flashpods may only touch from
within a user namespace of its own (user_namespaces(7)). There this module runs, with the standard
library and :mod:`flashpods.adapters.files.trees` alone (see :func:`command`), and prints one line
of JSON: ``{"ok": RESULT}`` or ``{"error": KIND, …}``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import stat
import sys
from functools import partial
from pathlib import Path

from flashpods.adapters.files import disk_tool
from flashpods.adapters.files.trees import (
    ASIDE,
    Guard,
    Spare,
    TooLarge,
    arm,
    disarm,
    discard_at,
    go_on,
    grant,
    lock,
    measure,
    move_aside,
    open_dir,
    open_path,
    remove,
    scan,
    try_lock,
)

BASES = ".bases"
SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
_BASES_SEEN = 4096
_UNBOUNDED = 1 << 60
FORMER = ".former-"  # a base whose successor is about to take its name
_TRIES = 5
_NO_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); import flashpods.adapters.files.tree_tool as t"
)


def command(*arguments: str) -> list[str]:
    """Return the command line that runs a verb as user 0 of a user namespace of ours.

    Our user becomes 0 and our subordinate ids follow from 1, all of them: ``--map-auto`` of
    unshare(1) would leave out the last, which is the user of rsync. (The order with commas is that
    of util-linux 2.38; later versions take it too.) ``-I -S`` keeps the start short and the
    environment out.

    Raises:
        PermissionError: we have no subordinate ids.
    """
    users = f"--map-users={_subordinate(SUBUID)}"
    groups = f"--map-groups={_subordinate(SUBGID)}"
    unshare = ["unshare", "--map-root-user", users, groups, "--"]
    return [*unshare, *program(*arguments)]


def program(*arguments: str) -> list[str]:
    """Return the command line that runs a verb where we are.

    ``-I -S`` keeps the start short and the environment out.
    """
    packages = str(Path(__file__).parents[3])
    code = f"{_START}; sys.exit(t.main(sys.argv[1:]))"
    return [sys.executable, "-I", "-S", "-c", code, packages, *arguments]


def _subordinate(file: Path) -> str:
    """Return our first range of subuid(5) or subgid(5) as ``outer,inner,count``."""
    uid = os.geteuid()
    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        match line.split(":"):
            case [name, first, count] if name in names and first.isdecimal() and count.isdecimal():
                return f"{first},1,{count}"
    raise PermissionError(errno.EPERM, f"{file} has no range for user {uid}")


def discard(parent: str, name: str, *, guard: Guard = go_on) -> None:
    """Delete ``parent/name``, out of sight at once; absent is fine. Raises OSError."""
    try:
        fd = open_path(parent)
    except FileNotFoundError:
        return
    try:
        discard_at(fd, name, guard)
    finally:
        os.close(fd)


def discard_idle(parent: str, name: str, *, guard: Guard = go_on) -> bool:
    """Do what :func:`discard` does, unless somebody is at work on the tree and holds its lock.

    Returns:
        Whether it is gone.

    Raises:
        OSError: as :func:`discard`.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd = open_path(parent)
        except FileNotFoundError:
            return True
        stack.callback(os.close, fd)
        for each in (name, ASIDE + name):  # :func:`keep` has it aside for a moment
            try:
                root = open_dir(fd, each)
            except (FileNotFoundError, NotADirectoryError):
                continue
            stack.callback(os.close, root)
            if not try_lock(root):
                return False
        discard_at(fd, name, guard)
    return True


def finalize(
    transfers: str, finalized: str, upload: str, max_bytes: int, most: int, *, guard: Guard = go_on
) -> tuple[int, int]:
    """Measure, disarm and move ``transfers/upload`` to ``finalized/upload``.

    Returns:
        (bytes, files and links); of the tree in ``finalized`` where the move was made before.

    Raises:
        TooLarge: nothing was changed.
        FileNotFoundError: there is no tree on either side.
        OSError: it may be half disarmed, but was not moved; a repeated call continues.
            ``ETXTBSY``: somebody has a file of it open for writing.
    """
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        source, target = opened(open_path(transfers)), opened(open_path(finalized))
        try:
            root = opened(open_dir(source, upload))
            lock(root, guard)
            os.stat(upload, dir_fd=source, follow_symlinks=False)  # not moved while we waited
        except (FileNotFoundError, NotADirectoryError):
            try:
                root = opened(open_dir(target, upload))
            except NotADirectoryError as e:
                raise FileNotFoundError(errno.ENOENT, "no tree", upload) from e
            return measure(root, _UNBOUNDED, _UNBOUNDED, guard)
        measure(root, max_bytes, most, guard)
        result = _close_and_disarm(root, Spare(target, upload), max_bytes, most, guard)
        try:
            os.rename(upload, upload, src_dir_fd=source, dst_dir_fd=target)
        except OSError as e:
            if e.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            discard_at(target, upload, guard)  # of an earlier finalize whose upload was reopened
            os.rename(upload, upload, src_dir_fd=source, dst_dir_fd=target)
        return result


def _close_and_disarm(
    root: int, spare: Spare, max_bytes: int, most: int, guard: Guard
) -> tuple[int, int]:
    """Shut the tree's own door to rsync's user first, then disarm what is behind it."""
    was = os.fstat(root)
    os.fchown(root, os.geteuid(), os.getegid())
    os.fchmod(root, 0o700)
    try:
        result = disarm(root, spare, max_bytes, most, guard)
    except (
        TooLarge,
        OSError,
    ):  # it grew behind the door, or has a writer: the client may try again
        os.fchmod(root, stat.S_IMODE(was.st_mode))
        os.fchown(root, was.st_uid, was.st_gid)
        raise
    os.fchmod(root, 0o755)
    return result


def keep(
    work: str,
    job: str,
    transfers: str,
    project: str,
    *,
    bases: int,
    most: int,
    guard: Guard = go_on,
) -> None:
    """Make ``work/job`` the project's base in ``transfers``; absent is fine.

    At any moment the project has a whole base if it had one: the new tree and the former base
    change places in one step. Aside, under a name that says so, whichever of them is there is to
    go; so nothing that a killed process left is ever doubtful.

    Args:
        work: the directory of workspaces.
        job: the name of the workspace.
        transfers: the root of the rsync module, whose owner the base gets.
        project: the name of the base.
        bases: how many are kept; of more, the oldest go.
        most: entries the tree may have.
        guard: see :data:`~flashpods.adapters.files.trees.Guard`.

    Raises:
        TooLarge, OSError: a repeated call continues.
    """
    with contextlib.ExitStack() as stack:
        opened = partial(_until, stack)
        source, module = opened(open_path(work)), opened(open_path(transfers))
        owner = os.fstat(module).st_uid
        shelf = opened(_shelf(module, owner))
        try:
            root = opened(open_dir(source, job))
            lock(root, guard)
            os.stat(job, dir_fd=source, follow_symlinks=False)  # not taken while we waited
        except (FileNotFoundError, NotADirectoryError):
            _trim(shelf, bases, guard)
            return
        if bases == 0:
            discard_at(source, job, guard)
        else:
            arm(root, Spare(source, job), owner, most, guard)
            os.fchown(root, owner, -1)
            move_aside(source, job, guard)
            _bring_in(source, ASIDE + job, shelf, project, guard)
            remove(source, ASIDE + job, guard)
        _trim(shelf, bases, guard)


def _until(stack: contextlib.ExitStack, fd: int) -> int:
    """Return the descriptor, which is closed with the stack."""
    stack.callback(os.close, fd)
    return fd


def _bring_in(source: int, new: str, shelf: int, project: str, guard: Guard) -> None:
    """Give ``new`` the project's name; the former base, if any, is aside then."""
    from flashpods.adapters.files.exchange import exchange  # noqa: PLC0415 - ctypes takes its time

    for _ in range(_TRIES):
        try:
            exchange(source, new, shelf, project)
        except FileNotFoundError:  # there is no former one
            pass
        except OSError as e:
            if e.errno not in _NO_EXCHANGE:
                raise
            _bring_in_by_turns(source, new, shelf, project, guard)
            return
        else:
            return
        try:
            os.rename(new, project, src_dir_fd=source, dst_dir_fd=shelf)
        except OSError as e:
            if e.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise  # else another job's tree has come in meanwhile
        else:
            return
    raise OSError(errno.EBUSY, "other jobs' trees keep coming in", project)


def _bring_in_by_turns(source: int, new: str, shelf: int, project: str, guard: Guard) -> None:
    """Do so where the file system can't exchange: between two renames there is no base.

    Of a process killed there :func:`_restore` finds the former one, at the next :func:`keep`.
    """
    remove(shelf, FORMER + project, guard)  # of a process killed after the second
    os.rename(project, FORMER + project, src_dir_fd=shelf, dst_dir_fd=shelf)
    try:
        os.rename(new, project, src_dir_fd=source, dst_dir_fd=shelf)
    except OSError:
        with contextlib.suppress(FileNotFoundError):  # another has restored it
            os.rename(FORMER + project, project, src_dir_fd=shelf, dst_dir_fd=shelf)
        raise


def _restore(shelf: int, former: str, guard: Guard) -> None:
    """Give a former base its name again, or delete it if there is another by that name."""
    project = former.removeprefix(FORMER)
    try:
        os.stat(project, dir_fd=shelf, follow_symlinks=False)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            os.rename(former, project, src_dir_fd=shelf, dst_dir_fd=shelf)
    else:
        remove(shelf, former, guard)


def _shelf(module: int, owner: int) -> int:
    """Open the directory of the bases, made if it is not there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(BASES, 0o700, dir_fd=module)
        os.chown(BASES, owner, os.getegid(), dir_fd=module, follow_symlinks=False)
        grant(module, BASES, 0o770)
    return open_dir(module, BASES)


def _trim(shelf: int, most: int, guard: Guard) -> None:
    """Delete what is aside, then the bases beyond ``most``, by when they came (their ctime)."""
    aged = []
    for entry in scan(shelf, _BASES_SEEN):
        if entry.name.startswith(FORMER):
            _restore(shelf, entry.name, guard)
        elif entry.name.startswith("."):
            remove(shelf, entry.name, guard)
        else:
            aged.append((entry.stat(follow_symlinks=False).st_ctime_ns, entry.name))
    for _, name in sorted(aged, reverse=True)[most:]:
        discard_at(shelf, name, guard)


def main(arguments: list[str]) -> int:
    """Run one verb and print its outcome as one line of JSON; 2 for a wrong command line."""
    answer: dict[str, object] = {"ok": None}
    try:
        match arguments:
            case ["finalize", transfers, finalized, upload, max_bytes, most]:
                answer["ok"] = finalize(transfers, finalized, upload, int(max_bytes), int(most))
            case ["keep", work, job, transfers, project, bases, most]:
                keep(work, job, transfers, project, bases=int(bases), most=int(most))
            case ["discard", parent, name]:
                discard(parent, name)
            case ["discard_idle", parent, name]:
                answer["ok"] = discard_idle(parent, name)
            case ["serve"]:
                return disk_tool.serve()
            case _:
                sys.stderr.write("usage: finalize|keep|discard|discard_idle|serve ARGUMENT…\n")
                return 2
    except TooLarge:
        answer = {"error": "too_large"}
    except OSError as e:
        answer = {"error": "os", "errno": e.errno, "message": e.strerror}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0
