"""Artifacts and logs in one archive: tar (pax, POSIX.1-2001) in zstd, beneath two names.

``artifacts/<job>/…`` and ``logs/<job>.log``. They change while they are read: a file that has gone
is left out, one that grows is taken at the size it had, one that shrinks is filled up with zeros.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from flashpods.adapters.files.artifacts import STAGING
from flashpods.adapters.sqlite.copies import CopyError
from flashpods.admin.backups.packing import chunks, disk_error, packed_sink

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
    with packed_sink(target, level=level) as sink:
        out = tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT)  # type: ignore[call-overload] # a pipe only writes
        with out:
            for path, name, found in _walk(trees):
                count += _add(out, path, name, found)
    written = sum(1 for _ in _members(target))
    if written != count:
        target.unlink()
        raise CopyError(f"{target} has {written} of {count} files", "damaged")
    return count


def _walk(trees: dict[str, Path]) -> Iterator[tuple[Path, str, os.stat_result]]:
    """Yield every regular file and link beneath the trees; none that a job can still write."""
    for top, root in trees.items():
        for directory, folders, names in os.walk(root, followlinks=False):
            here = Path(directory)
            if here == root and STAGING in folders:
                folders.remove(STAGING)
            for name in sorted(names + [f for f in folders if (here / f).is_symlink()]):
                path = here / name
                try:
                    found = path.lstat()
                except OSError:
                    continue
                if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
                    yield path, f"{top}/{path.relative_to(root)}", found


def _add(out: tarfile.TarFile, path: Path, name: str, found: os.stat_result) -> int:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(found.st_mode) & 0o777, int(found.st_mtime)
    try:
        if stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
            out.addfile(info)
            return 1
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
    try:
        with tarfile.open(fileobj=_Pipe(chunks(path)), mode="r|") as found:
            for member in found:
                yield found, member
    except tarfile.TarError as e:
        raise CopyError(f"{path}: {e}", "damaged") from e


def extract(path: Path, trees: dict[str, Path], *, owner: tuple[int, int]) -> int:
    """Put back what is not there; return how many files. What is there already stays as it is.

    Names and links that lead out of the trees are refused (PEP 706's ``data`` filter).

    Raises:
        CopyError: ``disk_full``, ``unreadable``, ``damaged``; repeated, it goes on.
    """
    count = 0
    try:
        for found, member in _members(path):
            top, _, rest = member.name.partition("/")
            root = trees.get(top)
            if root is None or not rest or os.path.lexists(root / rest):
                continue
            member.name = rest
            found.extract(tarfile.data_filter(member, str(root)), root, set_attrs=False)
            _give(root, Path(rest), owner)
            count += 1
    except tarfile.FilterError as e:
        raise CopyError(f"{path}: {e}", "damaged") from e
    except OSError as e:
        raise disk_error(e, path) from e
    return count


def _give(root: Path, rest: Path, owner: tuple[int, int]) -> None:
    """Hand a file, and the directories made for it, to the owner of the tree."""
    if os.geteuid() != 0:
        return
    for part in (rest, *rest.parents[:-1]):
        os.chown(root / part, *owner, follow_symlinks=False)
