"""Takes up the bearer tokens when their file changes, so that a rotation needs no restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from flashpods.api.auth import Authenticator
from flashpods.config import read_tokens
from flashpods.config_base import ConfigError

LOOK_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)

_Mark = tuple[int, int, int]  # inode, time of change in ns, size


class TokenWatch:
    """Looks at the file once a second; a bad or missing one leaves the old tokens in force."""

    def __init__(self, file: Path, authenticator: Authenticator) -> None:
        """Look at nothing yet: the first look reads it, as it may have changed since the start."""
        self._file = file
        self._authenticator = authenticator
        self._mark: _Mark | None = None

    async def run(self) -> None:
        """Watch until it is cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Take the tokens if the file has changed: a few microseconds otherwise."""
        mark = _mark(self._file)
        if mark is None or mark == self._mark:
            return
        self._mark = mark
        try:
            tokens = read_tokens(self._file)
        except ConfigError as e:
            log.warning("tokens_not_taken", reason=str(e))
            return
        if self._authenticator.replace(tokens):
            log.info("tokens_taken", count=len(tokens))


def _mark(file: Path) -> _Mark | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size
