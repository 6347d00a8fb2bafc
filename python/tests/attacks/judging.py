"""After an attack the stack is judged by the checker of the fault experiments."""

from __future__ import annotations

import time

import httpx
from checker import violations
from evidence import observed
from scoring import PATIENCE
from witness import ACTIVE, Witness

from flashpods_dev.stack import MiniStack

SETTLE_SECONDS = 15.0  # contract: what recovery and cleanup owe may take so long


class Judge:
    """Looks at one stack after each attack; remembers the engine's record, which is short."""

    def __init__(self, stack: MiniStack) -> None:
        self._see = Witness(stack)
        token = stack.layout.token.read_text().strip()
        self._client = httpx.Client(
            base_url=stack.api_url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=30,
        )

    def close(self) -> None:
        self._client.close()

    def verdict(self) -> list[str]:
        """Return the invariants that are still broken after :data:`SETTLE_SECONDS`.

        A job that an attack has left behind may go on, with its container and its resources.
        """
        end = time.monotonic() + PATIENCE * SETTLE_SECONDS
        while broken := self._broken():
            if time.monotonic() > end:
                return broken
            time.sleep(0.2)
        return []

    def _broken(self) -> list[str]:
        answer = self._client.get("/capacity")
        assert answer.status_code == 200, f"GET /capacity: {answer.status_code} {answer.text}"
        host, reserved = answer.json()["host"], answer.json()["reserved"]
        active = [i for (i,) in self._see.rows(f"SELECT id FROM jobs WHERE status IN {ACTIVE}")]
        return violations(
            observed(
                self._see,
                active,
                capacity=(host["cpus"], host["memory_gb"]),
                reserved=(reserved["cpus"], reserved["memory_gb"]),
            )
        )
