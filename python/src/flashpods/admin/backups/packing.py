"""zstd (RFC 8878): files packed and unpacked whole, with the frame's checksum."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from flashpods.adapters.sqlite.copies import CopyError, sync

CHUNK: Final = 1024**2
FULL: Final = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def packed_sink(target: Path, *, level: int) -> Iterator[BinaryIO]:
    """Write a packed file; it is on the disk when the block ends, and gone if that failed.

    Raises:
        CopyError: ``disk_full``, ``unreadable``.
    """
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file, compressor.stream_writer(file, closefd=False) as sink:
            yield sink
        sync(target)
    except OSError as e:
        target.unlink(missing_ok=True)
        raise disk_error(e, target) from e
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's content, unpacked if its name ends in ``.zst``.

    Raises:
        CopyError: ``unreadable``, or ``damaged`` where a checksum is wrong or the end is missing.
    """
    try:
        with path.open("rb") as file:
            if path.name.endswith(".zst"):
                yield from _unpacked(file, path)
            else:
                while part := file.read(CHUNK):
                    yield part
    except OSError as e:
        raise CopyError(f"{path}: {e.strerror}", "unreadable") from e


def _unpacked(file: BinaryIO, path: Path) -> Iterator[bytes]:
    # Not stream_reader, which takes a frame that was cut short for its end.
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        while part := file.read(CHUNK):
            if data := decompressor.decompress(part):
                yield data
            if decompressor.unused_data:
                raise CopyError(f"{path}: there is something behind its end", "damaged")
    except zstandard.ZstdError as e:
        raise CopyError(f"{path}: {e}", "damaged") from e
    if not decompressor.eof:
        raise CopyError(f"{path}: its end is missing", "damaged")


def digest(path: Path) -> str:
    """Return the SHA-256 of the content, unpacked."""
    found = hashlib.sha256()
    for part in chunks(path):
        found.update(part)
    return found.hexdigest()


def pack(source: Path, target: Path, *, level: int) -> None:
    """Pack a file under a new name, and prove that it unpacks to the same bytes.

    Raises:
        CopyError: ``disk_full``, ``unreadable``, ``damaged``; the target is gone then.
    """
    with packed_sink(target, level=level) as sink:
        for part in chunks(source):
            sink.write(part)
    if digest(target) != digest(source):
        target.unlink()
        raise CopyError(f"{source} was not the same once packed and unpacked", "damaged")


def unpack(source: Path, target: Path) -> None:
    """Write a file's content, unpacked, to a new file that is on the disk when this returns.

    Raises:
        CopyError: ``disk_full``, ``unreadable``, ``damaged``; the target is gone then.
    """
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            for part in chunks(source):
                file.write(part)
        sync(target)
    except OSError as e:
        target.unlink(missing_ok=True)
        raise disk_error(e, target) from e
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def disk_error(error: OSError, path: Path) -> CopyError:
    """Say what a refusal of the disk means."""
    code = "disk_full" if error.errno in FULL else "unreadable"
    return CopyError(f"{path}: {error.strerror}", code)
