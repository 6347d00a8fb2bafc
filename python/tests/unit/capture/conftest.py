"""Stand-ins for conmon that are closed at the end of their test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capture_rig import Engine


@pytest.fixture
def engines() -> Iterator[Callable[[Path, int], Engine]]:
    made: list[Engine] = []

    def make(raw: Path, most: int) -> Engine:
        made.append(Engine(raw, most))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
