"""What is done to a whole tree of files: walk, measure, disarm, delete. Standard library only.

Every step goes from an open directory to a name in it and never follows a link, so that a tree
can't lead out of itself, whoever writes to it meanwhile. Walks hold two descriptors, however deep
the tree is.

"Ours" is :func:`os.geteuid`: flashpods, or user 0 of the user namespace that
:mod:`flashpods.adapters.files.tree_tool` runs in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator

from flashpods.adapters.files.descent import DIRECTORY, descend

MUNGED = "/rsyncd-munged/"  # rsyncd.conf(5), "munge symlinks"
ASIDE = ".rm-"  # a tree on its way out; whoever deletes the name deletes this too
SPARE = ".link-"  # a link before it is moved into its tree
BATCH = 4096  # entries held at once while deleting
LOCK_SECONDS = 30.0

Guard = Callable[[], None]
"""Called now and then; raises to stop the work."""

_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class TooLarge(Exception):
    """The tree holds more bytes or entries than it may."""


def go_on() -> None:
    """Guard nothing."""


# --------------------------------------------------------------------------- steps


def grant(parent: int, name: str, bits: int) -> None:
    """Add permission bits to a name in an open directory, never through a link."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISLNK(mode):
            _chmod(fd, stat.S_IMODE(mode) | bits)
    finally:
        os.close(fd)


def _chmod(path_fd: int, mode: int) -> None:
    """Change the mode of an ``O_PATH`` descriptor, which fchmod(2) refuses."""
    os.chmod(f"/proc/self/fd/{path_fd}", mode)  # noqa: PTH101 - a magic link, not a path


def open_dir(parent: int, name: str) -> int:
    """Open a directory by its name in an open one; one of ours without permissions gets them.

    Raises:
        OSError: ``ENOTDIR`` for a link or a file, ``ENOENT``, ``EACCES``.
    """
    try:
        return os.open(name, DIRECTORY, dir_fd=parent)
    except PermissionError:
        grant(parent, name, 0o700)
        return os.open(name, DIRECTORY, dir_fd=parent)


def open_path(path: str) -> int:
    """Open a directory by its path; its last name is no link."""
    return os.open(path, DIRECTORY)


def scan(fd: int, most: int) -> list[os.DirEntry[str]]:
    """Return up to ``most`` entries of an open directory."""
    with os.scandir(fd) as entries:
        return list(itertools.islice(entries, most))


def walk(
    root: int, most: int, guard: Guard = go_on
) -> Generator[tuple[int, list[os.DirEntry[str]]], None, None]:
    """Yield each directory of a tree, parents first: (descriptor, entries).

    A directory is entered only after its entry was yielded, so the caller may open up or delete
    what it sees. Nothing is left out.

    Raises:
        TooLarge: more than ``most`` entries.
        OSError: the tree changed under us, or is not ours to read.
    """
    left = most
    with contextlib.closing(descend(root, open_dir, whole=True)) as directories:
        for here in directories:
            guard()
            entries = scan(here.fd, left + 1)
            left -= len(entries)
            if left < 0:
                raise TooLarge
            yield here.fd, entries
            here.inner.extend(e.name for e in entries if e.is_dir(follow_symlinks=False))


def lock(root: int, guard: Guard) -> None:
    """Keep a second worker off the tree: one that a killed process of ours left behind.

    Raises:
        BlockingIOError: it is still at work after :data:`LOCK_SECONDS`.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while not try_lock(root):
        guard()
        if time.monotonic() > deadline:
            raise BlockingIOError(errno.EWOULDBLOCK, "the tree is still being worked on")
        time.sleep(0.01)


def try_lock(root: int) -> bool:
    """Take the lock of :func:`lock` if nobody has it; it goes with the descriptor."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --------------------------------------------------------------------------- measure, disarm


def measure(root: int, max_bytes: int, most: int, guard: Guard = go_on) -> tuple[int, int]:
    """Return (bytes of regular files, number of files and links). Raises TooLarge, OSError."""
    size = count = 0
    for _, entries in walk(root, most, guard):
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                size += info.st_size
                count += 1
            elif stat.S_ISLNK(info.st_mode):
                count += 1
        if size > max_bytes:
            raise TooLarge
    return size, count


class Spare:
    """A place outside the tree, on its file system, where a link is made before it is moved in."""

    def __init__(self, parent: int, key: str) -> None:
        """Use one name of the open directory ``parent``."""
        self._parent = parent
        self._name = SPARE + key

    def relink(self, directory: int, name: str, target: str, was: os.stat_result) -> None:
        """Replace a link by one to ``target`` with the same times, in one rename."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._parent)
        os.symlink(target, self._name, dir_fd=self._parent)
        times = (was.st_atime_ns, was.st_mtime_ns)
        os.utime(self._name, ns=times, dir_fd=self._parent, follow_symlinks=False)
        os.rename(self._name, name, src_dir_fd=self._parent, dst_dir_fd=directory)


def _own(directory: int, name: str, info: os.stat_result, uid: int, gid: int) -> None:
    """Give one file, link or directory to uid and gid (-1: as it is) and make its mode harmless."""
    if info.st_uid != uid or gid not in {-1, info.st_gid}:
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(info.st_mode):
        return
    have = stat.S_IMODE(info.st_mode)
    want = have & ~_SPECIAL_BITS | (0o700 if stat.S_ISDIR(info.st_mode) else 0o600)
    if want == have:
        return
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) == stat.S_IFMT(info.st_mode):
            _chmod(fd, want)
    finally:
        os.close(fd)


def check_closed(directory: int, name: str) -> None:
    """Prove that nobody has a file of ours open for writing: a read lease can be had (fcntl(2)).

    Where the file system has no leases the proof is left out.

    Raises:
        OSError: ``ETXTBSY``, somebody may still write to it.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        raise OSError(errno.ETXTBSY, "is still being written to", name) from None
    except OSError as e:
        if e.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    finally:
        os.close(fd)


def disarm(root: int, spare: Spare, max_bytes: int, most: int, guard: Guard) -> tuple[int, int]:
    """Make a tree from outside harmless and ours; return what :func:`measure` does.

    Special files go, owners become ours, setuid, setgid and sticky bits go, links lose the prefix
    that rsync put before their targets, and we may read, write and enter everything.

    Raises:
        TooLarge, OSError: half done; a repeated call continues. ``ETXTBSY``: a file has a writer.
    """
    uid, gid = os.geteuid(), os.getegid()
    size = count = 0
    for directory, entries in walk(root, most, guard):
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            kind = stat.S_IFMT(info.st_mode)
            if kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
                os.unlink(entry.name, dir_fd=directory)
                continue
            if kind == stat.S_IFLNK:
                target = os.readlink(entry.name, dir_fd=directory)
                if target.startswith(MUNGED) and target != MUNGED:
                    spare.relink(directory, entry.name, target[len(MUNGED) :], info)
                    count += 1
                    continue  # made by us, so ours
            _own(directory, entry.name, info, uid, gid)
            if kind == stat.S_IFREG:
                check_closed(directory, entry.name)
                size += info.st_size
            count += kind != stat.S_IFDIR
        if size > max_bytes:
            raise TooLarge
    return size, count


def arm(root: int, spare: Spare, uid: int, most: int, guard: Guard) -> None:
    """Give a tree to the user of rsync, its links' targets prefixed again as rsync does.

    Raises:
        TooLarge, OSError: half done; a repeated call continues.
    """
    for directory, entries in walk(root, most, guard):
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink(entry.name, dir_fd=directory)
                if not target.startswith(MUNGED):
                    spare.relink(directory, entry.name, MUNGED + target, info)
                    info = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
            _own(directory, entry.name, info, uid, -1)


# --------------------------------------------------------------------------- delete


def remove(parent: int, name: str, guard: Guard = go_on) -> None:
    """Delete a name and all beneath it; absent is fine.

    A directory within the tree is emptied of files, its directories are moved up to the tree's
    top, and it goes: so neither depth nor breadth costs descriptors, stack or memory.

    Raises:
        OSError: something in it is not ours to delete; the rest may be gone.
    """
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        return
    fresh = (f".{os.urandom(8).hex()}-{n}" for n in itertools.count())
    top = _open_to_empty(parent, name)
    try:
        while entries := scan(top, BATCH):
            guard()
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _hollow_out(top, entry.name, fresh, guard)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=top)
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


def _open_to_empty(parent: int, name: str) -> int:
    fd = open_dir(parent, name)
    info = os.fstat(fd)
    if info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd


def _hollow_out(top: int, name: str, fresh: Iterator[str], guard: Guard) -> None:
    """Delete the files of a directory, move its directories beside it, delete it."""
    with contextlib.suppress(OSError):  # an empty one needs no more
        os.rmdir(name, dir_fd=top)
        return
    try:
        fd = _open_to_empty(top, name)
    except FileNotFoundError:
        return
    try:
        while entries := scan(fd, BATCH):
            guard()
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=fd)
                        continue
                    try:
                        os.rename(entry.name, next(fresh), src_dir_fd=fd, dst_dir_fd=top)
                    except PermissionError:  # a directory that moves must be writable: its ".."
                        grant(fd, entry.name, 0o700)
                        os.rename(entry.name, next(fresh), src_dir_fd=fd, dst_dir_fd=top)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=top)


def move_aside(parent: int, name: str, guard: Guard) -> None:
    """Rename a name out of sight, so that nobody finds half of it; absent is fine."""
    for _ in range(3):  # another process may be at the same name
        remove(parent, ASIDE + name, guard)
        try:
            os.rename(name, ASIDE + name, src_dir_fd=parent, dst_dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as e:
            if e.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}:
                raise
        else:
            return


def discard_at(parent: int, name: str, guard: Guard) -> None:
    """Delete a name, out of sight at once; absent is fine. Raises OSError."""
    move_aside(parent, name, guard)
    remove(parent, ASIDE + name, guard)
