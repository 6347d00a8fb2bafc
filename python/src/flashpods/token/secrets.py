"""The secrets file: read with care, kept in memory, replaced as a whole or not at all."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from flashpods.config_base import ConfigError
from flashpods.errors import InternalError

MOST_BYTES: Final = 64 * 1024
_KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_VALUE: Final = re.compile(r"[!-~]{1,4096}\Z")
_HOW: Final = "chown root and chmod 0600 it"

# acl(5) as an extended attribute (linux/posix_acl_xattr.h): version, then tag, permissions, id.
_ACL: Final = "system.posix_acl_access"
_ACL_HEAD, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_OTHER = 0x02, 0x04, 0x08, 0x20


def locate(setting: Path, credentials: str | None) -> tuple[Path, bool]:
    """Return the file to read, and whether it is one of systemd's credentials.

    Args:
        setting: ``tokens.secrets_file``.
        credentials: ``$CREDENTIALS_DIRECTORY``, of a unit with LoadCredential (systemd.exec(5)).
    """
    if credentials:
        loaded = Path(credentials) / setting.name
        if loaded.exists():
            return loaded, True
    return setting, False


def read(file: Path, *, credential: bool = False) -> dict[str, str]:
    """Read the secrets.

    Args:
        file: the file.
        credential: it is one of systemd's, which an access list may open to our user.

    Raises:
        ConfigError: it is missing, not a regular file, owned by another user, open to group or
            world, too large, not one JSON object of names and visible ASCII strings. The message
            never holds a part of the content.
    """
    try:
        # Not blocking: a FIFO would hold us up before we see that it is one.
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as e:
        raise ConfigError(f"tokens.secrets_file {file}: {e.strerror}") from e
    try:
        _check_owner(file, fd, credential=credential)
        content = b""
        while part := os.read(fd, MOST_BYTES + 1 - len(content)):
            content += part
    except OSError as e:
        raise ConfigError(f"tokens.secrets_file {file}: {e.strerror}") from e
    finally:
        os.close(fd)
    if len(content) > MOST_BYTES:
        raise ConfigError(f"tokens.secrets_file {file} is over {MOST_BYTES} bytes")
    return _parse(file, content)


def _check_owner(file: Path, fd: int, *, credential: bool) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"tokens.secrets_file {file} is not a regular file")
    if found.st_uid not in {0, os.geteuid()}:
        raise ConfigError(
            f"tokens.secrets_file {file} is owned by user {found.st_uid}, who can change it: {_HOW}"
        )
    mode = stat.S_IMODE(found.st_mode)
    # With an access list the group's bits are its mask, and say nothing of the group.
    if mode & 0o077 and not (credential and mode & 0o037 == 0 and _only_ours(fd)):
        raise ConfigError(
            f"tokens.secrets_file {file} has mode {mode:04o}, which opens it to others: {_HOW}"
        )


def _only_ours(fd: int) -> bool:
    """Whether the file has an access list, and it lets in nobody but its owner and our user."""
    try:
        raw = os.getxattr(fd, _ACL)
    except OSError:
        return False
    for tag, permissions, user in _ACL_ENTRY.iter_unpack(raw[_ACL_HEAD.size :]):
        others = tag in {_ACL_GROUP_OBJ, _ACL_GROUP, _ACL_OTHER}
        if permissions and (others or (tag == _ACL_USER and user != os.geteuid())):
            return False
    return True


def _parse(file: Path, content: bytes) -> dict[str, str]:
    try:
        found = json.loads(content.decode(), object_pairs_hook=_once)
    except _Twice:
        raise ConfigError(f"tokens.secrets_file {file} has a key twice") from None
    except (ValueError, RecursionError):
        # Python's message may quote the content.
        raise ConfigError(f"tokens.secrets_file {file} is not JSON") from None
    if not isinstance(found, dict):
        raise ConfigError(f"tokens.secrets_file {file} must hold one JSON object")
    for number, (key, value) in enumerate(found.items(), 1):
        if not _KEY.match(key):  # not shown: somebody may have put a secret there
            raise ConfigError(
                f"tokens.secrets_file {file}, entry {number}: the key must be lower-case letters, "
                f"digits and '_', such as github_token"
            )
        if not isinstance(value, str) or not _VALUE.match(value):
            raise ConfigError(
                f"tokens.secrets_file {file}, {key}: must be a string of 1 to 4096 visible ASCII "
                f"characters"
            )
    return found


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Twice
    return dict(pairs)


class Vault:
    """The secrets in memory."""

    def __init__(self, needed: Iterable[str]) -> None:
        """Hold none yet.

        Args:
            needed: the names that the policy grants, ``GITHUB_TOKEN``.
        """
        self._needed = frozenset(needed)
        self._secrets: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        """Show nothing that is in it."""
        return f"<Vault: {'open' if self._secrets is None else 'filled'}>"

    @property
    def filled(self) -> bool:
        """Whether there is something in it."""
        return self._secrets is not None

    def fill(self, file: Path, *, credential: bool = False) -> bool:
        """Take the file's secrets; what was there before stays if they can't be used.

        Returns:
            Whether they are others than before.

        Raises:
            ConfigError: see :func:`read`; or a secret is missing that the policy grants.
        """
        found = {key.upper(): value for key, value in read(file, credential=credential).items()}
        if missing := self._needed - found.keys():
            names = ", ".join(sorted(name.lower() for name in missing))
            raise ConfigError(
                f"tokens.secrets_file {file} lacks {names}, which tokens.policy grants: add it, "
                f"or change the policy"
            )
        changed = found != self._secrets
        self._secrets = found
        return changed

    def empty(self) -> None:
        """Forget them."""
        self._secrets = None

    def get(self, names: Iterable[str]) -> dict[str, str]:
        """Return the secrets of these names.

        Raises:
            InternalError: ``secrets_unavailable``.
        """
        secrets = self._secrets
        wanted = tuple(names)
        if secrets is None or any(name not in secrets for name in wanted):
            raise InternalError(
                "the host has no secrets to give at the moment; its operator finds the cause in "
                "the journal of flashpods-token-service",
                code="secrets_unavailable",
            )
        return {name: secrets[name] for name in wanted}
