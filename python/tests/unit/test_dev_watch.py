"""What ./dev up does about parts that die."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flashpods_dev import commands


@dataclass
class Part:
    """A service that dies at once, every time, or lives."""

    name: str
    alive: bool = True
    log: Path = Path("/nonexistent")
    starts: int = field(default=0, init=False)

    def start(self, *, wait: bool) -> None:
        assert not wait
        self.starts += 1

    def tail(self) -> str:
        return "its last words"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run :func:`commands._watch` for that many seconds of a clock of ours."""

    def run(parts: dict[str, Part], seconds: int) -> int:
        now = 0.0

        def sleep(duration: float) -> None:
            nonlocal now
            now += duration
            if now >= seconds:
                raise KeyboardInterrupt

        monkeypatch.setattr(commands, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
        stack: Any = SimpleNamespace(**parts, services=tuple(parts.values()), identity=None)
        return commands._watch(stack)

    return run


def parts() -> dict[str, Part]:
    return {name: Part(name) for name in ("podman", "rsyncd", "api", "cleanup")}


def test_a_reaper_that_keeps_dying_stops_nothing(watch: Callable[..., int]) -> None:
    stack = parts()
    stack["cleanup"].alive = False
    with pytest.raises(KeyboardInterrupt):
        watch(stack, 100)
    assert 10 <= stack["cleanup"].starts <= 20  # five in each window of 30 s
    assert stack["api"].starts == 0


def test_another_part_that_keeps_dying_ends_it(watch: Callable[..., int]) -> None:
    stack = parts()
    stack["api"].alive = False
    assert watch(stack, 100) == 1
    assert stack["api"].starts == commands.GIVE_UP_DEATHS
