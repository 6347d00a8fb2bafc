"""Progress bars on stderr, for a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flashpods.cli.session import Ui
from flashpods.cli.terminal import plain, use_colour
from flashpods.cli.units import human_bytes

if TYPE_CHECKING:
    from flashpods.client.rsync import Progress as PushProgress

__all__ = ["download_bar", "upload_bar"]

PARTS = 1000


@contextmanager
def upload_bar(ui: Ui) -> Iterator[Callable[[PushProgress], None] | None]:
    """Yield what a push tells its progress to; None where nobody looks."""
    with _bar(ui, "uploading") as update:
        if update is None:
            yield None
        else:
            yield lambda p: update(p.fraction * PARTS, PARTS, human_bytes(p.bytes))


@contextmanager
def download_bar(ui: Ui, name: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """Yield what a download tells its progress to; None where nobody looks."""
    with _bar(ui, plain(name)[:40]) as update:
        if update is None:
            yield None
        else:
            yield lambda done, total: update(done, total, human_bytes(done))


@contextmanager
def _bar(ui: Ui, what: str) -> Iterator[Callable[[float, float | None, str], None] | None]:
    if not ui.err_tty:
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal pays for it
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True, no_color=not use_colour(ui.err_tty))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[size]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(Text(what).plain, total=None, size="")
        yield lambda done, total, size: progress.update(
            task, completed=done, total=total, size=size
        )
