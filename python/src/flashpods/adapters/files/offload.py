"""Work on files off the event loop: in a thread, or in a child that may touch rsync's files."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from flashpods.adapters.files import tree_tool
from flashpods.adapters.files.trees import TooLarge
from flashpods.errors import InsufficientStorage, Unavailable

P = ParamSpec("P")
R = TypeVar("R")

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHOWN_STDERR = 300
THREADS: Final = 4
SLACK_SECONDS: Final = 5.0  # in which work that has begun stops by itself, and is not left behind
# Half a million files take seconds: asyncio's own threads are for what somebody waits to read.
_POOL: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="trees")


class Stopped(Exception):
    """The work was told to stop: its time is up or nobody waits for it any more."""


class Budget:
    """A deadline and a stop button, asked by work in a thread every now and then."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self._deadline = time.monotonic() + seconds
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make the next check raise."""
        self._stop.set()

    def check(self) -> None:
        """Return while the work may go on. Raises Stopped."""
        if self._stop.is_set() or time.monotonic() > self._deadline:
            raise Stopped


async def in_thread(
    seconds: float, function: Callable[..., R], /, *args: object, **kwargs: object
) -> R:
    """Run ``function(…, guard=…)`` in one of a few threads; a cancelled caller stops it.

    Raises:
        Unavailable: it took longer than ``seconds``, the wait for a thread included.
        OSError: the function's.
    """
    budget = Budget(seconds)
    try:
        work = partial(function, *args, guard=budget.check, **kwargs)
        async with asyncio.timeout(seconds + SLACK_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(_POOL, work)
    except (Stopped, BlockingIOError, TimeoutError) as e:
        raise Unavailable("work on files did not end in time; it will be tried again") from e
    finally:
        budget.stop()


async def in_namespace(seconds: float, *arguments: str) -> Any:
    """Run a verb of :mod:`tree_tool` as user 0 of our user namespace; killed when time is up.

    Returns:
        What the verb returned, as JSON shows it.

    Raises:
        TooLarge: the verb's.
        Unavailable: it took longer than ``seconds``.
        OSError: the verb's; ``EPERM`` where the namespace can't be made.
    """
    child = await asyncio.create_subprocess_exec(
        *tree_tool.command(*arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={"PATH": os.environ.get("PATH", os.defpath)},  # newuidmap; nothing else of ours
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await child.communicate()
    except TimeoutError:
        raise Unavailable("work on files did not end in time; it will be tried again") from None
    finally:
        if child.returncode is None:
            child.kill()  # unshare has become the tool by exec: there is no other process
            await child.wait()
    try:
        answer = json.loads(out)
    except ValueError:
        said = err.decode(errors="replace").strip()[-_SHOWN_STDERR:]
        raise PermissionError(
            errno.EPERM, f"no user namespace for flashpods' subordinate ids: {said!r}"
        ) from None
    match answer:
        case {"error": "too_large"}:
            raise TooLarge
        case {"error": "os", "errno": int(code), "message": message}:
            if code == errno.EWOULDBLOCK:
                raise Unavailable("the tree is still being worked on; try again")
            raise OSError(code, message)
        case _:
            return answer["ok"]


async def discard_tree(seconds: float, parent: Path, name: str) -> None:
    """Delete ``parent/name`` whoever owns what is in it; absent is fine.

    Raises:
        Unavailable: it took longer than ``seconds``; what is left is out of sight.
        OSError: it can't be deleted.
    """
    await _discard("discard", tree_tool.discard, seconds, parent, name)


async def discard_idle_tree(seconds: float, parent: Path, name: str) -> bool:
    """Do so unless somebody is at work on the tree; return whether it is gone.

    Raises:
        Unavailable, OSError: as :func:`discard_tree`.
    """
    return bool(await _discard("discard_idle", tree_tool.discard_idle, seconds, parent, name))


async def _discard(
    verb: str, function: Callable[..., object], seconds: float, parent: Path, name: str
) -> Any:
    if ours(parent):
        try:
            return await in_thread(seconds, function, str(parent), name)
        except PermissionError:  # a file of a subordinate id within
            if os.geteuid() == 0:
                raise  # a namespace gives root nothing that it lacks
    return await in_namespace(seconds, verb, str(parent), name)


def ours(path: Path) -> bool:
    """Whether we own the path itself, or it is not there."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return True


def storage(error: OSError, what: str) -> OSError | InsufficientStorage:
    """Return the error to raise: a full disk is the caller's business, others stay as they are."""
    if error.errno in DISK_FULL:
        return InsufficientStorage(f"no space left for {what}; free some on the host")
    return error
