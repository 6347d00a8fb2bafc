"""A tar of a directory, made while it is sent: bounded memory, the same bytes for the same tree.

The format is POSIX.1-2001 (pax), which every tar of the last twenty years reads and which has room
for long names and large files. Entries are in name order; owner 0, no setuid, setgid or sticky
bits, whole seconds of modification time.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator

from flashpods.adapters.files.openat2 import follow_beneath, open_beneath
from flashpods.allocator import PIECE_BYTES


def tar_chunks(dir_fd: int, prefix: str) -> Iterator[bytes]:
    """Return the chunks of a tar of the open directory, all names beneath ``prefix/``.

    Regular files and directories are in it, and links whose target resolves beneath the directory;
    all else is left out. A file that shrinks or grows while it is sent is padded with zeros or cut
    to the size that its header says, so the tar is always well formed.

    Args:
        dir_fd: an open directory; closed when the iterator ends, is closed or is dropped.
        prefix: the directory's name in the tar.

    Raises:
        OSError: while iterating: the disk can't be read.
    """
    chunks = _stream(dir_fd, prefix)
    next(chunks)  # from here on closing the generator closes dir_fd, even if nobody iterates
    return chunks


def _stream(root: int, prefix: str) -> Iterator[bytes]:
    try:
        yield b""
        sent = 0
        for chunk in _members(root, prefix):
            sent += len(chunk)
            yield chunk
        end = 2 * tarfile.BLOCKSIZE
        yield bytes(end + -(sent + end) % tarfile.RECORDSIZE)
    finally:
        os.close(root)


def _members(root: int, prefix: str) -> Iterator[bytes]:
    """Yield headers and contents, parents before what is in them."""
    yield _header(os.fstat(root), f"{prefix}/", tarfile.DIRTYPE)
    pending = _children(root, "")
    while pending:
        path = pending.pop()
        try:
            fd = open_beneath(root, path, os.O_PATH)
        except OSError:
            continue  # it vanished, or is somewhere else now
        try:
            info = os.fstat(fd)
            if stat.S_ISDIR(info.st_mode):
                yield _header(info, f"{prefix}/{path}/", tarfile.DIRTYPE)
                pending += _children(root, f"{path}/")
            elif stat.S_ISLNK(info.st_mode):
                if _stays(root, path):
                    target = os.readlink("", dir_fd=fd)
                    yield _header(info, f"{prefix}/{path}", tarfile.SYMTYPE, target)
            elif stat.S_ISREG(info.st_mode):
                yield from _file(root, path, prefix)
        finally:
            os.close(fd)


def _children(root: int, path: str) -> list[str]:
    """Return the paths in a directory, the last first."""
    try:
        fd = open_beneath(root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        with os.scandir(fd) as entries:
            names = sorted((entry.name for entry in entries), key=os.fsencode, reverse=True)
        return [path + name for name in names]
    finally:
        os.close(fd)


def _stays(root: int, path: str) -> bool:
    try:
        os.close(follow_beneath(root, path))
    except OSError:
        return False
    return True


def _file(root: int, path: str, prefix: str) -> Iterator[bytes]:
    try:
        fd = open_beneath(root, path, os.O_RDONLY)
    except OSError:
        return
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return
        yield _header(info, f"{prefix}/{path}", tarfile.REGTYPE)
        left = info.st_size
        while left > 0 and (chunk := os.read(fd, min(PIECE_BYTES, left))):
            left -= len(chunk)
            yield chunk
        while left > 0:  # it shrank
            chunk = bytes(min(PIECE_BYTES, left))
            left -= len(chunk)
            yield chunk
        if info.st_size % tarfile.BLOCKSIZE:
            yield bytes(-info.st_size % tarfile.BLOCKSIZE)
    finally:
        os.close(fd)


def _header(info: os.stat_result, name: str, kind: bytes, target: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = stat.S_IMODE(info.st_mode) & 0o777
    member.size = info.st_size if kind == tarfile.REGTYPE else 0
    member.mtime = max(0, int(info.st_mtime))
    member.linkname = target
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
