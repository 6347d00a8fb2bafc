"""Unpacking the tar stream of a directory artifact beneath the place the caller named."""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO, Final

from flashpods.client.download import PartFile, Target
from flashpods.client.errors import DownloadError

__all__ = ["extract"]

MAX_MEMBERS: Final = 200_000


def extract(part: PartFile, target: Target, name: str, listed_bytes: int) -> None:
    """Unpack ``part`` as the directory ``target``, which must not exist yet; blocks.

    The data filter of :mod:`tarfile` refuses absolute names, ``..``, links that leave the
    directory and device nodes. Everything is unpacked into a directory of a random name and
    renamed, so the final name never shows half a tree.

    Args:
        part: the whole archive.
        target: where the directory goes.
        name: the artifact's name; an archive whose members all lie in ``name/`` loses that level.
        listed_bytes: the artifact's size in the list, which bounds what a sparse member may claim.

    Raises:
        DownloadError: ``invalid_target`` or ``unsafe_archive``.
    """
    # /proc/self/fd is Linux only; elsewhere the directory's path must do.
    parent = Path(f"/proc/self/fd/{target.directory_fd}")
    if not parent.is_dir():
        parent = target.directory
    work = f".flashpods-{secrets.token_hex(8)}.part"
    os.mkdir(work, dir_fd=target.directory_fd)
    try:
        with os.fdopen(part.reader(), "rb") as file:
            nested = _unpack(file, parent / work, name, max(listed_bytes, part.size))
        source = f"{work}/{name}" if nested else work
        os.rename(
            source,
            target.name,
            src_dir_fd=target.directory_fd,
            dst_dir_fd=target.directory_fd,
        )
    except (tarfile.TarError, EOFError) as error:
        raise DownloadError(
            "unsafe_archive", f"the archive of {name[:80]!r} was refused: {str(error)[:200]}"
        ) from error
    except (FileExistsError, NotADirectoryError, OSError) as error:
        raise DownloadError(
            "invalid_target", f"cannot unpack to {target.path}: {error.strerror}; move it away"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True, dir_fd=target.directory_fd)


def _unpack(file: BinaryIO, into: Path, name: str, most_bytes: int) -> bool:
    """Unpack; return whether every member lies in ``name/``."""
    total = 0
    nested = True
    with tarfile.open(fileobj=file, mode="r:") as archive:
        members: list[tarfile.TarInfo] = []
        for member in archive:
            total += member.size
            members.append(member)
            if total > most_bytes or len(members) > MAX_MEMBERS:
                raise DownloadError("unsafe_archive", "the archive claims more than it holds")
            first = member.name.removeprefix("./").split("/")[0]
            nested = nested and first == name
        archive.extractall(into, members=members, filter="data")
    return nested and bool(members)
