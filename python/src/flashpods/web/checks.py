"""Looking at the parts of a service for its health: bounded, and shared by all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from flashpods.errors import FlashpodsError

CHECK_SECONDS: Final = 2.0
SHARED_SECONDS: Final = 1.0

Finding = dict[str, Any]
Check = Callable[[], Awaitable[Finding]]


class Checks:
    """Looks at the parts, at most once a second, for all who ask."""

    def __init__(self, parts: Mapping[str, Check], monotonic: Callable[[], float]) -> None:
        """Look at nothing yet; ``monotonic`` is a clock in seconds that never steps."""
        self._parts = parts
        self._monotonic = monotonic
        self._looked_at = 0.0
        self._look: asyncio.Task[dict[str, Finding]] | None = None

    async def look(self) -> dict[str, Finding]:
        """Return part → ``{"status": "ok" | "warning" | "failing" | "not_configured", …}``."""
        now = self._monotonic()
        if self._look is None or (self._look.done() and now - self._looked_at >= SHARED_SECONDS):
            self._looked_at = now
            self._look = asyncio.create_task(self._all())
        return await asyncio.shield(self._look)

    async def _all(self) -> dict[str, Finding]:
        found = await asyncio.gather(*(_bounded(check) for check in self._parts.values()))
        return dict(zip(self._parts, found, strict=True))


async def _bounded(check: Check) -> Finding:
    """Run a check within its time; a failure is a finding."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return {"status": "failing", "message": f"no answer within {CHECK_SECONDS:g} s"}
    except FlashpodsError as e:
        return {"status": "failing", "message": e.message}
    except OSError as e:
        return {"status": "failing", "message": e.strerror or type(e).__name__}
