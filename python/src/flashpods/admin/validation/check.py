"""What a check is: data and a function; how a set of them is run, each in its own time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from flashpods.client.errors import ClientError
from flashpods.config_base import ConfigError
from flashpods.errors import FlashpodsError
from flashpods.ports import ContainerError, ImageError

if TYPE_CHECKING:
    from flashpods.admin.validation.host import Host

__all__ = ["Check", "Failed", "Outcome", "run_checks"]

Status = Literal["passed", "failed", "blocked"]
FORESEEN: Final = (
    FlashpodsError,
    ClientError,
    ConfigError,
    ContainerError,
    ImageError,
    OSError,
)


class Failed(Exception):
    """The host does not do what the check asks; says what was found, and what to do."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        """Keep both.

        Args:
            reason: what was found, one sentence. Never a secret.
            remedy: what to do about it; the check's own when empty.
        """
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question to the host."""

    name: str  # for --only and --json
    title: str
    run: Callable[[Host], Awaitable[str]]
    """Returns what it saw, for a person; raises Failed."""
    remedy: str
    seconds: float = 30  # more than that is a failure, too
    needs: tuple[str, ...] = ()  # without these it can't be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a check; ``blocked``: what it needs has failed, so it was not run."""

    check: Check
    status: Status
    said: str  # what was seen, or why it failed
    remedy: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the host does what was asked."""
        return self.status == "passed"


async def run_checks(
    host: Host, checks: Sequence[Check], tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run the checks in their order and return what came of each.

    Args:
        host: what they ask.
        checks: those to run; a need that is not among them counts as met.
        tell: gets each outcome as it comes.
    """
    done: dict[str, Outcome] = {}
    for check in checks:
        unmet = [name for name in check.needs if name in done and not done[name].passed]
        if unmet:
            outcome = Outcome(
                check=check, status="blocked", said=f"not run: it needs {', '.join(unmet)}"
            )
        else:
            outcome = await _run(host, check)
        done[check.name] = outcome
        tell(outcome)
    return list(done.values())


async def _run(host: Host, check: Check) -> Outcome:
    began = time.monotonic()
    status: Status = "failed"
    remedy = check.remedy
    try:
        async with asyncio.timeout(check.seconds):
            said = await check.run(host)
        status, remedy = "passed", ""
    except Failed as e:
        said, remedy = e.reason, e.remedy or check.remedy
    except TimeoutError:
        said = f"no result within {check.seconds:g} s"
    except FORESEEN as e:
        said = str(e) or type(e).__name__
    except Exception as e:  # noqa: BLE001 - a defect of one check stops no other
        said = f"the check itself broke: {type(e).__name__}: {e}"
        remedy = "report it, with this line"
    seconds = time.monotonic() - began
    return Outcome(check=check, status=status, said=said, remedy=remedy, seconds=seconds)
