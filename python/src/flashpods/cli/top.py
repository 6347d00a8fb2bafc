"""``flashpods top``: jobs, capacity and the log of a chosen job, live.

What was seen last stays in view while the host is away, with how long ago that was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Final

from rich.live import Live

from flashpods.cli.session import Ui
from flashpods.cli.top_view import Picture, render
from flashpods.cli.watch import passes_by_itself
from flashpods.client.client import FlashpodsClient
from flashpods.client.errors import ClientError

__all__ = ["show_top", "terminal_keys"]

MOST_JOBS = 100
LOG_LINES = 500
REFRESH_SECONDS = 0.25
# Who types fast has several keys read at once. An arrow is one key: CSI or SS3 (ECMA-48 5.4).
_KEY: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)


async def show_top(client: FlashpodsClient, ui: Ui, interval: float, count: int | None) -> int:
    """Show it until q, ctrl-C or ``count`` pictures."""
    view = _View(client, interval, count)
    if ui.as_json or not ui.out_tty:
        await view.print_pictures(ui)
        return 0
    console = ui.console()
    ui.tells_retries = False  # the picture says that the host is away
    tasks: list[asyncio.Task[None]] = []
    with (
        terminal_keys(view.key, view.over.set),
        Live(console=console, auto_refresh=False, screen=True) as live,
    ):
        try:
            tasks += [asyncio.create_task(w) for w in (view.look_again(), view.follow_chosen())]
            while not view.over.is_set() and not any(task.done() for task in tasks):
                live.update(render(view.picture, console.size), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_SECONDS):
                        await view.changed.wait()
                view.changed.clear()
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):  # a refusal that does not pass by itself
            raise result
    return 0


class _View:
    """What is shown, and the tasks that keep it true."""

    def __init__(self, client: FlashpodsClient, interval: float, count: int | None) -> None:
        self.picture = Picture(log_lines=LOG_LINES)
        self.changed = asyncio.Event()
        self.over = asyncio.Event()
        self._chosen_changed = asyncio.Event()
        self._client = client
        self._interval = interval
        self._count = count

    async def print_pictures(self, ui: Ui) -> None:
        """Print a picture each time: JSON, or tables."""
        console = ui.console()
        while not self.over.is_set():
            if await self._look():
                if ui.as_json:
                    ui.emit(self.picture.as_dict())
                else:
                    console.print(render(self.picture, console.size, log=False))
            else:
                ui.note(f"{self.picture.problem}; going on")
            if not self.over.is_set():
                await asyncio.sleep(self._interval)

    async def look_again(self) -> None:
        """Look at the host every now and then."""
        while not self.over.is_set():
            await self._look()
            self.changed.set()
            await asyncio.sleep(self._interval)

    async def _look(self) -> bool:
        """Take in how it is now; return whether the host answered."""
        try:
            capacity = await self._client.capacity()
            active = await self._client.jobs("active", MOST_JOBS)
            recent = await self._client.jobs("all", MOST_JOBS)
        except ClientError as error:
            if not passes_by_itself(error):
                raise
            self.picture.problem = str(error)
            return False
        before = self.picture.chosen
        self.picture.take(capacity, active, recent, self._client.clock_skew)
        if self.picture.chosen != before:
            self._chosen_changed.set()
        if self._count is not None:
            self._count -= 1
            if self._count <= 0:
                self.over.set()
        return True

    async def follow_chosen(self) -> None:
        """Keep the log of the chosen job, from its tail on."""
        while True:
            self._chosen_changed.clear()
            job_id = self.picture.chosen
            task = asyncio.ensure_future(self._follow(job_id))
            await self._chosen_changed.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, job_id: str | None) -> None:
        picture = self.picture
        picture.log.clear()
        picture.log_note = ""
        if job_id is None:
            return
        try:
            cursor = await self._tail(job_id)
            async with contextlib.aclosing(self._client.follow(job_id, cursor)) as pieces:
                async for text, _ in pieces:
                    picture.log.extend(text.removesuffix("\n").split("\n"))  # LF alone ends a line
                    self.changed.set()
            picture.log_note = "the log is complete"
        except ClientError as error:
            picture.log_note = str(error)
        self.changed.set()

    async def _tail(self, job_id: str) -> int:
        try:
            output = await self._client.output(job_id, LOG_LINES)
        except ClientError as error:
            if error.code != "logs_not_available":
                raise
            return 0
        self.picture.log.extend(output.output.removesuffix("\n").split("\n"))
        self.changed.set()
        return output.total_bytes

    def key(self, key: str) -> None:
        """Act on a key."""
        before = self.picture.chosen
        if key in {"q", "Q"}:
            self.over.set()
        elif key in {"k", "\x1b[A", "\x1bOA"}:
            self.picture.choose(-1)
        elif key in {"j", "\x1b[B", "\x1bOB"}:
            self.picture.choose(1)
        if self.picture.chosen != before:
            self._chosen_changed.set()
        self.changed.set()


@contextlib.contextmanager
def terminal_keys(on_key: Callable[[str], None], on_end: Callable[[], None]) -> Iterator[None]:
    """Hand over each key while the terminal gives them one by one, without showing them.

    A terminal that has gone calls ``on_end``: it would be readable for ever.
    """
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            typed = os.read(descriptor, 1024)
        except OSError:  # EIO: hung up
            typed = b""
        if not typed:
            loop.remove_reader(descriptor)
            on_end()
        for key in _KEY.findall(typed.decode("utf-8", "replace")):
            on_key(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        with contextlib.suppress(termios.error):  # hung up
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
