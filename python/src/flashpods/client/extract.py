"""Unpacking the tar stream of a directory artifact beneath the place the caller named.

The checks are our own, the same on every Python: ``tarfile``'s extraction filters came with 3.11.4,
and Debian 12 has 3.11.2. ``tarfile`` only reads here, it never writes.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from flashpods.client.download import PartFile, Target
from flashpods.client.errors import DownloadError

__all__ = ["extract"]

MAX_MEMBERS: Final = 200_000
MOST_LEVELS: Final = 128  # a host collects 64
COPY_BYTES: Final = 1 << 18
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Refused(Exception):
    """The archive holds what is not unpacked; the message says what."""


def extract(part: PartFile, target: Target, name: str, listed_bytes: int) -> None:
    """Unpack ``part`` as the directory ``target``, which must not exist yet; blocks.

    Directories, regular files and symbolic links that end inside the directory are unpacked, each
    name once; an archive with anything else in it is refused as a whole: absolute names, ``..``,
    hard links, FIFOs, devices, links that lead out or nowhere. Owners and set-uid, set-gid and
    sticky bits are ignored, and nothing becomes writable for others. Everything is unpacked into a
    directory of a random name and renamed, so the final name never shows half a tree.

    Args:
        part: the whole archive.
        target: where the directory goes.
        name: the artifact's name; an archive whose members all lie in ``name/`` loses that level.
        listed_bytes: the artifact's size in the list, which bounds what a sparse member may claim.

    Raises:
        DownloadError: ``invalid_target``, ``unsafe_archive`` or ``download_disk_full``.
    """
    # /proc/self/fd is Linux only; elsewhere the directory's path must do.
    parent = Path(f"/proc/self/fd/{target.directory_fd}")
    if not parent.is_dir():
        parent = target.directory
    work = f".flashpods-{secrets.token_hex(8)}.part"
    os.mkdir(work, dir_fd=target.directory_fd)
    try:
        with os.fdopen(part.reader(), "rb") as file:
            root = _Tree(parent / work, name, max(listed_bytes, part.size)).unpack(file)
        os.rename(
            root.relative_to(parent),
            target.name,
            src_dir_fd=target.directory_fd,
            dst_dir_fd=target.directory_fd,
        )
    # Besides its own errors tarfile raises these for headers that make no sense: numbers out of
    # range, NUL in a name, a thousand extended headers in a row.
    except (_Refused, tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as e:
        raise DownloadError(
            "unsafe_archive", f"the archive of {name[:80]!r} was refused: {str(e)[:200]}"
        ) from e
    except OSError as e:
        if e.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DownloadError(
                "download_disk_full", f"cannot unpack to {target.path}: {e.strerror}; make room"
            ) from e
        raise DownloadError(
            "invalid_target", f"cannot unpack to {target.path}: {e.strerror}; move it away"
        ) from e
    finally:
        shutil.rmtree(work, ignore_errors=True, dir_fd=target.directory_fd)


class _Tree:
    """What is unpacked. No link is made before all else is there, so no write follows one."""

    def __init__(self, work: Path, name: str, most_bytes: int) -> None:
        self._work = work
        self._name = name
        self._most_bytes = most_bytes
        self._made: set[tuple[str, ...]] = set()
        self._links: dict[tuple[str, ...], str] = {}

    def unpack(self, file: BinaryIO) -> Path:
        """Return the directory that is the artifact."""
        total = count = 0
        nested = True
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                count += 1
                total += member.size
                if member.size < 0 or total > self._most_bytes or count > MAX_MEMBERS:
                    raise _Refused("it claims more than it holds")
                parts = _parts(member.name)
                nested = (
                    nested and parts[:1] == (self._name,) and (len(parts) > 1 or member.isdir())
                )
                self._add(archive, member, parts)
        if not (nested and count):
            self._link(self._work, 0)
            return self._work
        # A random name here too: no link can leave the tree and come back by a name it knows.
        root = self._work / secrets.token_hex(8)
        (self._work / self._name).rename(root)
        self._link(root, 1)
        return root

    def _add(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]
    ) -> None:
        if not (member.isdir() or member.isreg() or member.issym()):
            raise _Refused(f"{member.name!r} is no file, directory or symbolic link")
        if parts in self._links or not (parts or member.isdir()):
            raise _Refused(f"it has {member.name!r} twice")
        try:
            self._directory(parts if member.isdir() else parts[:-1])
            if member.isreg():
                _write(archive, member, self._work.joinpath(*parts))
            elif member.issym():
                self._links[parts] = member.linkname
        except (FileExistsError, NotADirectoryError) as e:
            raise _Refused(f"it has {member.name!r} twice") from e

    def _directory(self, parts: tuple[str, ...]) -> None:
        """Make a directory and those above it, unless they are there."""
        if parts not in self._made:
            self._work.joinpath(*parts).mkdir(parents=True, exist_ok=True)
            self._made.add(parts)

    def _link(self, root: Path, skip: int) -> None:
        """Make the links, then see where the kernel finds their ends."""
        paths = [root.joinpath(*parts[skip:]) for parts in self._links]
        for path, end in zip(paths, self._links.values(), strict=True):
            try:
                path.symlink_to(end)
            except (FileExistsError, NotADirectoryError) as e:
                raise _Refused(f"it has {path.name!r} twice") from e
        base = os.path.realpath(root, strict=True)
        for path in paths:
            try:
                path.stat()  # the kernel's limit of links in a row, before Python's resolving
                real = os.path.realpath(path, strict=True)
            except OSError as e:
                raise _Refused(f"the link {path.name!r} leads nowhere") from e
            if os.path.commonpath([base, real]) != base:
                raise _Refused(f"the link {path.name!r} leads out of it")


def _parts(name: str) -> tuple[str, ...]:
    """Return the path's components below the archive's top; () is the top."""
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if name.startswith("/") or ".." in parts:
        raise _Refused(f"{name!r} lies outside of it")
    if len(parts) > MOST_LEVELS:
        raise _Refused(f"{name[:80]!r} is over {MOST_LEVELS} levels deep, deeper than any host's")
    return parts


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Make a regular file with the member's content, executable bits and time of modification."""
    mode = 0o755 if member.mode & 0o100 else 0o644  # the umask takes off more
    content = archive.extractfile(member)
    assert content is not None  # only links and special files have none
    with content, os.fdopen(os.open(path, _NEW, mode), "wb") as out:
        shutil.copyfileobj(content, out, COPY_BYTES)
    with suppress(OSError, OverflowError, ValueError):  # a time that the file system can't keep
        os.utime(path, (member.mtime, member.mtime))
