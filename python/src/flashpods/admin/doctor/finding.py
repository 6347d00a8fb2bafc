"""What a check of the doctor gets, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from flashpods.admin.live import Health
from flashpods.admin.units import Units
from flashpods.config import Settings

__all__ = ["GUIDE", "Check", "Finding", "Look", "Severity"]

GUIDE: Final = "docs/operations.md"


class Severity(StrEnum):
    """How bad it is."""

    CRITICAL = "critical"  # jobs fail or are refused, or data is in danger
    WARNING = "warning"  # it will be, if nobody acts
    NOTICE = "notice"  # worth knowing; the exit code does not count it


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One trouble: what is seen, why, and what ends it."""

    code: str
    severity: Severity
    symptom: str
    cause: str
    remedy: tuple[str, ...]  # commands, in their order
    anchor: str  # of the guide's section
    evidence: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {**asdict(self), "guide": f"{GUIDE}#{self.anchor}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What all checks see; taken once."""

    settings: Settings
    now: datetime
    health: Health | None  # None: the API does not answer
    units: Units | None  # None: no systemd here

    @property
    def podman_fails(self) -> bool:
        """Whether the API says so."""
        if self.health is None:
            return False
        return bool(self.health.checks.get("podman", {}).get("status") == "failing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check, by the name that the report shows. Blocks, for some seconds at most."""

    name: str
    run: Callable[[Look], list[Finding]] = field(repr=False)
