"""Runs the body of a NixOS VM test against the lab's machines.

A body is Python in the NixOS test driver's dialect: ``checks/NAME.py`` after
``checks/common/prelude.py``. The nodes are variables of their names, with the verbs of
:class:`~flashpods_dev.lab.verbs.Verbs`; ``subtest`` and ``start_all`` are the driver's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from flashpods_dev.machine import StackError

__all__ = ["IN_VM", "NEEDS_VM", "names", "run"]

COMMON: Final = Path("checks", "common", "prelude.py")
# What the lab's machines can't show, because of their kernel.
NEEDS_VM: Final = ("limits", "out_of_memory")
# What ./dev vm runs: that, and what a real kernel makes stronger. Last what cuts the power.
IN_VM: Final = (*NEEDS_VM, "wireguard", "isolation_matrix", "reboot")


def names(checkout: Path) -> list[str]:
    """Return the names of all bodies."""
    return sorted(path.stem for path in (checkout / "checks").glob("*.py"))


def run(
    checkout: Path,
    name: str,
    machines: Mapping[str, Any],
    *,
    constants: Mapping[str, Any] | None = None,
    tell: Callable[[str], object] = lambda _: None,
    show: Callable[[str], object] = print,
) -> list[str]:
    """Run a body; return the names of its subtests, in their order.

    Args:
        checkout: where the bodies are.
        name: the body's.
        machines: node → machine.
        constants: what the prelude of this place says instead of its defaults.
        tell: gets a line as each subtest ends.
        show: gets what the body prints.

    Raises:
        StackError, AssertionError: a subtest failed; a note names it.
    """
    done: list[str] = []

    @contextmanager
    def subtest(title: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except BaseException as e:
            e.add_note(f"in the subtest {title!r} of checks/{name}.py")
            raise
        done.append(title)
        tell(f"{name}: {title} ({time.monotonic() - began:.1f} s)")

    space: dict[str, Any] = {
        "__name__": f"checks_{name}",
        "subtest": subtest,
        "start_all": lambda: [machine.start() for machine in machines.values()],
        "print": show,
        **machines,
    }
    _execute([checkout / COMMON], space)
    space.update(constants or {})
    _execute([checkout / "checks" / f"{name}.py"], space)
    if not done:
        raise StackError(f"checks/{name}.py has no subtest")
    return done


def _execute(files: Sequence[Path], space: dict[str, Any]) -> None:
    for file in files:
        exec(compile(file.read_text(), str(file), "exec"), space)
