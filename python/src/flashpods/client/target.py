"""Where an artifact goes: an open directory and a name in it, so that nothing leads elsewhere."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashpods.client.errors import DownloadError

__all__ = ["ARTIFACTS_DIR", "Target", "check_name", "held_within", "open_target"]

ARTIFACTS_DIR: Final = "flashpods-artifacts"  # where they come home unless told otherwise

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def check_name(name: str) -> str:
    """Return an artifact's name if it can be one file name here.

    Raises:
        DownloadError: ``invalid_artifact_name``.
    """
    if (
        not name
        or name in {".", ".."}
        or any(c in name for c in "/\\\0")
        or name != name.strip()
        or len(name.encode("utf-8", "surrogatepass")) > 255
    ):
        raise DownloadError(
            "invalid_artifact_name",
            f"{name[:80]!r} is not an artifact's name: a file name of 1 to 255 bytes, "
            "no slash, no backslash, no white space at its ends",
        )
    return name


@dataclass(slots=True)
class Target:
    """A place in an open directory; ``directory_fd`` keeps it the same directory."""

    directory: Path
    name: str
    directory_fd: int

    @property
    def path(self) -> Path:
        """Where the artifact will be."""
        return self.directory / self.name

    def close(self) -> None:
        """Close the directory."""
        if self.directory_fd >= 0:
            os.close(self.directory_fd)
            self.directory_fd = -1


def held_within(dest: str | Path) -> Path | None:
    """Return the directory that a place is to be held within (see :func:`open_target`).

    A relative path means a place beneath the working directory, which may be a tree that brought a
    link of that name; it is held there. An absolute path, or one with ``..``, is meant as it is.
    """
    path = Path(dest).expanduser()
    return None if path.is_absolute() or ".." in path.parts else Path.cwd()


def open_target(dest: str | Path, name: str, within: str | Path | None = None) -> Target:
    """Open the directory that ``dest`` means.

    Args:
        dest: an existing directory, or a path that ends in a slash (made if it is missing): the
            file is put into it as ``name``. Anything else is the file's own path, in a directory
            that exists. A symbolic link to a directory counts as one only with the slash, so that
            one that was planted where a file is to go leads nowhere else.
        name: a checked name.
        within: a directory that ``dest`` must lie in, relative to it or beneath it; then no
            component of the way there may be a symbolic link or ``..``.

    Raises:
        DownloadError: ``invalid_target``: the directory can't be used, or a directory is where
            the file is to go.
    """
    text = os.fspath(dest)
    if within is not None:
        return _checked(_open_beneath(Path(within), text, name))
    path = Path(text).expanduser()
    if text.endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
    elif path.is_symlink() and path.is_dir():
        raise DownloadError(
            "invalid_target",
            f"{path} is a symbolic link to a directory; name it with a slash at its end, or move "
            "it away",
        )
    directory, final = (path, name) if path.is_dir() else (path.parent, path.name)
    try:
        directory_fd = os.open(directory, _DIRECTORY)
    except OSError as error:
        raise DownloadError(
            "invalid_target", f"cannot write to {directory}: {error.strerror}"
        ) from error
    return _checked(Target(directory, final, directory_fd))


def _checked(target: Target) -> Target:
    """Refuse a target that is a directory."""
    try:
        mode = os.stat(target.name, dir_fd=target.directory_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        target.close()
        raise DownloadError("invalid_target", f"{target.path} is a directory; move it away")
    return target


def _open_beneath(within: Path, text: str, name: str) -> Target:
    """Go from ``within`` to the target's directory name by name, never through a link."""
    root = within.expanduser().absolute()
    path = Path(text).expanduser()
    parts = list((path.relative_to(root) if _is_beneath(path, root) else path).parts)
    if path.is_absolute() and not _is_beneath(path, root):
        raise DownloadError("invalid_target", f"{path} is not in {root}; name a place in it")
    if ".." in parts:
        raise DownloadError("invalid_target", f"{text[:200]!r} has .. in it; name the place itself")
    make = text.endswith("/")
    at = os.open(root, _DIRECTORY)
    done = root
    try:
        while parts and (make or len(parts) > 1 or _is_directory(at, parts[0])):
            part = parts.pop(0)
            done /= part
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
            deeper = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = deeper
    except OSError as error:
        os.close(at)
        raise DownloadError(
            "invalid_target",
            f"cannot write to {done}, which must be a directory and no link: {error.strerror}",
        ) from error
    return Target(done, parts[0] if parts else name, at)


def _is_beneath(path: Path, root: Path) -> bool:
    return path.is_absolute() and path.is_relative_to(root)


def _is_directory(at: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
