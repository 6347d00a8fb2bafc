"""Artifacts and logs in one archive: tar (pax, POSIX.1-2001) in zstd, beneath two names.

``artifacts/<job>/…`` and ``logs/<job>.log``. They change while they are read: a file that has gone
is left out, one that grows is taken at the size it had, one that shrinks is filled up with zeros.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from flashpods.adapters.files.artifacts import STAGING
from flashpods.adapters.sqlite.copies import CopyError
from flashpods.admin.backups.packing import chunks, disk_error, packed_sink
from flashpods.admin.privileges import as_owner_of

ARTIFACTS, LOGS = "artifacts", "logs"
_PART: Final = 1024**2


def trees_of(artifacts: Path | None, logs: Path | None) -> dict[str, Path]:
    """Return the trees to archive, by the name they have in it."""
    wanted = {ARTIFACTS: artifacts, LOGS: logs}
    return {name: path for name, path in wanted.items() if path is not None}


def size_of(trees: dict[str, Path]) -> int:
    """Return the bytes of all files, as an upper bound of what the archive takes."""
    return sum(found.st_size + 1024 for _, _, found in _walk(trees))


def archive(trees: dict[str, Path], target: Path, *, level: int) -> int:
    """Write the archive to a new file, read it back whole, and return how many files it has.

    Raises:
        CopyError: ``disk_full``, ``unreadable``, ``damaged``; the target is gone then.
    """
    count = 0
    with (
        packed_sink(target, level=level) as sink,
        tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as out,
    ):
        for path, name, found in _walk(trees):
            count += _add(out, path, name, found)
    written = sum(1 for _ in _members(target))
    if written != count:
        target.unlink()
        raise CopyError(f"{target} has {written} of {count} files", "damaged")
    return count


def _walk(trees: dict[str, Path]) -> Iterator[tuple[Path, str, os.stat_result]]:
    """Yield every regular file beneath the trees; none that a job can still write.

    Collecting makes files of links that stay inside and leaves the others out, so there are none.
    """
    for top, root in trees.items():
        for directory, folders, names in os.walk(root, followlinks=False):
            here = Path(directory)
            if here == root and STAGING in folders:
                folders.remove(STAGING)
            for name in sorted(names):
                path = here / name
                try:
                    found = path.lstat()
                except OSError:
                    continue
                if stat.S_ISREG(found.st_mode):
                    yield path, f"{top}/{path.relative_to(root)}", found


def _add(out: tarfile.TarFile, path: Path, name: str, found: os.stat_result) -> int:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(found.st_mode) & 0o777, int(found.st_mtime)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return 0  # its retention was over
    with os.fdopen(handle, "rb") as file:
        info.size = os.fstat(handle).st_size
        out.addfile(info, _Exactly(file))
    return 1


class _Exactly(io.RawIOBase):
    """A file that never ends early: tar has written down its size before its content."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        return data + b"\0" * (size - len(data))


class _Pipe(io.RawIOBase):
    """The unpacked content as tarfile reads it: a stream of blocks."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        super().__init__()
        self._parts, self._left = parts, bytearray()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            part = next(self._parts, None)
            if part is None:
                break
            self._left += part
        given = bytes(self._left[: size if size >= 0 else None])
        del self._left[: len(given)]
        return given


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    pipe = _Pipe(chunks(path))
    try:
        with tarfile.open(fileobj=pipe, mode="r|") as found:
            for member in found:
                yield found, member
        while pipe.read(_PART):  # to the frame's checksum, which stands behind tar's own end
            pass
    except tarfile.TarError as e:
        raise CopyError(f"{path}: {e}", "damaged") from e


def extract(path: Path, trees: dict[str, Path]) -> int:
    """Put back what is not there; return how many files. What is there already stays as it is.

    The files are written as the tree's owner, so that no link of theirs leads root elsewhere. Our
    own checks, because ``tarfile``'s filters came with 3.11.4, and Debian 12 has 3.11.2.

    Raises:
        CopyError: ``disk_full``, ``unreadable``, ``damaged``; repeated, it goes on.
    """
    count = 0
    for _ in _members(path):
        pass  # the whole of it first: half an archive brings nothing back
    try:
        for found, member in _members(path):
            top, *rest = member.name.split("/")
            if not member.isreg() or not rest or not {"", ".", ".."}.isdisjoint(rest):
                raise CopyError(f"{path}: {member.name[:200]!r} is none of ours", "damaged")
            if (root := trees.get(top)) is not None:
                with as_owner_of(root):
                    count += _put(found, member, root.joinpath(*rest))
    except OSError as e:
        raise disk_error(e, path) from e
    return count


def _put(found: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> int:
    if os.path.lexists(target):
        return 0
    target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    new = target.with_name(f".{secrets.token_hex(8)}.new")
    content = found.extractfile(member)
    assert content is not None, "a regular file has content"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with content, os.fdopen(os.open(new, flags, member.mode & 0o777), "wb") as file:
            shutil.copyfileobj(content, file, _PART)
        os.utime(new, (member.mtime, member.mtime))
        new.rename(target)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return 1
